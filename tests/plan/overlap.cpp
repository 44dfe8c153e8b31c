// SPDX-License-Identifier: Apache-2.0
// Time and messages: table 2 of Liu et al. 2023, the rule c >= F/B with grouped heads, masks and gradients, and the
// planner's messages against those that were sent.
#include <ringattn/comm/in_process.hpp>
#include <ringattn/plan/overlap.hpp>
#include <ringattn/ring_attention.hpp>

#include <doctest/doctest.h>

#include <atomic>

#include "naive_backend.hpp"

using namespace ringattn;
using plan::Pass;
using plan::Traveller;

namespace {

template <class Mask_, class Shard_, class Precision_ = Bf16, class Overlap_ = Overlapped> struct Small : Policy {
  using Mask = Mask_;
  using Shard = Shard_;
  using Precision = Precision_;
  using Overlap = Overlap_;
  using Backend = naive::Backend;
  static constexpr int head_dim = 8, value_dim = 4;
};

/// Never run: a plan needs no backend.
template <class Mask_> struct OnPaper : Policy {
  using Mask = Mask_;
  static constexpr int head_dim = 64;
};

/// Within 2 %, or the same once rounded as printed (one decimal, in thousands).
bool as_printed(double value, double printed) {
  return std::abs(value - printed) <= 0.02 * printed || std::abs(value - printed) <= 0.05;
}
bool near(double value, double expected) { return std::abs(value - expected) <= 0.02 * expected; }

}  // namespace

TEST_CASE("table 2: the smallest block and sequence that hide the transfer") {
  struct Line {
    plan::Hardware hardware;
    double block, sequence;  // thousands of tokens
  };
  Line const table[] = {{plan::a100_nvlink, 1.0, 6.2},
                        {plan::a100_infiniband, 24.5, 149.5},
                        {plan::tpu_v3, 1.1, 6.6},
                        {plan::tpu_v4, 1.0, 6.2},
                        {plan::tpu_v5e, 1.1, 6.3}};
  for (Line const& line : table) {
    CAPTURE(line.hardware.name);
    CHECK(as_printed(plan::least_block(line.hardware) / 1e3, line.block));
    CHECK(as_printed(plan::least_sequence(line.hardware) / 1e3, line.sequence));
    // The general rule gives the same for the paper's case: full mask, one key head per query head, forward.
    CHECK(near(plan::least_tokens(line.hardware, {}, Pass::forward), plan::least_block(line.hardware)));
  }
}

TEST_CASE("c >= F/B with grouped heads, masks and gradients") {
  for (plan::Hardware const& h : {plan::h100_nvlink, plan::h100_infiniband.at(0.6)})
    for (double g : {1.0, 8.0})
      for (double visible : {1.0, 0.5}) {
        double const f_per_b = h.flops / h.link_bandwidth, mask = 1 / visible;
        plan::Step const wide{.heads = 8 * g, .kv_heads = 8, .visible = visible, .element_bytes = 2, .wire_bytes = 4};
        plan::Step narrow = wide;
        narrow.wire_bytes = 2;
        CHECK(near(plan::least_tokens(h, wide, Pass::forward), mask * f_per_b / g));
        CHECK(near(plan::least_tokens(h, narrow, Pass::backward), 0.8 * mask * f_per_b / g));
        CHECK(near(plan::least_tokens(h, wide, Pass::backward), 1.2 * mask * f_per_b / g));
        CHECK(near(plan::least_tokens(h, wide, Pass::backward, Traveller::queries), 0.8 * mask * f_per_b));
        // At that size the two times meet; half the tokens leave the transfer visible.
        plan::Step at = wide;
        at.q_rows = at.kv_rows = plan::least_tokens(h, wide, Pass::backward) * 1.001;
        CHECK(plan::step_time(h, at, Pass::backward).hidden());
        at.q_rows = at.kv_rows = at.q_rows / 2;
        CHECK(!plan::step_time(h, at, Pass::backward).hidden());
      }
  // Peak rates: 2.2K tokens over NVLink, 19.8K over 400 Gb/s; 0.55K and 5K with eight queries per key head, causal.
  CHECK(near(plan::least_tokens(plan::h100_nvlink, {}, Pass::forward), 2.2e3));
  CHECK(near(plan::least_tokens(plan::h100_infiniband, {}, Pass::forward), 19.8e3));
  plan::Step const grouped{.heads = 8, .visible = 0.5};
  CHECK(near(plan::least_tokens(plan::h100_nvlink, grouped, Pass::forward), 0.55e3));
  CHECK(near(plan::least_tokens(plan::h100_infiniband, grouped, Pass::forward), 4.95e3));
}

TEST_CASE("FLOPs") {
  using P = OnPaper<Full>;
  constexpr Problem problem{.batch = 2, .seq = 1000, .kv_seq = 3000, .heads = 6, .kv_heads = 3};
  CHECK(plan::flops<P>(problem, Pass::forward) == 4. * 2 * 6 * 1000 * 3000 * 64);
  CHECK(plan::flops<P>(problem, Pass::backward) == 2.5 * plan::flops<P>(problem, Pass::forward));
  constexpr Problem square{.seq = 4096};
  CHECK(near(plan::flops<OnPaper<Causal>>(square, Pass::forward), plan::flops<P>(square, Pass::forward) / 2));
  static_assert(plan::flops<P>(square, Pass::forward) > 0, "usable in constant expressions");
}

