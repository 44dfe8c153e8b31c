// SPDX-License-Identifier: Apache-2.0
// Small programs with known answers: what threads, warps and blocks do. The runtime's calls are in streams.cu.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <string>

#include "check.cuh"

namespace {

// ---------------------------------------------------------------- launches, parameters, symbols
struct Big {
  float* out;
  int n;
  double scale;
  short odd[5];
};
__constant__ float table[4] = {1, 2, 3, 4};
__device__ int counter = 5;

__global__ void parameters(const __grid_constant__ Big big, char c, float3 v) {
  int const i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < big.n)
    big.out[i] = static_cast<float>(big.scale) * static_cast<float>(i) + big.odd[i % 5] + table[i & 3] + c + v.z;
  atomicAdd(&counter, 1);
}
void test_parameters() {
  int const n = 200;
  Big big{device_array<float>(n), n, 0.5, {1, 2, 3, 4, 5}};
  parameters<<<dim3(4), dim3(64)>>>(big, 7, make_float3(0, 0, 100));
  auto const out = host_copy(big.out, n);
  for (int i = 0; i < n; ++i) EXPECT(out[i] == 0.5f * i + (i % 5 + 1) + (i % 4 + 1) + 7 + 100);
  int count = 0;
  CHECK_CUDA(cudaMemcpyFromSymbol(&count, counter, sizeof count));
  EXPECT(count == 5 + 256);
  float const other[4] = {10, 20, 30, 40};
  CHECK_CUDA(cudaMemcpyToSymbol(table, other, sizeof other));
  parameters<<<4, 64>>>(big, 0, make_float3(0, 0, 0));
  EXPECT(host_copy(big.out, n)[1] == 0.5f + 2 + 20);
}

