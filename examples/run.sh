#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds the examples and trains a byte-level decoder on long windows of real text.
#   examples/run.sh [--no-install] [ARGUMENT of train_long_context]...
# Everything it writes, the plots too, lies under build/examples/out.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup.sh

if [ "${1:-}" = --no-install ]; then
  shift
else
  need_packages "${basic_packages[@]}"
fi

[ -f build/build.ninja ] || meson setup build
ninja -C build examples/train_long_context
mkdir -p build/examples/out
cd build/examples/out
status=0
../train_long_context "$@" || status=$?

plots=(*.svg)
if [ -e "${plots[0]}" ]; then
  say "plots:"
  printf '   %s\n' "${plots[@]/#/build/examples/out/}"
fi
exit "$status"
