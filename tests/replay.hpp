// SPDX-License-Identifier: Apache-2.0
// What a ring must equal bit for bit: one device that takes the same runs in the same order, and, for dk and dv, the
// same steps one after the other.
#pragma once

#include <ringattn/comm/solo.hpp>

#include <optional>

#include "conformance.hpp"

namespace ringattn::test {

/// All rows of another shard, owner by owner in ring order: what a ring of one must be given to repeat a rank's work.
template <class Shard> struct Walk {
  Shard shard{};
  int size = 1;       ///< of the ring that is repeated
  int first = 0;      ///< the owner that comes first
  int direction = 1;  ///< of that ring: the block of `first - direction` comes next

  std::vector<Rows> rows(Ring here, int64_t seq) const {
    std::vector<Rows> all;
    for (int step = 0; here.rank == 0 && step < size; ++step) {
      int const owner = ((first - direction * step) % size + size) % size;
      for (Rows const& r : shard.rows(Ring{owner, size}, seq)) all.push_back(r);
    }
    return all;
  }
  std::uint64_t fingerprint() const { return fingerprint_of("walk", shard.fingerprint(), size, first, direction); }
};

/// P on one device.
template <class P> struct Walked : P {
  using Shard = Walk<typename P::Shard>;
  using KvShard = Walk<KvShardOf<P>>;
  using Communicator = Solo;
};

/// A policy whose shard can also be walked through, on one device, is its own.
template <class P> struct WalkedType { using type = Walked<P>; };
template <class P>
requires(P::Shard::walks) struct WalkedType<P> {
  using type = P;
};

/// out, lse and dq of one rank, from one RingAttention on one device. `ranks` of the ring it belongs to.
template <class P>
RankResult<typename P::Precision> replay_queries(Setup<P> const& setup, Schedule const& schedule, int rank) {
  using W = typename WalkedType<P>::type;
  auto const& o = setup.options;
  Setup<W> solo({.problem = o.problem,
                 .mask = o.mask,
                 .score = o.score,
                 .shard = {o.shard, schedule.size, rank, schedule.direction},
                 .kv_shard = {o.kv_shard, schedule.size, rank, schedule.direction},
                 .scale = o.scale,
                 .backward = o.backward});
  solo.q = setup.q;
  solo.k = setup.k;
  solo.v = setup.v;
  solo.dout = setup.dout;
  solo.backward = setup.backward;
  typename P::Backend backend;
  typename W::Communicator comm;
  auto const all = run_rank<W>(backend, comm, solo);
  // The rank's own rows come first in every batch entry.
  auto const head = [&](auto const& x, Extents const& e) {
    auto part = x;
    part.clear();
    int64_t const width = e.heads * e.dim;
    for (int64_t b = 0; b < e.batch && !x.empty(); ++b) {
      auto const at = x.begin() + b * e.seq * width;
      part.insert(part.end(), at, at + schedule.q_count[size_t(rank)] * width);
    }
    return part;
  };
  RankResult<typename P::Precision> r;
  r.out = head(all.out, setup.out_extents());
  r.lse = head(all.lse, setup.lse_extents());
  r.dq = head(all.dq, setup.q_extents());
  return r;
}

/// dk and dv of every rank, step by step through the backend, from what forward wrote. Overwrites `dk` and `dv`.
template <class P>
void replay_keys(Setup<P> const& setup, Schedule const& s, std::vector<RankResult<typename P::Precision>>& ranks) {
  using K = KernelOf<P>;
  using Accumulator = typename K::Accumulator;
  using Wire = typename P::Precision::Wire;
  using Element = typename P::Precision::Element;
  using Backend = typename P::Backend;
  using Space = typename Backend::Space;
  auto const& o = setup.options;
  Problem const p = setup.problem;
  Backend backend;

  struct Rank {
    std::vector<Rows> q_rows, k_rows;
    std::optional<Held<Element, Backend>> q, k, v, dout, out;
    std::optional<Held<Accumulator, Backend>> lse;
    std::optional<Held<Wire, Backend>> sum;  // of this rank's own block: dk|dv, head-major
    std::optional<decltype(backend.allocate(0))> state;
    BackwardStep<K, Space> step;
  };
  std::vector<Rank> all(static_cast<size_t>(s.size));
  auto const k_extents = [&](int c) { return Extents{p.batch, s.kv_count[size_t(c)], p.kv_heads, P::head_dim}; };
  auto const v_extents = [&](int c) { return Extents{p.batch, s.kv_count[size_t(c)], p.kv_heads, value_dim_of<P>}; };

  int64_t runs = 1;
  for (int r = 0; r < s.size; ++r) {
    for (Rows const& x : o.shard.rows(Ring{r, s.size}, p.seq)) all[size_t(r)].q_rows.push_back(x);
    for (Rows const& x : o.kv_shard.rows(Ring{r, s.size}, p.kv_seq)) all[size_t(r)].k_rows.push_back(x);
    runs = std::max(runs, int64_t(all[size_t(r)].k_rows.size()));
  }
  for (int r = 0; r < s.size; ++r) {
    Rank& a = all[size_t(r)];
    int64_t const n = s.q_count[size_t(r)];
    a.q.emplace(backend, take_rows(setup.q, setup.q_extents(), a.q_rows));
    a.dout.emplace(backend, take_rows(setup.dout, setup.out_extents(), a.q_rows));
    a.k.emplace(backend, take_rows(setup.k, setup.k_extents(), a.k_rows));
    a.v.emplace(backend, take_rows(setup.v, setup.v_extents(), a.k_rows));
    a.out.emplace(backend, ranks[size_t(r)].out);
    a.lse.emplace(backend, ranks[size_t(r)].lse);
    a.sum.emplace(backend, std::vector<Wire>(size_t(k_extents(r).count() + v_extents(r).count())));
    a.state.emplace(backend.allocate(backend.template attend_backward_bytes<K>({.batch = p.batch,
                                                                                .heads = p.heads,
                                                                                .kv_heads = p.kv_heads,
                                                                                .q_rows = a.q_rows,
                                                                                .kv_count = s.largest_kv(),
                                                                                .kv_runs = runs})));
    a.step.q = {a.q->data(), {p.batch, n, p.heads, P::head_dim}};
    a.step.dout = {a.dout->data(), {p.batch, n, p.heads, value_dim_of<P>}};
    a.step.out = {a.out->data(), {p.batch, n, p.heads, value_dim_of<P>}};
    a.step.lse = {a.lse->data(), {p.batch, n, p.heads, 1}};
    a.step.q_rows = a.q_rows;
    a.step.mask = o.mask;
    a.step.score = o.score;
    a.step.scale = Accumulator(o.scale != 0 ? o.scale : 1 / std::sqrt(double(P::head_dim)));
    a.step.state = a.state->data();
    backend.template begin_backward<K>(a.step);
  }
  for (int i = 0; i < s.steps; ++i)
    for (int r = 0; r < s.size; ++r) {
      int const c = s.owner(r, i);
      if (i > 0 && !(s.holds(r, i) && s.needs(r, c))) continue;
      Rank& a = all[size_t(r)];
      int64_t const count = k_extents(c).count() + v_extents(c).count();
      auto mine = held(backend, std::vector<Accumulator>(size_t(count), Accumulator(1e30)));
      a.step.k = {all[size_t(c)].k->data(), k_extents(c)};
      a.step.v = {all[size_t(c)].v->data(), v_extents(c)};
      a.step.k_rows = all[size_t(c)].k_rows;
      a.step.dk = View<Accumulator, Space>::head_major(mine.data(), k_extents(c));
      a.step.dv = View<Accumulator, Space>::head_major(mine.data() + k_extents(c).count(), v_extents(c));
      backend.template step_backward<K>(a.step);
      auto& sum = *all[size_t(c)].sum;
      auto arriving = held(backend, sum.get());
      backend.accumulate(mine.data(), i > 0 ? arriving.data() : nullptr, sum.data(), count);
    }
  for (int c = 0; c < s.size; ++c) {
    RankResult<typename P::Precision>& r = ranks[size_t(c)];
    auto dk = held(backend, garbage<Element>(k_extents(c))), dv = held(backend, garbage<Element>(v_extents(c)));
    Wire const* const sum = all[size_t(c)].sum->data();
    backend.copy(View<Wire const, Space>::head_major(sum, k_extents(c)), View<Element, Space>(dk.data(), k_extents(c)));
    backend.copy(View<Wire const, Space>::head_major(sum + k_extents(c).count(), v_extents(c)),
                 View<Element, Space>(dv.data(), v_extents(c)));
    r.dk = dk.get();
    r.dv = dv.get();
  }
}

/// The ring's results against one device's: which tensors differ, or an empty string. `each`: replay the queries of
/// every `each`-th rank only (a replay costs as much as the whole ring).
template <class P>
std::string differs_from_replay(Setup<P> const& setup, std::vector<RankResult<typename P::Precision>> const& ranks,
                                int each = 1) {
  auto const& o = setup.options;
  Schedule const s = make_schedule(int(ranks.size()), o.mask, o.shard, o.kv_shard, o.problem);
  std::string wrong;
  auto const check = [&](char const* tensor, int rank, bool same) {
    if (!same) wrong += std::string(wrong.empty() ? "" : ", ") + tensor + " of rank " + std::to_string(rank);
  };
  for (int r = 0; r < s.size; r += each) {
    auto const solo = replay_queries(setup, s, r);
    check("out", r, same_bits(solo.out, ranks[size_t(r)].out));
    check("lse", r, same_bits(solo.lse, ranks[size_t(r)].lse));
    if (setup.backward) check("dq", r, same_bits(solo.dq, ranks[size_t(r)].dq));
  }
  if (setup.backward) {
    auto replayed = ranks;
    replay_keys(setup, s, replayed);
    for (int r = 0; r < s.size; ++r) {
      check("dk", r, same_bits(replayed[size_t(r)].dk, ranks[size_t(r)].dk));
      check("dv", r, same_bits(replayed[size_t(r)].dv, ranks[size_t(r)].dv));
    }
  }
  return wrong;
}

}  // namespace ringattn::test
