// SPDX-License-Identifier: Apache-2.0
// The program of the README: four ranks, one process, each with the rows the shard gives it.
#include <cmath>
#include <span>

//! [readme]
#include <ringattn/ringattn.hpp>

struct LongContext : ringattn::Policy {  // derive, redeclare what you change
  using Mask = ringattn::Causal;
  using Shard = ringattn::ZigZag;
  static constexpr int head_dim = 64;
};

void load_my_rows(std::span<ringattn::Rows const> rows, ringattn::Tensor<float>& x);  // yours: fills x, row by row

int main() {
  ringattn::Problem const whole{.batch = 1, .seq = 4096, .heads = 8, .kv_heads = 2};
  ringattn::run_ranks(4, [&](ringattn::InProcess& comm) {  // four ranks, one process
    ringattn::Cpu cpu;
    ringattn::RingAttention<LongContext> ring(cpu, comm, {.problem = whole});  // handshake, schedule, workspace
    auto const local = ring.local();                                           // the shapes of this rank's part
    ringattn::Tensor<float> q(local.q), k(local.k), v(local.v), out(local.out);
    for (auto* x : {&q, &k, &v}) load_my_rows(ring.rows(), *x);  // rows(): the global positions of this rank
    ring.forward({.q = q, .k = k, .v = v, .out = out});
  });
}
//! [readme]

void load_my_rows(std::span<ringattn::Rows const> rows, ringattn::Tensor<float>& x) {
  ringattn::Extents const e = x.extents();
  int64_t i = 0;
  for (ringattn::Rows const& run : rows)
    for (int64_t n = 0; n < run.count; ++n, ++i)
      for (int64_t h = 0; h < e.heads; ++h)
        for (int64_t d = 0; d < e.dim; ++d) x(0, i, h, d) = float(std::sin(double(run.at(n)) * 0.01 + double(h * d)));
}
