// SPDX-License-Identifier: Apache-2.0
// Bytes: the pipeline's against the planner's, tables 1 and 3 of Liu et al. 2023, growth with sequence and ring.
#include <ringattn/comm/in_process.hpp>
#include <ringattn/cpu/backend.hpp>
#include <ringattn/plan/memory.hpp>
#include <ringattn/ring_attention.hpp>

#include <doctest/doctest.h>

#include "naive_backend.hpp"

using namespace ringattn;

namespace {

template <class Mask_, class Shard_, class KvShard_, class Precision_> struct Small : Policy {
  using Mask = Mask_;
  using Shard = Shard_;
  using KvShard = KvShard_;
  using Precision = Precision_;
  using Backend = naive::Backend;
  static constexpr int head_dim = 8, value_dim = 12;
};

template <class P> void workspace_as_planned(Problem problem) {
  for (int ranks : {1, 2, 3, 5})
    for (bool backward : {false, true})
      run_ranks(ranks, [&](InProcess& comm) {
        naive::Backend backend;
        RingAttention<P> ring(backend, comm, {.problem = problem, .backward = backward});
        Ring const here{comm.rank(), comm.size()};
        plan::MemoryOptions<P> const options{.backward = backward};
        StateBytes const asked = plan::state_bytes<P>(backend, problem, here, options);
        size_t const planned = plan::workspace_bytes<P>(problem, here, asked, options);
        if (planned != ring.workspace_bytes())
          throw std::runtime_error("planned " + std::to_string(planned) + " bytes, the pipeline has " +
                                   std::to_string(ring.workspace_bytes()));
        // The naive backend keeps the least state that is possible.
        StateBytes const least = plan::least_state_bytes<P>(problem, count_rows(ring.rows()));
        if (least.forward != asked.forward || (backward && least.backward != asked.backward))
          throw std::runtime_error("the least state is not what the naive backend asks for");
        auto const local = ring.local();
        int64_t const elements = local.q.count() + local.k.count() + local.v.count() + local.out.count();
        size_t const tensors = size_t(elements) * (backward ? 2 : 1) * sizeof(typename P::Precision::Element) +
                               size_t(local.lse.count()) * sizeof(typename P::Precision::Accumulator);
        if (plan::tensor_bytes<P>(problem, here, options) != tensors)
          throw std::runtime_error("tensors of another size than planned");
      });
}

template <class Mask_, class Shard_, class Precision_> struct OnCpu : Policy {
  using Mask = Mask_;
  using Shard = Shard_;
  using Precision = Precision_;
  static constexpr int head_dim = 16;
};

/// What the planner says of Cpu without having one.
template <class P> void cpu_as_planned(Problem problem) {
  for (int ranks : {1, 3})
    for (bool backward : {false, true})
      run_ranks(ranks, [&](InProcess& comm) {
        Cpu cpu({.threads = 2});
        RingAttention<P> ring(cpu, comm, {.problem = problem, .backward = backward});
        Ring const here{comm.rank(), comm.size()};
        plan::MemoryOptions<P> const options{.backward = backward};
        StateBytes const state = plan::state_bytes<P, 2>(problem, here, options);
        size_t const planned = plan::workspace_bytes<P>(problem, here, state, options);
        if (planned != ring.workspace_bytes())
          throw std::runtime_error("planned " + std::to_string(planned) + " bytes, the pipeline on Cpu has " +
                                   std::to_string(ring.workspace_bytes()));
        StateBytes const least = plan::state_bytes<P>(problem, here, options);
        if (least.forward > state.forward || least.backward > state.backward)
          throw std::runtime_error("Cpu asks for less than the least");
      });
}

/// As printed, or within 2 %.
bool near(double value, double printed) { return std::abs(value - printed) <= 0.02 * printed; }

}  // namespace

TEST_CASE("the pipeline's workspace is the planner's") {
  Problem const even{.batch = 2, .seq = 60, .heads = 4, .kv_heads = 2}, uneven{.seq = 31, .kv_seq = 17, .heads = 3};
  for (Problem const& p : {even, uneven, Problem{.seq = 2, .kv_seq = 3}}) {
    workspace_as_planned<Small<Full, Contiguous, void, Fp32>>(p);
    workspace_as_planned<Small<Causal, ZigZag, void, Bf16>>(p);
    workspace_as_planned<Small<Causal, Striped, ZigZag, Fp64>>(p);
  }
}

TEST_CASE("the workspace on Cpu is known before there is a Cpu") {
  for (Problem const& p :
       {Problem{.batch = 2, .seq = 300, .heads = 4, .kv_heads = 2}, Problem{.seq = 17, .heads = 3}}) {
    cpu_as_planned<OnCpu<Full, Contiguous, Fp32>>(p);
    cpu_as_planned<OnCpu<Causal, ZigZag, Bf16>>(p);
    cpu_as_planned<OnCpu<Causal, Striped, Fp64>>(p);
  }
}

TEST_CASE("bytes per rank fall with the ring and do not grow with the sequence") {
  using P = Small<Causal, ZigZag, void, Bf16>;
  for (int ranks : {2, 4, 8}) {
    Problem const problem{.seq = 1024 * ranks, .heads = 4};
    CHECK(plan::most_bytes<P>(problem, ranks).total() == plan::most_bytes<P>({.seq = 2048, .heads = 4}, 2).total());
  }
  // The same sequence on eight times the ranks; a ring of one is cheaper than that, nothing is under way in it.
  auto const bytes = [](int ranks) { return double(plan::most_bytes<P>({.seq = 65536, .heads = 4}, ranks).total()); };
  CHECK(near(bytes(2) / bytes(16), 8));
  CHECK(bytes(1) < 2 * bytes(2));
}