__global__ void dimensions(int* out) {
  int const block = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  int const thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  out[block * static_cast<int>(blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}
void test_dimensions() {
  int* const out = device_array<int>(24 * 30);
  dimensions<<<dim3(2, 3, 4), dim3(5, 3, 2)>>>(out);
  auto const got = host_copy(out, 24 * 30);
  for (int i = 0; i < 24 * 30; ++i) EXPECT(got[i] == i / 30 * 1000 + i % 30);
}

// ---------------------------------------------------------------- control flow
__noinline__ __device__ float helper(float x, int n) { return n > 3 ? x * static_cast<float>(n) : sqrtf(x); }
__noinline__ __device__ int twice(int n) { return 2 * n; }

__global__ void control(float* out, int kind) {
  int const t = static_cast<int>(threadIdx.x);
  float local[8];
  for (int j = 0; j < 8; ++j) local[(j * kind) & 7] = static_cast<float>(j * t);
  float v = local[(t * kind) & 7];
  for (int j = 0; j < t; ++j) {  // lanes leave one by one
    if (j == 20) break;
    v += j & 1 ? 1.0f : 2.0f;
  }
  switch (t % 7) {
    case 0:
      v += 1;
      break;
    case 1:
      v *= 2;
      break;
    case 2:
      v -= 3;
      break;
    case 3:
      v = helper(v, t % 7);
      break;
    case 4:
      v += static_cast<float>(twice(t));
      break;
    case 5:
      v = helper(v, t);
      break;
    default:
      break;
  }
  out[t] = v;
}
void test_control() {
  float* const out = device_array<float>(64);
  control<<<1, 64>>>(out, 3);
  auto const got = host_copy(out, 64);
  for (int t = 0; t < 64; ++t) {
    float local[8];
    for (int j = 0; j < 8; ++j) local[(j * 3) & 7] = static_cast<float>(j * t);
    float v = local[(t * 3) & 7];
    for (int j = 0; j < t && j < 20; ++j) v += j & 1 ? 1.0f : 2.0f;
    switch (t % 7) {
      case 0:
        v += 1;
        break;
      case 1:
        v *= 2;
        break;
      case 2:
        v -= 3;
        break;
      case 3:
        v = std::sqrt(v);
        break;
      case 4:
        v += 2 * t;
        break;
      case 5:
        v = t > 3 ? v * t : std::sqrt(v);
        break;
      default:
        break;
    }
    EXPECT(got[t] == v);
  }
}

__global__ void spin(int* out) {  // lanes of one warp wait for each other: independent thread scheduling
  __shared__ int lock;
  if (threadIdx.x == 0) lock = 0;
  __syncthreads();
  for (bool done = false; !done;) {
    if (atomicCAS(&lock, 0, 1) == 0) {
      *out += 1;
      __threadfence();
      atomicExch(&lock, 0);
      done = true;
    }
  }
}
void test_spin() {
  int* const out = device_copy(std::vector<int>{0});
  spin<<<1, 64>>>(out);
  EXPECT(host_copy(out, 1)[0] == 64);
}

// ---------------------------------------------------------------- warps and blocks
__global__ void warp(int* out) {
  int const lane = static_cast<int>(threadIdx.x);
  int sum = lane;
  for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
  out[lane] = sum;
  out[32 + lane] = __shfl_up_sync(~0u, lane, 3);
  out[64 + lane] = __shfl_down_sync(~0u, lane, 3, 8);
  out[96 + lane] = __shfl_sync(~0u, lane, 5, 8);
  out[128 + lane] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
  out[160 + lane] = __all_sync(~0u, lane < 32) + 2 * __any_sync(~0u, lane == 31) + 4 * __all_sync(~0u, lane < 31);
  out[192 + lane] = static_cast<int>(__match_any_sync(~0u, lane / 8));
  out[224 + lane] = static_cast<int>(__reduce_add_sync(~0u, static_cast<unsigned>(lane)));
  int part = 0;
  if (lane < 16) {
    part = __shfl_xor_sync(0xffffu, lane, 1);
  } else {
    part = __shfl_xor_sync(0xffff0000u, lane, 2);
  }
  out[256 + lane] = part;
  unsigned const half = lane < 16 ? 0xffffu : 0xffff0000u;
  out[288 + lane] = static_cast<int>(__ballot_sync(half, lane & 1));  // two masks at one place
}
void test_warp() {
  int* const out = device_array<int>(320);
  warp<<<1, 32>>>(out);
  auto const got = host_copy(out, 320);
  for (int l = 0; l < 32; ++l) {
    EXPECT(got[l] == 496);
    EXPECT(got[32 + l] == (l < 3 ? l : l - 3));
    EXPECT(got[64 + l] == (l % 8 < 5 ? l + 3 : l));
    EXPECT(got[96 + l] == l / 8 * 8 + 5);
    EXPECT(got[128 + l] == 0x49249249);
    EXPECT(got[160 + l] == 3);
    EXPECT(got[192 + l] == static_cast<int>(0xffu << (l / 8 * 8)));
    EXPECT(got[224 + l] == 496);
    EXPECT(got[256 + l] == (l < 16 ? l ^ 1 : l ^ 2));
    EXPECT(got[288 + l] == static_cast<int>(l < 16 ? 0xaaaau : 0xaaaa0000u));
  }
}

extern __shared__ int pool[];
__global__ void block(int* out, int* counts) {
  __shared__ int tile[8][33];
  int const t = static_cast<int>(threadIdx.x);
  pool[t] = t;
  tile[t / 32][t % 32] = t;
  __syncthreads();
  int sum = pool[255 - t] + tile[t % 8][t / 8];
  for (int stride = 128; stride; stride /= 2) {
    __syncthreads();
    if (t < stride) pool[t] += pool[t + stride];
  }
  __syncthreads();
  out[blockIdx.x * 256 + t] = sum + pool[0];
  int const odd = __syncthreads_count(t & 1), all = __syncthreads_and(t >= 0), any = __syncthreads_or(t == 300);
  if (t == 0) counts[blockIdx.x] = odd + 1000 * all + 10000 * any;
}
void test_block() {
  int *const out = device_array<int>(5 * 256), *const counts = device_array<int>(5);
  block<<<5, 256, 1024>>>(out, counts);
  auto const got = host_copy(out, 5 * 256);
  for (int i = 0; i < 5 * 256; ++i) {
    int const t = i % 256;
    EXPECT(got[i] == 255 - t + t % 8 * 32 + t / 8 + 255 * 128);
  }
  for (int const c : host_copy(counts, 5)) EXPECT(c == 128 + 1000);
}

__global__ void named_barriers(int* out) {  // warps 0, 1 produce, warps 2, 3 consume, over two stages
  __shared__ int stage[2][64];
  int const t = static_cast<int>(threadIdx.x) % 64, sum_at = t;
  int sum = 0;
  for (int step = 0; step < 6; ++step) {
    int const s = step % 2;
    if (threadIdx.x < 64) {
      if (step >= 2) asm volatile("bar.sync %0, 128;" ::"r"(3 + s) : "memory");  // empty again
      stage[s][t] = 10 * step + t;
      asm volatile("bar.arrive %0, 128;" ::"r"(1 + s) : "memory");  // full
    } else {
      asm volatile("bar.sync %0, 128;" ::"r"(1 + s) : "memory");
      sum += stage[s][63 - t];
      if (step < 4) asm volatile("bar.arrive %0, 128;" ::"r"(3 + s) : "memory");
    }
  }
  if (threadIdx.x >= 64) out[sum_at] = sum;
}
void test_named_barriers() {
  int* const out = device_array<int>(64);
  named_barriers<<<1, 128>>>(out);
  auto const got = host_copy(out, 64);
  for (int t = 0; t < 64; ++t) EXPECT(got[t] == 150 + 6 * (63 - t));
}

__global__ void atomics(int* i, float* f, double* d, unsigned long long* u, __nv_bfloat162* b, int* shared_out) {
  __shared__ int s;
  if (threadIdx.x == 0) s = 0;
  __syncthreads();
  int const t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(i, 1);
  atomicMax(i + 1, t);
  atomicMin(i + 2, -t);
  atomicOr(i + 3, 1 << (t & 7));
  atomicInc(reinterpret_cast<unsigned*>(i + 4), 9);
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
  atomicAdd(u, 1ull << 33);
  atomicAdd(b, __floats2bfloat162_rn(1, 2));
  atomicAdd(&s, t);
  __syncthreads();
  if (threadIdx.x == 0) shared_out[blockIdx.x] = s;
}
void test_atomics() {
  int* const i = device_copy(std::vector<int>(5, 0));
  float* const f = device_copy(std::vector<float>{0});
  double* const d = device_copy(std::vector<double>{0});
  auto* const u = device_copy(std::vector<unsigned long long>{0});
  auto* const b = device_copy(std::vector<__nv_bfloat162>{__floats2bfloat162_rn(0, 0)});
  int* const s = device_array<int>(2);
  atomics<<<2, 64>>>(i, f, d, u, b, s);
  auto const got = host_copy(i, 5);
  EXPECT(got[0] == 128 && got[1] == 127 && got[2] == -127 && got[3] == 255 && got[4] == 8);
  EXPECT(host_copy(f, 1)[0] == 64 && host_copy(d, 1)[0] == 32 && host_copy(u, 1)[0] == 128ull << 33);
  EXPECT(__low2float(host_copy(b, 1)[0]) == 128 && __high2float(host_copy(b, 1)[0]) == 256);
  EXPECT(host_copy(s, 2)[0] == 63 * 32 && host_copy(s, 2)[1] == 63 * 32 + 64 * 64);
}

// ---------------------------------------------------------------- asynchronous copies
/// Three stages of 16-byte copies; the last block is ragged and filled with zeros.
__global__ void pipeline(float const* in, float* out, int n) {
  __shared__ alignas(16) float stage[3][128];
  int const t = static_cast<int>(threadIdx.x), steps = (n + 127) / 128;
  auto issue = [&](int step) {
    if (step < steps) {
      int const first = 128 * step + 4 * t, left = max(0, min(4, n - first));
      auto const to = static_cast<unsigned>(__cvta_generic_to_shared(&stage[step % 3][4 * t]));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(in + (left ? first : 0)),
                   "r"(4 * left));
    }
    asm volatile("cp.async.commit_group;");
  };
  issue(0);
  issue(1);
  float sum = 0;
  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    issue(step + 2);
    for (int k = 0; k < 4; ++k) sum += stage[step % 3][(4 * t + k + 17) % 128];
  }
  out[t] = sum;
}
void test_pipeline() {
  int const n = 1000;
  std::vector<float> in(n);
  for (int i = 0; i < n; ++i) in[i] = static_cast<float>(i % 37);
  float* const out = device_array<float>(32);
  pipeline<<<1, 32>>>(device_copy(in), out, n);
  auto const got = host_copy(out, 32);
  for (int t = 0; t < 32; ++t) {
    float sum = 0;
    for (int step = 0; step < 8; ++step) {
      for (int k = 0; k < 4; ++k) {
        int const i = 128 * step + (4 * t + k + 17) % 128;
        sum += i < n ? in[i] : 0;
      }
    }
    EXPECT(got[t] == sum);
  }
}

