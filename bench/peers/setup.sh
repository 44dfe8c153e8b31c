#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes two virtual environments with the peers from PyPI: DIR/torch and DIR/jax (about 6 GB with torch's CUDA parts).
#   bench/peers/setup.sh [DIR]      default: build/peers
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/../../build/peers}
mkdir -p "$dir"

[ -d "$dir/torch" ] || python3 -m venv "$dir/torch"
"$dir/torch/bin/pip" install --quiet numpy torch ring-attention-pytorch==0.5.20

[ -d "$dir/jax" ] || python3 -m venv "$dir/jax"
# The paper's code, last released in 2024, wants a JAX of its time (jax.lib.xla_bridge).
"$dir/jax/bin/pip" install --quiet numpy jax==0.4.35 jaxlib==0.4.35 flax==0.10.2 ringattention==0.1.2

"$dir/torch/bin/pip" list 2>/dev/null | grep -iE '^(torch|ring-attention-pytorch|numpy) '
"$dir/jax/bin/pip" list 2>/dev/null | grep -iE '^(jax|jaxlib|ringattention) '
