#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a machine with an NVIDIA GPU: the tests that otherwise run emulated, compute-sanitizer, then the benchmark beside
# PyTorch's SDPA where it is installed. Downloads nothing; takes less than 10 minutes on 8 cores.
#   bench/gpu.sh [OUT.json]
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-build-gpu/gpu.json} build=build-gpu start=$SECONDS steps=()
command -v nvidia-smi >/dev/null || { echo 'no nvidia-smi: no GPU here' >&2; exit 1; }
card=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
cuda=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
echo "== $card, driver $driver, $("$nvcc" --version | grep -o 'V[0-9.]*')"
mkdir -p "$build" && : >"$build/lines.json"

# step NAME SECONDS COMMAND...: runs it, at most so long, and notes how it ended.
step() {
  local name=$1 limit=$2 begin=$SECONDS status
  shift 2
  echo "== $name"
  timeout "$limit" "$@" >"$build/log.txt" 2>&1
  status=$?
  tail -3 "$build/log.txt"
  steps+=("{\"step\": \"$name\", \"status\": $status, \"seconds\": $((SECONDS - begin))}")
  return $status
}

tests='cuda_cuda_peer cuda_ring_plain cuda_tile cuda_forward_Bf16 cuda_backward_Bf16 cuda_forward_Fp32 cuda_backward_Fp32
  cuda_covering_short_Bf16 cuda_covering_short_Fp32 cuda_primitives'
[ -f "$build/tests/build.ninja" ] || meson setup "$build/tests" -Dexamples=false -Dbench=false -Dmpi=disabled >/dev/null
targets=()
for t in $tests; do targets+=("tests/cuda/$t"); done
step build 420 ninja -C "$build/tests" "${targets[@]}"
# The same programs, with the real runtime before the emulated one.
export LD_LIBRARY_PATH=$cuda/lib64:$cuda/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} RINGATTN_TEST_TIMEOUT=0
for t in $tests; do step "$t" 120 "$build/tests/tests/cuda/$t"; done
"$build/tests/tests/cuda/cuda_primitives" >"$build/primitives.txt" 2>/dev/null  # what a golden file is made of
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    step "$tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/tests/cuda/cuda_forward_Bf16" inputs
  done
else
  steps+=('{"step": "compute-sanitizer", "status": "not found"}')
fi

flags=(-std=c++20 -O3 -Iinclude -arch=native)
[ -f "$cuda/include/cublas_v2.h" ] && flags+=(-lcublas)
if step 'build benchmark' 300 "$nvcc" "${flags[@]}" bench/gpu_attention.cu -o "$build/gpu_attention"; then
  timeout 200 "$build/gpu_attention" | tee "$build/lines.json"
fi
python3 bench/gpu_sdpa.py 2>"$build/torch.txt" | tee -a "$build/lines.json"
cat "$build/torch.txt"

python3 - "$out" "$card" "$driver" $((SECONDS - start)) "$build" "${steps[@]}" <<'PYTHON'
import json, pathlib, sys
out, card, driver, seconds, build, *steps = sys.argv[1:]
lines = [json.loads(line) for line in pathlib.Path(build, "lines.json").read_text().splitlines() if line.startswith("{")]
result = {"card": card, "driver": driver, "seconds": int(seconds), "steps": [json.loads(s) for s in steps], "measured": lines}
pathlib.Path(out).write_text(json.dumps(result, indent=1))
print(f"{out}: {len(lines)} figures, {sum(s['status'] != 0 for s in result['steps'])} steps that did not end well, {seconds} s")
PYTHON
