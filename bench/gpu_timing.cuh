// SPDX-License-Identifier: Apache-2.0
// What the benchmarks of a GPU share: time by CUDA events, and tensors full of numbers.
#pragma once

#include <ringattn/cuda/backend.cuh>
#include <ringattn/ring_attention.hpp>

#include <algorithm>
#include <vector>

namespace bench {

using namespace ringattn;

/// The median of some rounds of a call, in milliseconds; `repeat` calls are a round.
template <class F> double milliseconds(cudaStream_t stream, int rounds, int repeat, F call) {
  cudaEvent_t begin, end;
  cuda::check(cudaEventCreate(&begin), "event");
  cuda::check(cudaEventCreate(&end), "event");
  call();  // caches, clocks
  std::vector<double> times;
  for (int r = 0; r < rounds; ++r) {
    cuda::check(cudaEventRecord(begin, stream), "record");
    for (int i = 0; i < repeat; ++i) call();
    cuda::check(cudaEventRecord(end, stream), "record");
    cuda::check(cudaEventSynchronize(end), "synchronize");
    float ms = 0;
    cuda::check(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    times.push_back(double(ms) / repeat);
  }
  (void)cudaEventDestroy(begin);
  (void)cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Numbers in [-1, 1) from a hash of the index.
template <class T> __global__ void fill(T* x, int64_t n, unsigned seed) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
    unsigned h = unsigned(i) * 2654435761u + seed;
    h = (h ^ (h >> 15)) * 2246822519u;
    h ^= h >> 13;
    x[i] = cuda::convert<T>(float(h >> 8) * 0x1p-23f - 1);
  }
}

/// One rank's tensors.
template <class Element, class Backend = Cuda<>> class Tensors {
 public:
  using Space = DeviceSpace;

  Tensors(Backend& backend, Local const& local) : local_(local) {
    Local const& l = local_;
    for (int64_t n :
         {l.q.count(), l.k.count(), l.v.count(), l.out.count(), l.out.count(), l.q.count(), l.k.count(), l.v.count()}) {
      memory_.push_back(backend.allocate(size_t(n) * sizeof(Element)));
      cuda::launch("fill", fill<Element>, 1024, 256, 0, {backend.stream(), backend.device()}, at(memory_.size() - 1), n,
                   unsigned(memory_.size()));
    }
    memory_.push_back(backend.allocate(size_t(l.lse.count()) * sizeof(float)));
  }
  template <class Ring> void forward(Ring& ring) {
    Local const& l = local_;
    ring.forward({.q = in(0, l.q), .k = in(1, l.k), .v = in(2, l.v), .out = out(3, l.out), .lse = lse()});
  }
  template <class Ring> void backward(Ring& ring) {
    Local const& l = local_;
    ring.backward({.q = in(0, l.q),
                   .k = in(1, l.k),
                   .v = in(2, l.v),
                   .out = in(3, l.out),
                   .lse = lse(),
                   .dout = in(4, l.out),
                   .dq = out(5, l.q),
                   .dk = out(6, l.k),
                   .dv = out(7, l.v)});
  }

 private:
  Element* at(size_t i) { return reinterpret_cast<Element*>(memory_[i].data()); }
  View<Element, Space> out(size_t i, Extents e) { return {at(i), e}; }
  View<Element const, Space> in(size_t i, Extents e) { return out(i, e); }
  View<float, Space> lse() { return {reinterpret_cast<float*>(memory_[8].data()), local_.lse}; }

  Local local_;
  std::vector<typename Backend::Buffer> memory_;
};

}  // namespace bench
