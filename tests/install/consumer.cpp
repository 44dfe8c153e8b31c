// SPDX-License-Identifier: Apache-2.0
// What a user's first program looks like: four ranks attend over one sequence. Built in each way ringattn can be found.
#include <cstdio>
#include <ringattn/ringattn.hpp>

struct Small : ringattn::Policy {
  using Mask = ringattn::Causal;
  using Shard = ringattn::ZigZag;
  static constexpr int head_dim = 16;
};

int main() {
  ringattn::Problem const whole{.batch = 1, .seq = 64, .heads = 2, .kv_heads = 1};
  ringattn::run_ranks(4, [&](ringattn::InProcess& comm) {
    ringattn::Cpu cpu;
    ringattn::RingAttention<Small> ring(cpu, comm, {.problem = whole});
    auto const local = ring.local();
    ringattn::Tensor<float> q(local.q), k(local.k), v(local.v), out(local.out);
    for (float& x : v.values()) x = 1;  // so that every output is a mean of ones
    ring.forward({.q = q, .k = k, .v = v, .out = out});
    for (float x : out.values())
      if (x < 0.999f || x > 1.001f) throw ringattn::Error(ringattn::ErrorCode::transport, comm.rank(), "out", "1", "");
  });
  std::puts("ringattn works");
}