namespace {

struct LongContext : Policy {
  using Mask = Causal;
  using Shard = ZigZag;
  using Precision = Bf16;
  static constexpr int head_dim = 128;
};
constexpr Problem million{.seq = 1 << 20, .heads = 32, .kv_heads = 8};

static_assert(plan::fits<LongContext>(million, 16, plan::a100_nvlink), "a million tokens on 16 devices");
static_assert(!plan::fits<LongContext>(million, 1, 40e9), "but not on one of 40 GB");
static_assert(plan::fits<LongContext>(million, 16, 7e9) && !plan::fits<LongContext>(million, 8, 7e9), "bytes per rank");
static_assert(plan::fits<LongContext, 2>(million, 16, 8e9), "to the byte, on Cpu with two threads");

}  // namespace

TEST_CASE("table 1: activations of a layer") {
  using plan::Scheme;
  double const b = 2, s = 65536, h = 4096, n = 32, c = 2048;
  plan::Layer const layer{.batch = b, .seq = s, .hidden = h, .heads = n, .block = c};
  auto const vanilla = plan::activations(Scheme::vanilla, layer);
  CHECK(near(vanilla.attention, 2 * b * n * s * s));
  CHECK(near(vanilla.feed_forward, 8 * b * s * h));
  CHECK(near(vanilla.peak(), 2 * b * n * s * s));
  auto const efficient = plan::activations(Scheme::memory_efficient, layer);
  CHECK(near(efficient.attention, 2 * b * s * h + 4 * b * c * h));
  CHECK(near(efficient.peak(), 8 * b * s * h));
  auto const blockwise = plan::activations(Scheme::blockwise, layer);
  CHECK(near(blockwise.attention, 2 * b * s * h));
  CHECK(near(blockwise.feed_forward, 2 * b * s * h));
  CHECK(near(blockwise.peak(), 2 * b * s * h));
  // 6bch are elements, 2bch are bytes: the one cell of the table with another unit.
  auto const ring = plan::activations(Scheme::ring, layer);
  CHECK(near(ring.attention / layer.element_bytes, 6 * b * c * h));
  CHECK(near(ring.feed_forward, 2 * b * c * h));
  CHECK(near(ring.peak() / layer.element_bytes, 6 * b * c * h));
}

TEST_CASE("table 3: how much longer a ring's context is, from layers and devices alone") {
  struct Line {
    char const* name;
    double devices, layers, blockwise, ring;  // contexts in thousands, as printed
  };
  // 512 cores of TPU v3 and 1024 of v4 are 256 and 512 devices.
  Line const table[] = {{"8 A100, 3B", 8, 26, 64, 512},         {"8 A100, 7B", 8, 32, 32, 256},
                        {"8 A100, 13B", 8, 40, 16, 128},        {"32 A100, 7B", 32, 32, 128, 4096},
                        {"32 A100, 13B", 32, 40, 64, 2048},     {"TPU v3-512, 7B", 256, 32, 8, 2048},
                        {"TPU v3-512, 13B", 256, 40, 8, 1024},  {"TPU v4-1024, 3B", 512, 26, 32, 16384},
                        {"TPU v4-1024, 7B", 512, 32, 16, 8192}, {"TPU v4-1024, 13B", 512, 40, 16, 4096},
                        {"TPU v4-1024, 30B", 512, 60, 8, 2048}, {"TPU v5e-256, 3B", 256, 26, 32, 4096},
                        {"TPU v5e-256, 7B", 256, 32, 16, 2048}};
  for (Line const& line : table) {
    CAPTURE(line.name);
    double ratio[2];
    int i = 0;
    for (double bytes : {2e9, 40e9}) {  // whatever the weights leave: it cancels
      plan::Layer const layer{.hidden = 4096, .heads = 32};
      ratio[i++] = plan::longest_sequence(plan::Scheme::ring, bytes, layer, line.layers, line.devices) /
                   plan::longest_sequence(plan::Scheme::blockwise, bytes, layer, line.layers, line.devices);
    }
    CHECK(std::abs(ratio[0] / ratio[1] - 1) < 1e-3);
    CHECK(std::abs(ratio[0] / (line.devices * (line.layers + 1) / (line.layers + 6)) - 1) < 1e-3);
    // The table's contexts are powers of two: each ratio is rounded by up to two either way. On GPUs it is the nearest.
    double const printed = line.ring / line.blockwise;
    CHECK(printed >= ratio[0] / 2);
    CHECK(printed <= ratio[0] * 2);
    if (line.devices <= 32) CHECK(std::exp2(std::round(std::log2(ratio[0]))) == printed);
  }
}

TEST_CASE("schemes rank as in table 3") {
  using plan::Scheme;
  plan::Layer const layer{.hidden = 4096, .heads = 32, .block = 1024};
  double longest = 0;
  for (Scheme scheme : {Scheme::vanilla, Scheme::memory_efficient, Scheme::blockwise, Scheme::ring}) {
    double const seq = plan::longest_sequence(scheme, 20e9, layer, 32, 8);
    CHECK(seq > longest);
    longest = seq;
  }
}