// ---------------------------------------------------------------- tensor cores
/// 16 x 8 x 16 of bf16 or f16: A and B from shared memory by ldmatrix; B is stored [k][n] and transposed on the way.
template <class T> __global__ void multiply(T const* a, T const* b, float* c) {
  __shared__ alignas(16) T sa[16][16];
  __shared__ alignas(16) T sb[16][8];
  int const l = static_cast<int>(threadIdx.x);
  for (int i = l; i < 256; i += 32) sa[i / 16][i % 16] = a[i];
  for (int i = l; i < 128; i += 32) sb[i / 8][i % 8] = b[i];
  __syncwarp();
  unsigned ra[4], rb[2];
  auto const pa = static_cast<unsigned>(__cvta_generic_to_shared(&sa[l % 16][l / 16 * 8]));
  auto const pb = static_cast<unsigned>(__cvta_generic_to_shared(&sb[l % 16][0]));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3])
               : "r"(pa));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(rb[0]), "=r"(rb[1]) : "r"(pb));
  float d[4] = {1, 1, 1, 1};
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
  }
  for (int i = 0; i < 4; ++i) c[(l / 4 + 8 * (i / 2)) * 8 + 2 * (l % 4) + i % 2] = d[i];
}
template <class T> void test_multiply() {
  std::vector<T> a(256), b(128);
  for (int i = 0; i < 256; ++i) a[i] = static_cast<float>(i * 7 % 23 - 11);
  for (int i = 0; i < 128; ++i) b[i] = static_cast<float>(i * 5 % 19 - 9);
  float* const c = device_array<float>(128);
  multiply<T><<<1, 32>>>(device_copy(a), device_copy(b), c);
  auto const got = host_copy(c, 128);
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      float sum = 1;
      for (int k = 0; k < 16; ++k) sum += static_cast<float>(a[m * 16 + k]) * static_cast<float>(b[k * 8 + n]);
      EXPECT(got[m * 8 + n] == sum);
    }
  }
}

