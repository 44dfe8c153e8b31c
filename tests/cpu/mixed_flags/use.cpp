// SPDX-License-Identifier: Apache-2.0
// Compiled twice, for two instruction sets, as RINGATTN_USE: one function that attends.
#include <ringattn/comm/solo.hpp>
#include <ringattn/cpu/backend.hpp>
#include <ringattn/ring_attention.hpp>

struct Shared : ringattn::Policy {
  using Mask = ringattn::Full;
  using Communicator = ringattn::Solo;
  static constexpr int head_dim = 16;
};

void RINGATTN_USE() {
  ringattn::Cpu cpu;
  ringattn::Solo comm;
  ringattn::RingAttention<Shared> ring(cpu, comm, {.problem = {.seq = 8}, .backward = false});
  auto const local = ring.local();
  ringattn::Tensor<float> q(local.q), k(local.k), v(local.v), out(local.out);
  ring.forward({.q = q, .k = k, .v = v, .out = out});
}
