// SPDX-License-Identifier: Apache-2.0
// A mask of your own: a prefix language model, in which a prompt is seen by all tokens and the rest is causal.
#include <cstdio>
#include <ringattn/ringattn.hpp>

#include "support/dense.hpp"

//! [custom_mask]
/// Every token sees the first `prefix` tokens, and of the others those before it.
struct PrefixLm {
  int64_t prefix = 0;

  constexpr bool visible(int64_t q, int64_t k) const { return k < prefix || k <= q; }
  /// Of a whole block: this is what saves work and messages. `partial` is always legal, the other two must be exact.
  constexpr ringattn::Coverage coverage(ringattn::Rows q, ringattn::Rows k) const {
    if (k.first >= prefix && k.first > q.last()) return ringattn::Coverage::none;
    return k.last() < prefix || k.last() <= q.first ? ringattn::Coverage::full : ringattn::Coverage::partial;
  }
  /// Ranks compare it, so that no two masks meet in one ring.
  constexpr std::uint64_t fingerprint() const { return ringattn::fingerprint_of("prefix lm", prefix); }
};

struct PromptAndAnswer : ringattn::Policy {
  using Mask = PrefixLm;
  using Shard = ringattn::ZigZag;
  static constexpr int head_dim = 32;
};
//! [custom_mask]

int main() {
  constexpr int ranks = 4;
  PrefixLm const mask{.prefix = 100};
  ringattn::Problem const problem{.seq = 333, .heads = 4, .kv_heads = 2};
  ringattn::Extents const q_shape{1, 333, 4, 32}, kv_shape{1, 333, 2, 32};
  auto const dense = example::dense_attention(example::whole(q_shape, 0), example::whole(kv_shape, 1),
                                              example::whole(kv_shape, 2), example::whole(q_shape, 3), mask);

  double error[ranks];
  ringattn::run_ranks(ranks, [&](ringattn::InProcess& comm) {
    ringattn::Cpu cpu;
    ringattn::RingAttention<PromptAndAnswer> ring(cpu, comm, {.problem = problem, .mask = mask});
    auto const local = ring.local();
    ringattn::Tensor<float> q(local.q), k(local.k), v(local.v), out(local.out);
    example::fill(q, ring.rows(), 0);
    example::fill(k, ring.rows(), 1);
    example::fill(v, ring.rows(), 2);
    ring.forward({.q = q, .k = k, .v = v, .out = out});
    error[comm.rank()] = example::worst(out, ring.rows(), dense.out);
  });

  bool right = true;
  for (int r = 0; r < ranks; ++r) {
    std::printf("rank %d: differs from the dense computation by %.1e\n", r, error[r]);
    right = right && error[r] < 1e-5;
  }
  return right ? 0 : 1;
}
