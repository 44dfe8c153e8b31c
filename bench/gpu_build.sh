#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds what bench/gpu.sh runs, into build-gpu/bin: needs nvcc and doctest, but no GPU, so that a machine with a card only
# runs it. What is newer than its sources stays.
#   bench/gpu_build.sh [ARCH [NAME...]]     ARCH: as nvcc names it (sm_90); native, the default, is this machine's card
set -uo pipefail
cd "$(dirname "$0")/.."
arch=${1:-native}
[ $# -gt 0 ] && shift
bin=build-gpu/bin work=build-gpu/work
mkdir -p $bin $work || exit 1
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
cuda=$(dirname "$(dirname "$(readlink -f "$(command -v "$nvcc")")")")
flags=(-std=c++20 -lineinfo -Iinclude)
# Tests: the kernels as the emulator sees them, those of compute capability 8.0.
case $arch in
  native) as_80=(-arch=native) ;;
  *) as_80=(-gencode "arch=compute_80,code=$arch") ;;
esac
test_flags=("${as_80[@]}" "${flags[@]}" -O1 -Itests -Itests/cuda)
bench_flags=(-arch="$arch" "${flags[@]}" -O3)
libraries=(-L"$cuda/lib64" -L"$cuda/lib" -Xlinker -rpath="$cuda/lib64")
blas=() nccl=()
[ -f "$cuda/include/cublas_v2.h" ] && blas=(-lcublas)
[ -f "$cuda/include/nccl.h" ] && nccl=(-lnccl)

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
  local name=$1 objects=() precision=${1##*_}
  local main=(main tests/main.cpp "${test_flags[@]}") of=(-DRINGATTN_TEST_PRECISION="$precision")
  case $name in
    primitives | tile) object "$name" tests/cuda/"$name".cu "${test_flags[@]}" ;;
    cuda_peer) object "$name" tests/cuda/cuda_peer.cpp "${test_flags[@]}" && object "${main[@]}" ;;
    large_tiles) object "$name" tests/cuda/"$name".cu "${test_flags[@]}" -DRINGATTN_TEST_MORE && object "${main[@]}" ;;
    ring_plain | atomics) object "$name" tests/cuda/"$name".cu "${test_flags[@]}" && object "${main[@]}" ;;
    forward_* | backward_*) object "$name" tests/cuda/"${name%_*}".cu "${test_flags[@]}" "${of[@]}" ;;
    covering_*)
      object "$name" tests/cuda/covering.cu "${test_flags[@]}" "${of[@]}" -DROW_LIST='"covering_short.txt"' && object "${main[@]}"
      ;;
    gpu_attention) object "$name" bench/gpu_attention.cu "${bench_flags[@]}" ;;
    tune_*)  # tune_PRECISION_HEADDIM_TILES
      IFS=_ read -r _ precision dim tiles <<<"$name"
      object "$name" bench/tune_cuda_case.cu "${bench_flags[@]}" -DBENCH_PRECISION="$precision" -DBENCH_HEAD_DIM="$dim" -DBENCH_TILES="$tiles" &&
        object tune bench/tune_cuda.cpp "${bench_flags[@]}"
      ;;
    *) echo "unknown program: $name" >&2 && return 2 ;;
  esac && { [ -z "$(find "${objects[@]}" -newer $bin/"$name" 2>&1)" ] || "$nvcc" -arch="$arch" "${objects[@]}" "${libraries[@]}" "${blas[@]}" "${nccl[@]}" -o $bin/"$name"; }
}

all='primitives tile cuda_peer ring_plain atomics large_tiles gpu_attention forward_Bf16 backward_Bf16 covering_Bf16 forward_Fp32 backward_Fp32
  covering_Fp32 tune_Bf16_128_7'
status=0 running=0
for name in ${*:-$all}; do
  ((running++ < $(nproc))) || wait -n || status=1
  { build "$name" >$work/"$name".txt 2>&1 || { echo "$name does not build:" && tail -15 $work/"$name".txt && exit 1; }; } &
done
while :; do
  wait -n
  case $? in 0) ;; 127) exit $status ;; *) status=1 ;; esac
done
