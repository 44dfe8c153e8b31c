// SPDX-License-Identifier: Apache-2.0
// Few helpers for programs that run in the emulator and, unchanged, on a card.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK_CUDA(call)                                                                     \
  do {                                                                                       \
    cudaError_t const error_ = (call);                                                       \
    if (error_ != cudaSuccess) {                                                             \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      std::exit(1);                                                                          \
    }                                                                                        \
  } while (0)

inline int failures = 0;
#define EXPECT(condition)                                                                      \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      if (++failures < 50) std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                                          \
  } while (0)

/// Ready for every stream: a copy from ordinary host memory may return before it has arrived, and streams that do not
/// wait for the default one would read what was there before.
template <class T> T* device_copy(std::vector<T> const& values) {
  T* p = nullptr;
  CHECK_CUDA(cudaMalloc(&p, values.size() * sizeof(T)));
  CHECK_CUDA(cudaMemcpy(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  CHECK_CUDA(cudaStreamSynchronize(nullptr));
  return p;
}
template <class T> T* device_array(size_t count) {
  T* p = nullptr;
  CHECK_CUDA(cudaMalloc(&p, count * sizeof(T)));
  return p;
}
template <class T> std::vector<T> host_copy(T const* p, size_t count) {
  std::vector<T> values(count);
  CHECK_CUDA(cudaMemcpy(values.data(), p, count * sizeof(T), cudaMemcpyDeviceToHost));
  return values;
}
