// SPDX-License-Identifier: Apache-2.0
// Times attention of one precision (BENCH_PRECISION) against the multipliers' peak, read before and after each
// repetition.
#include "attention_case.hpp"

#include <cstring>

#include "accuracy.hpp"
#include "measure.hpp"

namespace bench {

template <class Precision_, class Mask_, int head_dim_> struct Pipeline : Policy {
  using Precision = Precision_;
  using Mask = Mask_;
  using Communicator = Solo;
  static constexpr int head_dim = head_dim_;
};

template <class P> Json measure(Shape const& shape, Settings const& settings) {
  using Element = typename P::Precision::Element;
  Problem const problem{.batch = shape.batch,
                        .seq = shape.queries > 0 ? shape.queries : shape.seq,
                        .kv_seq = shape.seq,
                        .heads = shape.heads,
                        .kv_heads = shape.kv_heads};
  Solo comm;
  Cpu cpu({.threads = settings.threads});
  RingAttention<P> ring(cpu, comm, {.problem = problem, .backward = settings.backward});
  Local const local = ring.local();
  Tensor<Element> q(local.q), k(local.k), v(local.v), out(local.out);
  Tensor<typename P::Precision::Accumulator> lse(local.lse);
  fill(q, 1), fill(k, 2), fill(v, 3);
  View<Element const> keys = k, values = v;
  Tensor<Element> cache[2];
  if (shape.queries > 0) {  // decoding reads from a cache, which has keys and values head by head
    for (auto& c : cache) c = Tensor<Element>(local.k);
    auto const to_cache = [&](View<Element const> from, Tensor<Element>& c) {
      auto const view = View<Element>::head_major(c.values().data(), from.extents);
      cpu.copy(from, view);
      return view;
    };
    keys = to_cache(k, cache[0]), values = to_cache(v, cache[1]);
  }
  ring.forward({.q = q, .k = keys, .v = values, .out = out, .lse = lse});

  Tensor<Element> dout, dq, dk, dv;
  if (settings.backward) {
    dout = Tensor<Element>(local.out), dq = Tensor<Element>(local.q);
    dk = Tensor<Element>(local.k), dv = Tensor<Element>(local.v);
    fill(dout, 4);
  }
  auto const call = [&] {
    if (settings.backward)
      ring.backward(
          {.q = q, .k = keys, .v = values, .out = out, .lse = lse, .dout = dout, .dq = dq, .dk = dk, .dv = dv});
    else
      ring.forward({.q = q, .k = keys, .v = values, .out = out, .lse = lse});
  };

  // Short calls are repeated until a repetition is long beside the clock and the peak loop.
  double start = now();
  call();
  int const calls = std::max(1, int(0.02 / (now() - start)));
  Unit const unit = unit_of<typename P::Precision>();
  double const flops =
      attention_flops(problem, P::head_dim, value_dim_of<P>, is_causal<typename P::Mask>, settings.backward);
  double const kv_bytes = double(k.values().size() + v.values().size()) * sizeof(Element);
  Sample seconds, gflops, percent, percent_cpu, peak, busy, kv_rate;
  for (int i = 0; i < settings.repetitions; ++i) {
    double const before = peak_gflops(unit, settings.threads), cpu_before = cpu_time();
    start = now();
    for (int c = 0; c < calls; ++c) call();
    double const wall = now() - start, used = cpu_time() - cpu_before;
    double const here = (before + peak_gflops(unit, settings.threads)) / 2;
    seconds.add(wall / calls);
    double const rate = flops * calls / wall * 1e-9;
    gflops.add(rate);
    kv_rate.add(kv_bytes * calls / wall * 1e-9);
    percent.add(100 * rate / here);
    percent_cpu.add(100 * rate / here * wall * settings.threads / used);
    peak.add(here);
    busy.add(used / wall / settings.threads);
  }

  Json j;
  j.set("seconds", seconds.json());
  j.set("gflops", gflops.json());
  j.set("percent", percent.json());
  j.set("percent_cpu", percent_cpu.json());  // of the CPU time we got: what other programs took is not counted
  j.set("peak", peak.json());
  j.set("cpu_per_thread", busy.json());
  j.set("kv_gb_per_s", kv_rate.json());  // keys and values, each counted once: what bounds few queries
  j.set("repetitions", settings.repetitions);
  j.set("calls_each", calls);
  j.set("flops", flops);
  j.set("workspace_bytes", double(ring.workspace_bytes()));
  Tile const tile = KernelOf<P>::tile(Cpu::arch);
  j.set("tile", {{"q", tile.q}, {"kv", tile.kv}});
  if (settings.rows > 0) {
    Finished<P> f{.q = q, .k = k, .v = v, .out = out, .lse = lse};
    if (settings.backward) f.dout = dout.view(), f.dq = dq.view(), f.dk = dk.view(), f.dv = dv.view();
    j.set("error", accuracy<P>(problem, {}, f, settings.rows));
  }
  return j;
}

template <class Precision> Json run_shape(Shape const& shape, Settings const& settings) {
  bool const causal = std::strcmp(shape.mask, "causal") == 0;
  if (shape.head_dim == 64)
    return causal ? measure<Pipeline<Precision, Causal, 64>>(shape, settings)
                  : measure<Pipeline<Precision, Full, 64>>(shape, settings);
  if constexpr (std::is_same_v<Precision, Fp32> || std::is_same_v<Precision, Bf16>)
    if (shape.head_dim == 128)
      return causal ? measure<Pipeline<Precision, Causal, 128>>(shape, settings)
                    : measure<Pipeline<Precision, Full, 128>>(shape, settings);
  if constexpr (std::is_same_v<Precision, Fp32> || std::is_same_v<Precision, Bf16>)
    if (!causal) {
      if (shape.head_dim == 96) return measure<Pipeline<Precision, Full, 96>>(shape, settings);
      if (shape.head_dim == 256) return measure<Pipeline<Precision, Full, 256>>(shape, settings);
    }
  if constexpr (std::is_same_v<Precision, Fp32>)
    if (!causal) {
      if (shape.head_dim == 32) return measure<Pipeline<Precision, Full, 32>>(shape, settings);
      if (shape.head_dim == 80) return measure<Pipeline<Precision, Full, 80>>(shape, settings);
    }
  return {};
}

template Json run_shape<BENCH_PRECISION>(Shape const&, Settings const&);

}  // namespace bench