__global__ void multiply_tf32(float const* a, float const* b, float* c) {  // 16 x 8 x 8, fragments straight from memory
  int const l = static_cast<int>(threadIdx.x);
  unsigned ra[4], rb[2];
  for (int i = 0; i < 4; ++i) {
    float const v = a[(l / 4 + 8 * (i % 2)) * 8 + l % 4 + 4 * (i / 2)];
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(ra[i]) : "f"(v));
  }
  for (int i = 0; i < 2; ++i) {
    float const v = b[(l % 4 + 4 * i) * 8 + l / 4];
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rb[i]) : "f"(v));
  }
  float d[4] = {};
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
  for (int i = 0; i < 4; ++i) c[(l / 4 + 8 * (i / 2)) * 8 + 2 * (l % 4) + i % 2] = d[i];
}
void test_multiply_tf32() {
  std::vector<float> a(128), b(64);
  for (int i = 0; i < 128; ++i) a[i] = 1 + static_cast<float>(i) / 512 + 1e-5f;  // 10 bits hold all but the last term
  for (int i = 0; i < 64; ++i) b[i] = static_cast<float>(i * 5 % 19 - 9);
  float* const c = device_array<float>(128);
  multiply_tf32<<<1, 32>>>(device_copy(a), device_copy(b), c);
  auto const got = host_copy(c, 128);
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      float sum = 0;
      for (int k = 0; k < 8; ++k) sum += (1 + static_cast<float>(m * 8 + k) / 512) * b[k * 8 + n];
      EXPECT(std::fabs(got[m * 8 + n] - sum) < 1e-4f);
    }
  }
}

__global__ void print(int n) {
  printf("thread %d of %s: %5.2f %llu\n", static_cast<int>(threadIdx.x), "two", 1.5 * n, 1ull << 40);
}
void test_print() {
  print<<<1, 2>>>(3);
  CHECK_CUDA(cudaDeviceSynchronize());
}

}  // namespace

int main() {
  test_parameters();
  test_dimensions();
  test_control();
  test_spin();
  test_warp();
  test_block();
  test_named_barriers();
  test_atomics();
  test_pipeline();
  test_multiply<__nv_bfloat16>();
  test_multiply<__half>();
  test_multiply_tf32();
  test_print();
  std::printf("%d failures\n", failures);
  return failures != 0;
}
