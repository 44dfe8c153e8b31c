// SPDX-License-Identifier: Apache-2.0
// Accesses whose cost is known, a launch each; counts_check.py compares what the emulator counts.
#include "check.cuh"

/// One warp stores T at every `stride`th word of shared memory; lanes from `lanes` on do not.
template <class T, int stride, int lanes> __global__ void store() {
  extern __shared__ __align__(16) unsigned char shared[];
  if (threadIdx.x < lanes) *reinterpret_cast<T volatile*>(shared + threadIdx.x * stride * 4) = T(threadIdx.x);
}
__global__ void add(float* x, int stride) { atomicAdd(x + threadIdx.x * stride, 1.f); }
__global__ void matrices(unsigned* out, int pitch) {
  __shared__ __align__(16) unsigned char tile[32 * 64 + 32 * 16];
  for (int i = int(threadIdx.x); i < int(sizeof tile) / 4; i += 32) reinterpret_cast<unsigned*>(tile)[i] = 0;
  __syncwarp();
  unsigned const at = unsigned(__cvta_generic_to_shared(tile + threadIdx.x * unsigned(pitch)));
  unsigned a, b, c, d;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(at));
  out[threadIdx.x] = a + b + c + d;
}

int main() {
  store<int, 1, 32><<<1, 32, 4096>>>();
  store<int, 2, 32><<<1, 32, 4096>>>();
  store<int, 32, 32><<<1, 32, 4096>>>();
  store<int, 32, 5><<<1, 32, 4096>>>();
  store<long long, 2, 32><<<1, 32, 4096>>>();
  store<long long, 4, 32><<<1, 32, 4096>>>();
  float* const x = device_array<float>(32 * 8);
  CHECK_CUDA(cudaMemset(x, 0, 32 * 8 * sizeof(float)));
  add<<<1, 32>>>(x, 1);
  add<<<1, 32>>>(x, 8);
  unsigned* const out = device_array<unsigned>(32);
  matrices<<<1, 32>>>(out, 16);
  matrices<<<1, 32>>>(out, 64);
  CHECK_CUDA(cudaDeviceSynchronize());
  return 0;
}
