// SPDX-License-Identifier: Apache-2.0
// A decoder that attends to an encoder: queries and keys of different lengths, sharded in different ways, forward and
// backward.
#include <cstdio>
#include <ringattn/ringattn.hpp>

#include "support/dense.hpp"

//! [cross_attention]
struct CrossAttention : ringattn::Policy {
  using Mask = ringattn::Full;           // every query sees the whole source
  using Shard = ringattn::ZigZag;        // the decoder's rows, as its causal self-attention has them
  using KvShard = ringattn::Contiguous;  // the encoder's rows
  static constexpr int head_dim = 32;
};
//! [cross_attention]

int main() {
  constexpr int ranks = 3;
  ringattn::Problem const problem{.batch = 2, .seq = 75, .kv_seq = 260, .heads = 6, .kv_heads = 2};
  ringattn::Extents const q_shape{2, 75, 6, 32}, kv_shape{2, 260, 2, 32};
  auto const dense =
      example::dense_attention(example::whole(q_shape, 0), example::whole(kv_shape, 1), example::whole(kv_shape, 2),
                               example::whole(q_shape, 3), ringattn::Full{});

  bool right[ranks] = {};
  ringattn::run_ranks(ranks, [&](ringattn::InProcess& comm) {
    ringattn::Cpu cpu;
    //! [cross_attention_call]
    ringattn::RingAttention<CrossAttention> ring(cpu, comm, {.problem = problem});
    auto const local = ring.local();
    ringattn::Tensor<float> q(local.q), out(local.out), lse(local.lse);  // rows(): decoder positions
    ringattn::Tensor<float> k(local.k), v(local.v);                      // kv_rows(): encoder positions
    example::fill(q, ring.rows(), 0);
    example::fill(k, ring.kv_rows(), 1);
    example::fill(v, ring.kv_rows(), 2);
    ring.forward({.q = q, .k = k, .v = v, .out = out, .lse = lse});

    ringattn::Tensor<float> dout(local.out), dq(local.q), dk(local.k), dv(local.v);
    example::fill(dout, ring.rows(), 3);
    ring.backward({.q = q, .k = k, .v = v, .out = out, .lse = lse, .dout = dout, .dq = dq, .dk = dk, .dv = dv});
    //! [cross_attention_call]

    double const error[] = {example::worst(out, ring.rows(), dense.out), example::worst(dq, ring.rows(), dense.dq),
                            example::worst(dk, ring.kv_rows(), dense.dk), example::worst(dv, ring.kv_rows(), dense.dv)};
    std::printf("rank %d, %d queries and %d keys: out differs by %.1e, dq %.1e, dk %.1e, dv %.1e\n", comm.rank(),
                int(local.q.seq), int(local.k.seq), error[0], error[1], error[2], error[3]);
    right[comm.rank()] = std::max({error[0], error[1], error[2], error[3]}) < 2e-5;
  });
  return right[0] && right[1] && right[2] ? 0 : 1;
}
