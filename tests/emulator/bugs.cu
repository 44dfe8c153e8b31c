// SPDX-License-Identifier: Apache-2.0
// Planted bugs, each beside its right twin: `bugs NAME` must be reported, `bugs NAME fixed` must not.
#include <cstring>
#include <string>

#include "check.cuh"

namespace {

template <bool Bug> __global__ void missing_barrier(float* out) {
  __shared__ float tile[128];
  tile[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!Bug) __syncthreads();
  out[threadIdx.x] = tile[127 - threadIdx.x];
}

template <bool Bug>
__global__ void missing_second_barrier(float* out) {  // a stage is filled again while others still read it
  __shared__ float tile[128];
  float sum = 0;
  for (int step = 0; step < 4; ++step) {
    tile[threadIdx.x] = static_cast<float>(threadIdx.x + step);
    __syncthreads();
    sum += tile[127 - threadIdx.x];
    if (!Bug) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

template <bool Bug> __global__ void missing_warp_barrier(float* out) {
  __shared__ float tile[32];
  tile[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!Bug) __syncwarp();
  out[threadIdx.x] = tile[31 - threadIdx.x];
}

template <bool Bug> __global__ void missing_wait(float const* in, float* out) {
  __shared__ alignas(16) float tile[128];
  auto const to = static_cast<unsigned>(__cvta_generic_to_shared(tile + 4 * (threadIdx.x % 32)));
  if (threadIdx.x < 32) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + 4 * threadIdx.x));
    asm volatile("cp.async.commit_group;");
    if (!Bug) asm volatile("cp.async.wait_group 0;" ::: "memory");
  }
  __syncthreads();
  out[threadIdx.x] = tile[127 - threadIdx.x];
}

/// Two stages: waiting for all but one group covers the older stage only.
template <bool Bug> __global__ void wait_too_weak(float const* in, float* out) {
  __shared__ alignas(16) float tile[2][128];
  for (int stage = 0; stage < 2; ++stage) {
    auto const to = static_cast<unsigned>(__cvta_generic_to_shared(&tile[stage][4 * threadIdx.x]));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + 128 * stage + 4 * threadIdx.x));
    asm volatile("cp.async.commit_group;");
  }
  asm volatile("cp.async.wait_group 1;" ::: "memory");
  __syncwarp();
  float sum = tile[0][threadIdx.x];
  if (!Bug) {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncwarp();
  }
  sum += tile[1][127 - threadIdx.x];
  out[threadIdx.x] = sum;
}

template <bool Bug> __global__ void out_of_bounds(float const* in, float* out, int n) {
  int const i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (Bug || i < n) out[i] = in[i];
}

template <bool Bug> __global__ void uninitialised(float* scratch, float* out) {
  if (!Bug) scratch[threadIdx.x] = 1;
  out[threadIdx.x] = scratch[threadIdx.x] + 1;
}

template <bool Bug> __global__ void uninitialised_shared(float* out) {
  __shared__ float tile[33];
  tile[threadIdx.x] = 1;
  if (!Bug && threadIdx.x == 0) tile[32] = 2;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x + 1];
}

template <bool Bug> __global__ void diverged_shuffle(int* out) {
  int v = static_cast<int>(threadIdx.x);
  if (Bug) {
    if (threadIdx.x < 16)
      v += __shfl_xor_sync(0xffffffffu, v, 16);
    else if (out == nullptr)
      v = 0;
  } else {
    v += __shfl_xor_sync(0xffffffffu, v, 16);
  }
  __syncthreads();
  out[threadIdx.x] = v;
}

template <bool Bug> __global__ void shuffle_from_nobody(int* out) {
  int v = static_cast<int>(threadIdx.x);
  if (threadIdx.x < 16) v += __shfl_xor_sync(0x0000ffffu, v, Bug ? 16 : 8);
  out[threadIdx.x] = v;
}

template <bool Bug> __global__ void shared_overrun(float* out) {
  __shared__ float small[32];
  __shared__ float behind[32];
  small[threadIdx.x] = behind[threadIdx.x] = 0;
  __syncthreads();
  small[threadIdx.x + (Bug ? 1 : 0)] = 1;
  __syncthreads();
  out[threadIdx.x] = small[threadIdx.x] + behind[threadIdx.x];
}

extern __shared__ float dynamic[];
template <bool Bug> __global__ void dynamic_overrun(float* out) {
  dynamic[threadIdx.x + (Bug ? 1 : 0)] = 1;
  out[threadIdx.x] = 1;
}

template <bool Bug> __global__ void diverged_barrier(float* out) {
  if (!Bug || threadIdx.x < 16)
    __syncthreads();
  else
    out[threadIdx.x] = 2;
  out[threadIdx.x] = 1;
}

template <bool Bug> __global__ void exited_before_barrier(float* out, int n) {
  if (Bug && static_cast<int>(threadIdx.x) >= n) return;
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < n) out[threadIdx.x] = 1;
}

template <bool Bug> __global__ void barrier_of_too_many(float* out) {  // two warps wait at a barrier that expects three
  asm volatile("bar.sync 1, %0;" ::"r"(Bug ? 96 : 64) : "memory");
  out[threadIdx.x] = 1;
}

template <bool Bug> __global__ void misaligned(float const* in, float* out) {
  float4 const v = *reinterpret_cast<float4 const*>(in + (Bug ? 1 : 4));
  out[threadIdx.x] = v.x + v.y + v.z + v.w;
}

