// SPDX-License-Identifier: Apache-2.0
// CUB and Thrust as they come with the toolkit: their kernels are executed like any others.
#include <thrust/device_vector.h>
#include <thrust/reduce.h>
#include <thrust/sort.h>
#include <thrust/transform.h>
#include <cub/cub.cuh>

#include <algorithm>
#include <numeric>
#include <random>

#include "check.cuh"

namespace {

template <class F> void with_storage(F&& call) {
  size_t bytes = 0;
  CHECK_CUDA(call(nullptr, bytes));
  void* storage = nullptr;
  CHECK_CUDA(cudaMalloc(&storage, bytes));
  CHECK_CUDA(call(storage, bytes));
  CHECK_CUDA(cudaDeviceSynchronize());
  CHECK_CUDA(cudaFree(storage));
}

void test_cub(int n) {
  std::mt19937 random(7);
  std::vector<int> in(n);
  for (int& v : in) v = static_cast<int>(random() % 1000);
  int *const device = device_copy(in), *const out = device_array<int>(n);
  with_storage([&](void* storage, size_t& bytes) { return cub::DeviceReduce::Sum(storage, bytes, device, out, n); });
  EXPECT(host_copy(out, 1)[0] == std::accumulate(in.begin(), in.end(), 0));
  with_storage(
      [&](void* storage, size_t& bytes) { return cub::DeviceScan::ExclusiveSum(storage, bytes, device, out, n); });
  std::vector<int> scan(n);
  std::exclusive_scan(in.begin(), in.end(), scan.begin(), 0);
  EXPECT(host_copy(out, n) == scan);
  with_storage(
      [&](void* storage, size_t& bytes) { return cub::DeviceRadixSort::SortKeys(storage, bytes, device, out, n); });
  std::vector<int> sorted = in;
  std::sort(sorted.begin(), sorted.end());
  EXPECT(host_copy(out, n) == sorted);
}

struct Square {
  __host__ __device__ float operator()(float x) const { return x * x; }
};
void test_thrust() {
  int const n = 3000;
  thrust::device_vector<float> v(n);
  thrust::sequence(v.begin(), v.end());
  thrust::transform(v.begin(), v.end(), v.begin(), Square());
  EXPECT(v[10] == 100);
  thrust::sort(v.begin(), v.end(), thrust::greater<float>());
  EXPECT(v[0] == 2999.0f * 2999.0f);
  EXPECT(thrust::reduce(v.begin(), v.begin() + 2) == 2999.0f * 2999.0f + 2998.0f * 2998.0f);
}

}  // namespace

int main() {
  test_cub(1);
  test_cub(1000);
  test_cub(20000);
  test_thrust();
  std::printf("%d failures\n", failures);
  return failures != 0;
}
