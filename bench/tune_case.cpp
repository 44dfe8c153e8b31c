// SPDX-License-Identifier: Apache-2.0
// Instantiates the grid of Tiles for one precision (BENCH_PRECISION) and head_dim (BENCH_HEAD_DIM).
#include "tune_case.hpp"

#include <memory>

namespace bench {
namespace {

template <class Mask_, class Tiles_> struct Pipeline : Policy {
  using Precision = BENCH_PRECISION;
  using Mask = Mask_;
  using Tiles = Tiles_;
  using Communicator = Solo;
  static constexpr int head_dim = BENCH_HEAD_DIM;
};

struct Operands {
  using Element = BENCH_PRECISION::Element;
  using Accumulator = BENCH_PRECISION::Accumulator;

  Operands(Local const& l) : q(l.q), k(l.k), v(l.v), out(l.out), dout(l.out), dq(l.q), dk(l.k), dv(l.v), lse(l.lse) {
    fill(q, 1), fill(k, 2), fill(v, 3), fill(dout, 4);
  }
  Tensor<Element> q, k, v, out, dout, dq, dk, dv;
  Tensor<Accumulator> lse;
};

/// What a pipeline needs to live: references among the members, so it stays where it is.
template <class P> struct Instance {
  Instance(Problem problem, int threads) : cpu(CpuOptions{.threads = threads}), ring(cpu, comm, {.problem = problem}) {}
  Solo comm;
  Cpu cpu;
  RingAttention<P> ring;
};

template <class P>
void add(std::vector<Candidate>& list, std::shared_ptr<Operands>& shared, Problem problem, int threads) {
  Tile const tile = KernelOf<P>::tile(Cpu::arch);
  for (Candidate const& c : list)
    if (c.tile == tile) return;
  auto instance = std::make_shared<Instance<P>>(problem, threads);
  if (!shared) shared = std::make_shared<Operands>(instance->ring.local());
  list.push_back({tile, [instance, o = shared](bool backward) {
                    if (backward)
                      instance->ring.backward({.q = o->q,
                                               .k = o->k,
                                               .v = o->v,
                                               .out = o->out,
                                               .lse = o->lse,
                                               .dout = o->dout,
                                               .dq = o->dq,
                                               .dk = o->dk,
                                               .dv = o->dv});
                    else
                      instance->ring.forward({.q = o->q, .k = o->k, .v = o->v, .out = o->out, .lse = o->lse});
                  }});
}

template <class Mask, int q, int... kv>
void add_row(std::vector<Candidate>& list, std::shared_ptr<Operands>& shared, Problem problem, int threads) {
  (add<Pipeline<Mask, FixedTiles<q, kv>>>(list, shared, problem, threads), ...);
}

template <class Mask> std::vector<Candidate> candidates(Problem problem, int threads) {
  std::vector<Candidate> list;
  std::shared_ptr<Operands> shared;
  add<Pipeline<Mask, DefaultTiles>>(list, shared, problem, threads);
  // The grid. Fewer lines compile faster. Matrix registers take lanes by 32, and like long key blocks.
  if constexpr (RINGATTN_AMX && std::is_same_v<BENCH_PRECISION::Element, BFloat16>) {
    add_row<Mask, 32, 64, 128, 192, 256, 384>(list, shared, problem, threads);
    add_row<Mask, 64, 64, 128, 192, 256, 384>(list, shared, problem, threads);
    add_row<Mask, 96, 64, 128, 192, 256, 384>(list, shared, problem, threads);
  } else {
    add_row<Mask, 32, 64, 96, 128, 192>(list, shared, problem, threads);
    add_row<Mask, 48, 64, 96, 128, 192>(list, shared, problem, threads);
    add_row<Mask, 64, 64, 96, 128, 192>(list, shared, problem, threads);
    add_row<Mask, 96, 64, 96, 128, 192>(list, shared, problem, threads);
  }
  return list;
}

[[maybe_unused]] bool const registered = [] {
  tune_entries().push_back({precision_name<BENCH_PRECISION>(), BENCH_HEAD_DIM, int(sizeof(BENCH_PRECISION::Element)),
                            unit_of<BENCH_PRECISION>(), [](bool causal, Problem problem, int threads) {
                              return causal ? candidates<Causal>(problem, threads) : candidates<Full>(problem, threads);
                            }});
  return true;
}();

}  // namespace
}  // namespace bench