__global__ void produce(float* data, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 32) data[i] = static_cast<float>(i);
}
__global__ void consume(float const* data, float* out, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 32) out[i] = data[i] + 1;
}

void missing_event(bool bug) {
  cudaStream_t first, second;
  CHECK_CUDA(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
  CHECK_CUDA(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
  cudaEvent_t ready;
  CHECK_CUDA(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
  float* const data = device_copy(std::vector<float>(256));
  float* const out = device_copy(std::vector<float>(256));
  CHECK_CUDA(cudaDeviceSynchronize());
  produce<<<1, 32, 0, first>>>(data, 256);
  CHECK_CUDA(cudaEventRecord(ready, first));
  if (!bug) CHECK_CUDA(cudaStreamWaitEvent(second, ready, 0));
  consume<<<1, 32, 0, second>>>(data, out, 256);
  CHECK_CUDA(cudaStreamSynchronize(second));
  CHECK_CUDA(cudaDeviceSynchronize());
  EXPECT(host_copy(out, 256)[255] == 256);
}

/// The next step's copy must not overwrite a block that the kernel still reads.
void missing_event_for_reuse(bool bug) {
  cudaStream_t compute, copies;
  CHECK_CUDA(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
  CHECK_CUDA(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
  cudaEvent_t read;
  CHECK_CUDA(cudaEventCreateWithFlags(&read, cudaEventDisableTiming));
  float* const next = device_copy(std::vector<float>(256, 5.0f));
  float* const data = device_copy(std::vector<float>(256));
  float* const out = device_copy(std::vector<float>(256));
  CHECK_CUDA(cudaDeviceSynchronize());
  consume<<<1, 32, 0, compute>>>(data, out, 256);
  CHECK_CUDA(cudaEventRecord(read, compute));
  if (!bug) CHECK_CUDA(cudaStreamWaitEvent(copies, read, 0));
  CHECK_CUDA(cudaMemcpyAsync(data, next, 1024, cudaMemcpyDeviceToDevice, copies));
  CHECK_CUDA(cudaStreamSynchronize(copies));
  CHECK_CUDA(cudaDeviceSynchronize());
}

void freed_too_early(bool bug) {
  float* const data = device_copy(std::vector<float>(32));
  float* const out = device_array<float>(32);
  if (bug) CHECK_CUDA(cudaFree(data));
  consume<<<1, 32>>>(data, out, 32);
  CHECK_CUDA(cudaDeviceSynchronize());
}

void read_of_nothing(bool bug) {  // a result that no kernel wrote
  float* const out = device_array<float>(32);
  if (!bug) produce<<<1, 32>>>(out, 32);
  CHECK_CUDA(cudaDeviceSynchronize());
  host_copy(out, 32);
}

__global__ void unknown(float* out) {
  int v = 1;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(v));
  out[threadIdx.x] = static_cast<float>(v);
}

template <class F> void with_output(F&& launch) {
  float* const out = device_array<float>(256);
  launch(out);
  CHECK_CUDA(cudaGetLastError());
  CHECK_CUDA(cudaDeviceSynchronize());
}

}  // namespace

#define EITHER(KERNEL, GRID, BLOCK, SHARED, ...)             \
  if (name == #KERNEL) {                                     \
    with_output([&](float* out) {                            \
      if (bug)                                               \
        KERNEL<true><<<GRID, BLOCK, SHARED>>>(__VA_ARGS__);  \
      else                                                   \
        KERNEL<false><<<GRID, BLOCK, SHARED>>>(__VA_ARGS__); \
    });                                                      \
    return failures != 0;                                    \
  }

int main(int argc, char** argv) {
  std::string const name = argc > 1 ? argv[1] : "";
  bool const bug = argc < 3 || std::strcmp(argv[2], "fixed") != 0;
  float* const in = device_copy(std::vector<float>(256, 1.0f));
  float* const small = device_copy(std::vector<float>(100, 1.0f));
  EITHER(missing_barrier, 1, 128, 0, out)
  EITHER(missing_second_barrier, 1, 128, 0, out)
  EITHER(missing_warp_barrier, 1, 32, 0, out)
  EITHER(missing_wait, 1, 128, 0, in, out)
  EITHER(wait_too_weak, 1, 32, 0, in, out)
  EITHER(out_of_bounds, 4, 32, 0, small, out, 100)
  EITHER(uninitialised, 1, 32, 0, device_array<float>(32), out)
  EITHER(uninitialised_shared, 1, 32, 0, out)
  EITHER(diverged_shuffle, 1, 32, 0, reinterpret_cast<int*>(out))
  EITHER(shuffle_from_nobody, 1, 32, 0, reinterpret_cast<int*>(out))
  EITHER(shared_overrun, 1, 32, 0, out)
  EITHER(dynamic_overrun, 1, 32, 128, out)
  EITHER(diverged_barrier, 1, 32, 0, out)
  EITHER(exited_before_barrier, 1, 64, 0, out, 40)
  EITHER(barrier_of_too_many, 1, 64, 0, out)
  EITHER(misaligned, 1, 1, 0, in, out)
  if (name == "unknown_opcode") {
    if (bug) with_output([](float* out) { unknown<<<1, 32>>>(out); });
    return 0;
  }
  if (name == "missing_event") return missing_event(bug), failures != 0;
  if (name == "missing_event_for_reuse") return missing_event_for_reuse(bug), failures != 0;
  if (name == "freed_too_early") return freed_too_early(bug), failures != 0;
  if (name == "read_of_nothing") return read_of_nothing(bug), failures != 0;
  std::printf("no such bug: %s\n", name.c_str());
  return 2;
}
