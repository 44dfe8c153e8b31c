// SPDX-License-Identifier: Apache-2.0
// The runtime's calls: streams, events, graphs, devices, ranks as host threads, errors.
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "check.cuh"

namespace {

// ---------------------------------------------------------------- streams
__global__ void scale(float* data, float by, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) data[i] *= by;
}
__global__ void add(float* to, float const* from, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) to[i] += from[i];
}
void CUDART_CB note(void* data) { ++*static_cast<int*>(data); }

void test_streams() {
  int const n = 256;
  cudaStream_t a, b;
  CHECK_CUDA(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
  CHECK_CUDA(cudaStreamCreateWithPriority(&b, cudaStreamNonBlocking, -1));
  cudaEvent_t filled, taken;
  CHECK_CUDA(cudaEventCreate(&filled));
  CHECK_CUDA(cudaEventCreate(&taken));
  float *x = nullptr, *y = nullptr, *pinned = nullptr;
  CHECK_CUDA(cudaMallocAsync(&x, n * sizeof(float), a));
  CHECK_CUDA(cudaMallocAsync(&y, n * sizeof(float), b));
  CHECK_CUDA(cudaMallocHost(&pinned, n * sizeof(float)));
  for (int i = 0; i < n; ++i) pinned[i] = static_cast<float>(i);
  CHECK_CUDA(cudaMemsetAsync(y, 0, n * sizeof(float), b));
  CHECK_CUDA(cudaMemcpyAsync(x, pinned, n * sizeof(float), cudaMemcpyHostToDevice, a));
  int notes = 0;
  for (int step = 0; step < 4; ++step) {
    if (step > 0) CHECK_CUDA(cudaStreamWaitEvent(a, taken, 0));
    scale<<<1, 64, 0, a>>>(x, 2, n);
    CHECK_CUDA(cudaEventRecord(filled, a));
    CHECK_CUDA(cudaStreamWaitEvent(b, filled, 0));
    add<<<1, 64, 0, b>>>(y, x, n);
    CHECK_CUDA(cudaEventRecord(taken, b));
    CHECK_CUDA(cudaLaunchHostFunc(b, note, &notes));
  }
  CHECK_CUDA(cudaMemcpyAsync(pinned, y, n * sizeof(float), cudaMemcpyDeviceToHost, b));
  CHECK_CUDA(cudaFreeAsync(y, b));
  CHECK_CUDA(cudaStreamSynchronize(b));
  for (int i = 0; i < n; ++i) EXPECT(pinned[i] == 30.0f * i);
  EXPECT(notes == 4);
  EXPECT(cudaEventQuery(taken) == cudaSuccess);
  CHECK_CUDA(cudaFreeAsync(x, a));
  CHECK_CUDA(cudaStreamSynchronize(a));
  CHECK_CUDA(cudaFreeHost(pinned));
  CHECK_CUDA(cudaEventDestroy(filled));
  CHECK_CUDA(cudaEventDestroy(taken));
  CHECK_CUDA(cudaStreamDestroy(a));
  CHECK_CUDA(cudaStreamDestroy(b));
}

void CUDART_CB tell(void* data) { static_cast<std::atomic<int>*>(data)->store(1); }
void test_no_synchronisation() {  // the host only waits for a word that a host function sends
  std::atomic<int> told{0};
  float* const x = device_copy(std::vector<float>(64, 1.0f));
  scale<<<1, 32>>>(x, 2, 64);
  CHECK_CUDA(cudaLaunchHostFunc(nullptr, tell, &told));
  for (int i = 0; i < 10000 && !told; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT(told == 1);
}

void test_legacy_stream() {  // the null stream and blocking streams wait for each other
  int const n = 64;
  cudaStream_t blocking;
  CHECK_CUDA(cudaStreamCreate(&blocking));
  float* const x = device_copy(std::vector<float>(n, 1.0f));
  scale<<<1, 32, 0, blocking>>>(x, 3, n);
  scale<<<1, 32>>>(x, 5, n);
  scale<<<1, 32, 0, blocking>>>(x, 7, n);
  EXPECT(host_copy(x, n)[5] == 105);
}

void test_graph() {
  int const n = 64;
  cudaStream_t a, b;
  CHECK_CUDA(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
  CHECK_CUDA(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
  cudaEvent_t fork, joined;
  CHECK_CUDA(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  CHECK_CUDA(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming));
  float *const x = device_copy(std::vector<float>(n, 1.0f)), *const y = device_copy(std::vector<float>(n, 1.0f));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK_CUDA(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
  CHECK_CUDA(cudaEventRecord(fork, a));
  CHECK_CUDA(cudaStreamWaitEvent(b, fork, 0));
  scale<<<1, 32, 0, a>>>(x, 2, n);
  scale<<<1, 32, 0, b>>>(y, 3, n);
  CHECK_CUDA(cudaEventRecord(joined, b));
  CHECK_CUDA(cudaStreamWaitEvent(a, joined, 0));
  add<<<1, 32, 0, a>>>(x, y, n);
  CHECK_CUDA(cudaStreamEndCapture(a, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 3; ++i) CHECK_CUDA(cudaGraphLaunch(exec, a));
  CHECK_CUDA(cudaStreamSynchronize(a));
  EXPECT(host_copy(x, n)[7] == ((1 * 2 + 3) * 2 + 9) * 2 + 27);
  CHECK_CUDA(cudaGraphExecDestroy(exec));
  CHECK_CUDA(cudaGraphDestroy(graph));
}

void test_devices() {
  int count = 0;
  CHECK_CUDA(cudaGetDeviceCount(&count));
  if (count < 2) return;
  float* const here = device_copy(std::vector<float>(64, 2.0f));
  CHECK_CUDA(cudaSetDevice(1));
  float* const there = device_array<float>(64);
  CHECK_CUDA(cudaMemcpyPeer(there, 1, here, 0, 256));
  scale<<<1, 32>>>(there, 4, 64);
  CHECK_CUDA(cudaDeviceSynchronize());
  EXPECT(host_copy(there, 64)[63] == 8);
  cudaPointerAttributes attributes;
  CHECK_CUDA(cudaPointerGetAttributes(&attributes, there));
  EXPECT(attributes.device == 1 && attributes.type == cudaMemoryTypeDevice);
  CHECK_CUDA(cudaSetDevice(0));
}

/// Host threads as ranks of a ring, each with its streams; blocks travel by copies that wait for events of other
/// threads.
void test_ranks() {
  int const ranks = 3, n = 128;
  struct Rank {
    float *block[2], *sum;
    cudaStream_t compute, copies;
    cudaEvent_t ready[2], used[2], sent[2];  // of the two halves of `block`
  };
  std::vector<Rank> all(ranks);
  for (int r = 0; r < ranks; ++r) {
    Rank& me = all[r];
    me.block[0] = device_copy(std::vector<float>(n, static_cast<float>(r + 1)));
    me.block[1] = device_array<float>(n);
    me.sum = device_copy(std::vector<float>(n, 0.0f));
    CHECK_CUDA(cudaStreamCreateWithFlags(&me.compute, cudaStreamNonBlocking));
    CHECK_CUDA(cudaStreamCreateWithFlags(&me.copies, cudaStreamNonBlocking));
    for (int half = 0; half < 2; ++half) {
      CHECK_CUDA(cudaEventCreateWithFlags(&me.ready[half], cudaEventDisableTiming));
      CHECK_CUDA(cudaEventCreateWithFlags(&me.used[half], cudaEventDisableTiming));
      CHECK_CUDA(cudaEventCreateWithFlags(&me.sent[half], cudaEventDisableTiming));
    }
  }
  CHECK_CUDA(cudaDeviceSynchronize());
  std::barrier step_done(ranks);
  auto body = [&](int r) {
    Rank &me = all[r], &next = all[(r + 1) % ranks];
    for (int step = 0; step < ranks; ++step) {
      int const half = step % 2;
      if (step > 0) CHECK_CUDA(cudaStreamWaitEvent(me.compute, me.ready[half], 0));
      add<<<1, 64, 0, me.compute>>>(me.sum, me.block[half], n);
      CHECK_CUDA(cudaEventRecord(me.used[half], me.compute));
      step_done.arrive_and_wait();  // `used` of this step is recorded everywhere
      if (step + 1 < ranks) {
        // The receiver's other half must have been computed with and sent on, and this half must have arrived.
        if (step > 0) {
          CHECK_CUDA(cudaStreamWaitEvent(me.copies, next.used[1 - half], 0));
          CHECK_CUDA(cudaStreamWaitEvent(me.copies, next.sent[1 - half], 0));
          CHECK_CUDA(cudaStreamWaitEvent(me.copies, me.ready[half], 0));
        }
        CHECK_CUDA(cudaMemcpyAsync(next.block[1 - half], me.block[half], n * sizeof(float), cudaMemcpyDeviceToDevice,
                                   me.copies));
        CHECK_CUDA(cudaEventRecord(me.sent[half], me.copies));
        CHECK_CUDA(cudaEventRecord(next.ready[1 - half], me.copies));
      }
      step_done.arrive_and_wait();  // `ready` of the next step is recorded everywhere
    }
    CHECK_CUDA(cudaStreamSynchronize(me.compute));
    CHECK_CUDA(cudaStreamSynchronize(me.copies));
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) threads.emplace_back(body, r);
  for (auto& t : threads) t.join();
  for (Rank const& me : all) EXPECT(host_copy(me.sum, n)[n - 1] == 6);
}

// ---------------------------------------------------------------- errors
__global__ void tile(int* out) {
  __shared__ int values[8 * 33];
  values[threadIdx.x] = 1;
  out[threadIdx.x] = values[threadIdx.x];
}
void test_errors() {
  float* const x = device_array<float>(4);
  scale<<<1, 2048>>>(x, 1, 4);
  EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
  EXPECT(cudaGetLastError() == cudaSuccess);
  scale<<<1, 32, 100 * 1024>>>(x, 1, 4);
  EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK_CUDA(cudaFuncSetAttribute(tile, cudaFuncAttributeMaxDynamicSharedMemorySize, 90 * 1024));
  EXPECT(cudaFuncSetAttribute(tile, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 20) == cudaErrorInvalidValue);
  EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
  void* p = nullptr;
  EXPECT(cudaMalloc(&p, size_t{1} << 50) == cudaErrorMemoryAllocation);
  EXPECT(cudaSetDevice(1000) == cudaErrorInvalidDevice);
  (void)cudaGetLastError();
  EXPECT(cudaStreamSynchronize(nullptr) == cudaSuccess);
  cudaFuncAttributes attributes;
  CHECK_CUDA(cudaFuncGetAttributes(&attributes, tile));
  EXPECT(attributes.sharedSizeBytes == 8 * 33 * 4);
}

}  // namespace

int main() {
  test_streams();
  test_no_synchronisation();
  test_legacy_stream();
  test_graph();
  test_devices();
  test_ranks();
  test_errors();
  std::printf("%d failures\n", failures);
  return failures != 0;
}
