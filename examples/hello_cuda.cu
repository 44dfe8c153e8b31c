// SPDX-License-Identifier: Apache-2.0
// Attention over a sequence on a ring of GPUs: two ranks as threads of one process, on two devices or sharing one.
#include <ringattn/comm/cuda_peer.hpp>
#include <ringattn/cuda/backend.cuh>
#include <ringattn/ring_attention.hpp>

#include <cstdio>
#include <vector>

using Element = ringattn::BFloat16;

struct LongContext : ringattn::Policy {
  using Mask = ringattn::Causal;
  using Shard = ringattn::ZigZag;
  using Precision = ringattn::Bf16;
  using Backend = ringattn::Cuda<ringattn::sm80>;
  using Communicator = ringattn::CudaPeer;
  static constexpr int head_dim = 64;
};

/// A tensor in memory of the backend; its rows hold their global positions.
ringattn::Cuda<>::Buffer positions(ringattn::Cuda<>& gpu, ringattn::Extents e, std::span<ringattn::Rows const> rows) {
  std::vector<Element> host;
  for (auto const& run : rows)
    for (int64_t i = 0; i < run.count; ++i)
      host.insert(host.end(), size_t(e.heads * e.dim), Element(float(run.at(i)) / 64));
  auto memory = gpu.allocate(host.size() * sizeof(Element));
  cudaMemcpyAsync(memory.data(), host.data(), host.size() * sizeof(Element), cudaMemcpyHostToDevice, gpu.stream());
  gpu.synchronize();
  return memory;
}

int main() {
  ringattn::Problem const whole{.batch = 1, .seq = 256, .heads = 4, .kv_heads = 2};
  int devices = 1;
  cudaGetDeviceCount(&devices);
  bool right = true;

  ringattn::run_ranks<ringattn::CudaPeer>(2, [&](ringattn::CudaPeer& comm) {
    ringattn::Cuda<> gpu({.device = comm.rank() % devices});
    ringattn::RingAttention<LongContext> ring(gpu, comm, {.problem = whole});
    auto const local = ring.local();
    auto q = positions(gpu, local.q, ring.rows());
    auto k = positions(gpu, local.k, ring.kv_rows()), v = positions(gpu, local.v, ring.kv_rows());
    auto out = gpu.allocate(size_t(local.out.count()) * sizeof(Element));

    using In = ringattn::View<Element const, ringattn::DeviceSpace>;
    using Out = ringattn::View<Element, ringattn::DeviceSpace>;
    auto const in = [](auto& memory, auto extents) { return In(reinterpret_cast<Element*>(memory.data()), extents); };
    ring.forward({.q = in(q, local.q),
                  .k = in(k, local.k),
                  .v = in(v, local.v),
                  .out = Out(reinterpret_cast<Element*>(out.data()), local.out)});
    ring.synchronize();

    // A row's output lies between the values it sees: those of the positions up to its own.
    std::vector<Element> host(size_t(local.out.count()));
    cudaMemcpy(host.data(), out.data(), host.size() * sizeof(Element), cudaMemcpyDeviceToHost);
    size_t i = 0;
    for (auto const& run : ring.rows())
      for (int64_t row = 0; row < run.count; ++row)
        for (int64_t d = 0; d < whole.heads * LongContext::head_dim; ++d, ++i)
          right = right && float(host[i]) >= 0 && float(host[i]) <= float(run.at(row)) / 64 * 1.01f;
  });
  std::printf(right ? "every row saw the past only\n" : "wrong\n");
  return right ? 0 : 1;
}