namespace {

template <class P> void messages_as_planned(Problem problem, typename P::Mask mask = {}) {
  for (int ranks : {1, 2, 3, 4}) {
    std::atomic<int64_t> sent[2][2] = {};
    run_ranks(ranks, [&](InProcess& comm) {
      naive::Backend backend;
      RingAttention<P> ring(backend, comm, {.problem = problem, .mask = mask});
      auto const local = ring.local();
      using E = typename P::Precision::Element;
      Tensor<E> q(local.q), k(local.k), v(local.v), out(local.out), dout(local.out), dq(local.q), dk(local.k),
          dv(local.v);
      Tensor<typename P::Precision::Accumulator> lse(local.lse);
      ring.forward({.q = q, .k = k, .v = v, .out = out, .lse = lse});
      auto const forward = ring.timings();
      ring.backward({.q = q, .k = k, .v = v, .out = out, .lse = lse, .dout = dout, .dq = dq, .dk = dk, .dv = dv});
      sent[0][0] += forward.messages;
      sent[0][1] += forward.bytes;
      sent[1][0] += ring.timings().messages - forward.messages;
      sent[1][1] += ring.timings().bytes - forward.bytes;
    });
    Schedule const s = make_schedule(ranks, mask, typename P::Shard{}, typename P::Shard{}, problem);
    int i = 0;
    for (Pass pass : {Pass::forward, Pass::backward}) {
      CAPTURE(ranks);
      CAPTURE(i);
      plan::Messages const planned = plan::messages<P>(s, problem, pass);
      CHECK(planned.count == sent[i][0]);
      CHECK(planned.bytes == sent[i][1]);
      int64_t const block = problem.batch * problem.kv_heads * problem.seq / ranks * (P::head_dim + value_dim_of<P>);
      if (std::is_same_v<typename P::Mask, Full> && problem.seq % ranks == 0)
        CHECK(planned == plan::full_mask_messages<typename P::Precision>(ranks, block, pass));
      ++i;
    }
  }
}

}  // namespace

TEST_CASE("messages and bytes are those that were sent") {
  Problem const problem{.batch = 2, .seq = 24, .heads = 4, .kv_heads = 2};
  messages_as_planned<Small<Full, Contiguous, Bf16>>(problem);
  messages_as_planned<Small<Causal, Contiguous, Bf16>>(problem);
  messages_as_planned<Small<SlidingWindow, Contiguous, Fp64>>(problem, {.left = 3, .right = 0});
  messages_as_planned<Small<Full, ZigZag, Bf16>>({.seq = 3, .heads = 1, .kv_heads = 1});  // ranks without rows
}

TEST_CASE("a full mask sends P(P-1) forward and P(P-1) + P^2 backward") {
  static_assert(plan::full_mask_messages<Bf16>(4, 10, Pass::forward) == plan::Messages{12, 12 * 20}, "forward");
  static_assert(plan::full_mask_messages<Bf16>(4, 10, Pass::backward) == plan::Messages{12 + 16, 12 * 20 + 16 * 40},
                "backward");
  static_assert(plan::full_mask_messages<Fp32>(1, 10, Pass::backward) == plan::Messages{}, "a ring of one");
}

TEST_CASE("predicted time of a call") {
  plan::Hardware const slow{"slow", 1e9, 1e9, 0, 1e6}, fast{"fast", 1e9, 1e9, 0, 1e15};
  Problem const problem{.seq = 4096, .heads = 2};
  using F = Small<Full, Contiguous>;
  double const compute = plan::flops<F>(problem, Pass::forward) / 1e9;
  SUBCASE("transfer that costs nothing leaves the arithmetic, shared by the ranks") {
    CHECK(near(plan::predict<F>(fast, {.problem = problem}, 1, Pass::forward).seconds, compute));
    CHECK(near(plan::predict<F>(fast, {.problem = problem}, 8, Pass::forward).seconds, compute / 8));
    CHECK(plan::predict<F>(fast, {.problem = problem}, 8, Pass::forward).hidden() == doctest::Approx(1));
  }
  SUBCASE("a slow link: every step but the last waits for the next block") {
    double const block = 4096. / 8 * 2 * 12 * 2 / 1e6;  // seconds
    auto const call = plan::predict<F>(slow, {.problem = problem}, 8, Pass::forward);
    CHECK(near(call.transfer, 7 * block));
    CHECK(near(call.seconds, 7 * std::max(block, compute / 64) + compute / 64));
    using S = Small<Full, Contiguous, Bf16, Serial>;
    CHECK(near(plan::predict<S>(slow, {.problem = problem}, 8, Pass::forward).seconds, 7 * block + compute / 8));
    // Backward: 7 hops of K|V in bf16, 8 of dK|dV in fp32, the last of them with nothing to hide behind.
    auto const back = plan::predict<F>(slow, {.problem = problem}, 8, Pass::backward);
    CHECK(near(back.transfer, 7 * block + 8 * 2 * block));
    CHECK(back.seconds >= back.transfer);
  }
  SUBCASE("causal: balanced shards take half of full's time, contiguous ones nearly all of it") {
    auto const seconds = [&](auto policy) {
      using P = decltype(policy);
      return plan::predict<P>(fast, {.problem = problem}, 8, Pass::forward).seconds / (compute / 8);
    };
    CHECK(near(seconds(Small<Causal, ZigZag>{}), 0.5));
    CHECK(near(seconds(Small<Causal, Striped>{}), 0.5));
    CHECK(near(seconds(Small<Causal, Contiguous>{}), 7.5 / 8));
  }
  SUBCASE("a device that waits for its own memory: few queries, many keys") {
    plan::Hardware h = plan::h100_nvlink;
    plan::Step const decode{.q_rows = 1, .kv_rows = 1 << 20};
    CHECK(plan::step_time(h, decode, Pass::forward).compute ==
          doctest::Approx(decode.bytes_read() / h.memory_bandwidth));
  }
}
