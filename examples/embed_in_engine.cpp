// SPDX-License-Identifier: Apache-2.0
// Inside an engine that has its own memory layout, allocator, threads and workspace: nothing of it is replaced, and the
// library allocates nothing in a call.
#include <cstdio>
#include <exception>
#include <memory_resource>
#include <ringattn/plan/memory.hpp>
#include <ringattn/ringattn.hpp>
#include <thread>

#include "support/dense.hpp"

namespace {

constexpr int ranks = 2, threads = 2;
constexpr int64_t seq = 200, heads = 4, dim = 32;

struct EngineAttention : ringattn::Policy {
  using Mask = ringattn::Causal;
  using Shard = ringattn::Striped;
  static constexpr int head_dim = dim;
};
constexpr ringattn::Problem problem{.seq = seq, .heads = heads};

//! [engine_budget]
// Checked when the engine is compiled: to the byte, for Cpu with this many threads.
static_assert(ringattn::plan::fits<EngineAttention, threads>(problem, ranks, 2e6), "attention does not fit into 2 MB");
//! [engine_budget]

/// The engine's threads. Here they are started for the occasion; a real engine has its pool.
void parallel_for(int n, std::function<void(int)> const& body) {
  std::vector<std::jthread> others;
  for (int i = 1; i < n; ++i) others.emplace_back([&body, i] { body(i); });
  body(0);
}

/// One rank. Returns how far its output is from the dense computation.
double serve(ringattn::InProcess& comm, std::pmr::memory_resource& memory, ringattn::Tensor<double> const& expected) {
  //! [embed_in_engine]
  ringattn::Cpu cpu({.threads = threads, .memory = &memory, .run = parallel_for});
  ringattn::Ring const here{comm.rank(), comm.size()};
  ringattn::plan::MemoryOptions<EngineAttention> const options{.backward = false};
  auto const state = ringattn::plan::state_bytes<EngineAttention, threads>(problem, here, options);
  size_t const bytes = ringattn::plan::workspace_bytes<EngineAttention>(problem, here, state, options);
  std::span<std::byte> const workspace(static_cast<std::byte*>(memory.allocate(bytes, 64)), bytes);
  ringattn::RingAttention<EngineAttention> ring(cpu, comm,
                                                {.problem = problem, .backward = false, .workspace = workspace});

  // q, k and v interleaved as one projection leaves them: [rows, 3, heads, dim].
  ringattn::Extents const shape = ring.local().q;
  std::pmr::vector<float> qkv(size_t(shape.seq * 3 * heads * dim), &memory);
  std::array<int64_t, 4> const strides{0, 3 * heads * dim, dim, 1};  // batch, seq, heads, dim
  using View = ringattn::View<float>;
  View const q(&qkv[0], shape, strides), k(&qkv[heads * dim], shape, strides), v(&qkv[2 * heads * dim], shape, strides);

  // The output head by head, rows padded to 48 numbers: [heads, rows, 48].
  constexpr int64_t padded = 48;
  std::pmr::vector<float> result(size_t(heads * shape.seq * padded), -1.f, &memory);
  View const out(result.data(), shape, {0, padded, shape.seq * padded, 1});
  //! [embed_in_engine]

  for (int tensor = 0; View const& view : {q, k, v}) example::fill(view, ring.rows(), tensor++);
  ring.forward({.q = q, .k = k, .v = v, .out = out});

  double error = example::worst(out, ring.rows(), expected);
  if (ring.workspace_bytes() != bytes) error = 1;
  for (int64_t row = 0; row < heads * shape.seq; ++row)
    for (int64_t i = dim; i < padded; ++i)
      if (result[size_t(row * padded + i)] != -1.f) error = 1;  // the padding is the engine's
  return error;
}

}  // namespace

int main() {
  ringattn::Extents const shape{1, seq, heads, dim};
  auto const dense = example::dense_attention(example::whole(shape, 0), example::whole(shape, 1),
                                              example::whole(shape, 2), example::whole(shape, 3), ringattn::Causal{});
  double error[ranks] = {1, 1};
  //! [engine_world]
  // The ring's ranks live in threads of the engine's; run_ranks is only a convenience.
  ringattn::InProcess::World world(ranks);
  auto const rank = [&](int r) {
    try {
      alignas(64) static std::byte arena[ranks][1 << 20];
      std::pmr::monotonic_buffer_resource memory(arena[r], sizeof arena[r], std::pmr::null_memory_resource());
      ringattn::InProcess comm(world, r);
      error[r] = serve(comm, memory, dense.out);
    } catch (std::exception const& e) {
      world.abort(e.what());  // nobody waits for this rank
      std::printf("rank %d: %s\n", r, e.what());
    }
  };
  std::thread other(rank, 1);
  rank(0);
  other.join();
  //! [engine_world]
  for (int r = 0; r < ranks; ++r) std::printf("rank %d: differs from the dense computation by %.1e\n", r, error[r]);
  return error[0] < 1e-5 && error[1] < 1e-5 ? 0 : 1;
}
