#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a machine with an NVIDIA GPU: the tests that otherwise run emulated, compute-sanitizer, then the benchmark beside
# PyTorch's SDPA where it is installed, and a short run of the tuner. Downloads nothing; ends within 10 minutes: what there
# is no time for is noted as such. 0 if every step that ran ended well.
#   bench/gpu.sh [OUT.json]
set -uo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../build-gpu/gpu.json}")
cd "$(dirname "$0")/.."
build=build-gpu start=$SECONDS steps=()
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
command -v nvidia-smi >/dev/null && nvidia-smi -L | grep -q GPU || { echo 'nvidia-smi shows no GPU here' >&2; exit 1; }
for tool in "$nvcc" meson ninja python3 g++; do
  command -v "$tool" >/dev/null || { echo "$tool not found" >&2; exit 1; }
done
query() { nvidia-smi --query-gpu="$1" --format=csv,noheader | head -1; }
card=$(query name) driver=$(query driver_version)
cuda=$(dirname "$(dirname "$(readlink -f "$(command -v "$nvcc")")")")
echo "== $card, driver $driver, nvcc $("$nvcc" --version | grep -o 'V[0-9.]*')"
rm -rf "$build/logs"
mkdir -p "$build/logs" && : >"$build/lines.json" || exit 1

note() { steps+=("{\"step\": \"$1\", \"status\": $2, \"seconds\": $3}"); }
# step NAME UNTIL COMMAND...: runs it, at most until so many seconds after the start, and notes how it ended.
step() {
  local name=$1 left=$(($2 - SECONDS + start)) begin=$SECONDS status log
  shift 2
  log="$build/logs/${name// /_}.txt"
  if ((left < 5)); then echo "== $name: no time left" && note "$name" '"no time left"' 0 && return 1; fi
  echo "== $name"
  timeout --kill-after=5 "$left" "$@" >"$log" 2>&1
  status=$?
  if ((status == 0)); then tail -2 "$log"; else
    tail -25 "$log"
    echo "== $name FAILED: status $status$( ((status == 124 || status == 137)) && echo ', out of time'), $log"
  fi
  note "$name" "$status" $((SECONDS - begin))
  return $status
}

# The benchmark compiles beside the tests.
flags=(-std=c++20 -O3 -Iinclude -arch=native -L"$cuda/lib64" -L"$cuda/lib")
[ -f "$cuda/include/cublas_v2.h" ] && flags+=(-lcublas) || echo 'no cuBLAS: figures are not set against a matrix product'
compile() {
  "$nvcc" "${flags[@]}" bench/gpu_attention.cu -o "$build/gpu_attention" &&
    "$nvcc" "${flags[@]}" -DBENCH_PRECISION=Bf16 -DBENCH_HEAD_DIM=64 -DBENCH_TILES=3 bench/tune_cuda_case.cu bench/tune_cuda.cpp -o "$build/tune_cuda"
}
rm -f "$build/gpu_attention" "$build/tune_cuda"
compile >"$build/logs/compile.txt" 2>&1 &
compiler=$!

tests='cuda_cuda_peer cuda_ring_plain cuda_tile cuda_primitives cuda_atomics cuda_forward_Bf16 cuda_backward_Bf16
  cuda_covering_short_Bf16 cuda_forward_Fp32 cuda_backward_Fp32 cuda_covering_short_Fp32'
targets=()
for t in $tests; do targets+=("tests/cuda/$t"); done
[ -f "$build/tests/build.ninja" ] || step configure 60 meson setup "$build/tests" -Dexamples=false -Dbench=false -Dmpi=disabled
step build 300 ninja -k 0 -C "$build/tests" "${targets[@]}"
# The same programs, with the real runtime before the emulated one.
export LD_LIBRARY_PATH=$cuda/lib64:$cuda/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} RINGATTN_TEST_TIMEOUT=0
for t in $tests; do
  program=$build/tests/tests/cuda/$t
  if ldd "$program" 2>/dev/null | grep -q "$build/tests/tests/emulator"; then
    echo "== $t: would load an emulated library" && note "$t" '"emulated library"' 0
    continue
  fi
  step "$t" 380 "$program"
done
# What a golden file is made of.
[ -s "$build/logs/cuda_primitives.txt" ] && cp "$build/logs/cuda_primitives.txt" "$build/primitives.txt"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    step "$tool" 420 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/tests/cuda/cuda_forward_Bf16" inputs
  done
else
  echo 'compute-sanitizer not found: skipped' && note compute-sanitizer '"not found"' 0
fi

step 'wait for the benchmark' 430 tail --pid="$compiler" -f /dev/null
kill "$compiler" 2>/dev/null
[ -x "$build/gpu_attention" ] && [ -x "$build/tune_cuda" ] || { tail -25 "$build/logs/compile.txt"; note compile 1 0; }
[ -x "$build/gpu_attention" ] && step benchmark 510 "$build/gpu_attention"
if python3 -c 'import torch' 2>/dev/null; then
  step 'torch sdpa' 570 python3 bench/gpu_sdpa.py
else
  echo 'PyTorch not found: no figures of its SDPA' && note 'torch sdpa' '"not found"' 0
fi
[ -x "$build/tune_cuda" ] && step tune 595 "$build/tune_cuda" --seq 4096 --mask causal --repetitions 3 --out "$build/tuned_tiles.hpp"
for log in benchmark torch_sdpa; do
  [ -f "$build/logs/$log.txt" ] && grep '^{' "$build/logs/$log.txt" >>"$build/lines.json"
done

mkdir -p "$(dirname "$out")"
python3 - "$out" "$card" "$driver" $((SECONDS - start)) "$build" "${steps[@]}" <<'PYTHON'
import json, pathlib, sys
out, card, driver, seconds, build, *steps = sys.argv[1:]
lines = []
for line in pathlib.Path(build, "lines.json").read_text().splitlines():
    try:
        lines.append(json.loads(line))
    except ValueError:
        print("not a line of JSON:", line)  # cut off
steps = [json.loads(s) for s in steps]
pathlib.Path(out).write_text(json.dumps({"card": card, "driver": driver, "seconds": int(seconds), "steps": steps, "measured": lines}, indent=1))
bad = [s["step"] for s in steps if s["status"] not in (0, "not found")]
print(f"{out}: {len(lines)} figures, {len(bad)} steps that did not end well{': ' if bad else ''}{', '.join(bad)}; {seconds} s")
sys.exit(bool(bad))
PYTHON
