#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds what bench/gpu.sh runs, into build-gpu/bin: needs nvcc and doctest, but no GPU, so that a machine with a card only
# runs it. What is newer than its sources stays.
#   bench/gpu_build.sh [ARCH [NAME...]]     ARCH: as nvcc names it (sm_90); native, the default, is this machine's card
#   bench/gpu_build.sh --list               prints the names
# Tests are compiled for compute capability 8.0, as the emulator takes them; NAME_native for the card itself, as users
# compile them: code for 9.0 has instructions of its own.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
all='primitives tile cuda_peer ring_plain atomics large_tiles gpu_attention forward_Bf16 backward_Bf16 covering_Bf16 forward_Fp32 backward_Fp32
  covering_Fp32 primitives_native atomics_native backward_Bf16_native tune_Bf16_128_7'
arch=${1:-native}
[ $# -gt 0 ] && shift
if [ "$arch" = native ] && card=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1) && [[ $card == *.* ]]; then
  arch=sm_${card/./}
fi
bin=build-gpu/bin work=build-gpu/work
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
cuda=$(dirname "$(dirname "$(readlink -f "$(command -v "$nvcc")")")")
flags=(-std=c++20 -lineinfo -Iinclude)
case $arch in
  native) as_80=(-arch=native) ;;
  *) as_80=(-gencode "arch=compute_80,code=$arch") ;;
esac
test_flags=("${flags[@]}" -O1 -Itests -Itests/cuda)
bench_flags=(-arch="$arch" "${flags[@]}" -O3)
# As needed: a program that finds no library at its start ends with status 127.
libraries=(-L"$cuda/lib64" -L"$cuda/lib" -Xlinker -rpath="$cuda/lib64" -Xlinker --as-needed)
blas=() nccl=()
[ -f "$cuda/include/cublas_v2.h" ] && blas=(-lcublas)
[ -f "$cuda/include/nccl.h" ] && nccl=(-lnccl) && all+=' nccl'
# shellcheck disable=SC2086
[ "$arch" != --list ] || { echo $all && exit; }
mkdir -p $bin $work || exit 1

# object NAME SOURCE FLAG...: compiles, if something that the source includes is newer, and adds to `objects`.
object() {
  local o=$work/$1.o source=$2
  shift 2
  objects+=("$o")
  # shellcheck disable=SC2046
  if [ -f "$o" ] && [ -f "$o.d" ] && [ -z "$(find $(tr -d '\\' <"$o.d" | sed 's/^.*://' | tr ' ' '\n' | grep -v '^/usr\|^$') -newer "$o" -print -quit 2>&1)" ]; then
    return 0
  fi
  "$nvcc" "$@" -MD -MF "$o.d" -c "$source" -o "$o.$BASHPID" && mv "$o.$BASHPID" "$o"
}
build() {
  local name=$1 test=${1%_native} objects=() test_flags=("${test_flags[@]}")
  local main=(main tests/main.cpp "${as_80[@]}" "${test_flags[@]}") of=(-DRINGATTN_TEST_PRECISION="${test##*_}")
  if [ "$test" = "$name" ]; then test_flags+=("${as_80[@]}"); else test_flags+=(-arch="$arch"); fi
  case $test in
    primitives | tile) object "$name" tests/cuda/"$test".cu "${test_flags[@]}" ;;
    cuda_peer | nccl) object "$name" tests/cuda/"$test".cpp "${test_flags[@]}" && object "${main[@]}" ;;
    large_tiles) object "$name" tests/cuda/"$test".cu "${test_flags[@]}" -DRINGATTN_TEST_MORE && object "${main[@]}" ;;
    ring_plain | atomics) object "$name" tests/cuda/"$test".cu "${test_flags[@]}" && object "${main[@]}" ;;
    forward_* | backward_*) object "$name" tests/cuda/"${test%_*}".cu "${test_flags[@]}" "${of[@]}" ;;
    covering_*)
      object "$name" tests/cuda/covering.cu "${test_flags[@]}" "${of[@]}" -DROW_LIST='"covering_short.txt"' && object "${main[@]}"
      ;;
    gpu_attention) object "$name" bench/gpu_attention.cu "${bench_flags[@]}" ;;
    tune_*)  # tune_PRECISION_HEADDIM_TILES
      local precision dim tiles
      IFS=_ read -r _ precision dim tiles <<<"$name"
      object "$name" bench/tune_cuda_case.cu "${bench_flags[@]}" -DBENCH_PRECISION="$precision" -DBENCH_HEAD_DIM="$dim" -DBENCH_TILES="$tiles" &&
        object tune bench/tune_cuda.cpp "${bench_flags[@]}"
      ;;
    *) echo "unknown program: $name" >&2 && return 2 ;;
  esac && { [ -z "$(find "${objects[@]}" -newer $bin/"$name" 2>&1)" ] || "$nvcc" -arch="$arch" "${objects[@]}" "${libraries[@]}" "${blas[@]}" "${nccl[@]}" -o $bin/"$name"; }
}

status=0 running=0
for name in ${*:-$all}; do
  ((running++ < $(nproc))) || wait -n || status=1
  { build "$name" >$work/"$name".txt 2>&1 || { echo "$name does not build:" && tail -15 $work/"$name".txt && exit 1; }; } &
done
while :; do
  wait -n
  case $? in 0) ;; 127) exit $status ;; *) status=1 ;; esac
done
