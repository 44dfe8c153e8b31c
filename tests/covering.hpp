// SPDX-License-Identifier: Apache-2.0
// Runs the rows of covering.txt. A program takes one part of the policies, so that several compile side by side.
#pragma once

#include <ringattn/cpu/backend.hpp>

#include <doctest/doctest.h>

#include <cstdio>
#include <string>

#include "covering_rows.hpp"
#include "replay.hpp"
#include "traffic.hpp"

namespace ringattn::test {

template <class Mask_, class Shard_, class KvShard_, class Precision_, int head_dim_, int value_dim_, class Overlap_>
struct CoveringPolicy : Policy {
  using Mask = Mask_;
  using Shard = Shard_;
  using KvShard = KvShard_;
  using Precision = Precision_;
  using Overlap = Overlap_;
  using Tiles = FixedTiles<16, 16>;  // small ones: several per shard even in short sequences
  static constexpr int head_dim = head_dim_, value_dim = value_dim_;
};

/// Small enough to be quick, long enough for several tiles and uneven shards.
inline int64_t even_length(RunTime const& r, int64_t dims) {
  int64_t const base = r.heads * dims > 1500 ? 26 : 60, ranks = r.ranks;
  return (base + 2 * ranks - 1) / (2 * ranks) * 2 * ranks;
}

inline bool all_same_bits(auto const& a, auto const& b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i) same = same_bits(a[i], b[i]);
  return same;
}

template <class P> void run_row(RunTime const& r, std::string const& text) {
  CAPTURE(text);
  PlanOptions<P> options{.problem = problem_of(r, even_length(r, P::head_dim)), .commit = r.commit};
  set_mask(options.mask, r, options.problem);
  options.backward = r.calls == Calls::with_backward;
  auto const setup = make_setup<P>(options, r.input, std::uint64_t(1000 + r.row));
  auto const ranks = run_ring<P>(r.ranks, setup);

  Verdict const verdict = Oracle<typename P::Precision>(setup).judge(ranks);
  CHECK_MESSAGE(verdict.ok(), verdict.text());
  CHECK(differs_from_replay(setup, ranks, std::max(1, r.ranks / 2)) == "");
  CHECK(all_same_bits(ranks, run_ring<P>(r.ranks, setup, chaotic(std::uint64_t(r.row)))));

  Schedule const s = make_schedule(r.ranks, options.mask, options.shard, options.kv_shard, options.problem);
  BruteForce const brute(r.ranks, options.mask, options.shard, options.kv_shard, options.problem);
  CHECK(BruteForce::sum(s.travel) == brute.fewest_hops());
  Problem const& p = setup.problem;
  auto const traffic =
      expected_traffic(s, s.direction > 0 ? brute.travel_up : brute.travel_down,
                       p.batch * p.kv_heads * (setup.head_dim + setup.value_dim),
                       sizeof(typename P::Precision::Element), sizeof(typename P::Precision::Wire), false);
  auto const back = expected_traffic(s, s.direction > 0 ? brute.travel_up : brute.travel_down,
                                     p.batch * p.kv_heads * (setup.head_dim + setup.value_dim),
                                     sizeof(typename P::Precision::Element), sizeof(typename P::Precision::Wire), true);
  TrafficOf forward, total;
  for (auto const& rank : ranks) {
    forward.messages += rank.forward.messages;
    forward.bytes += rank.forward.bytes;
    total.messages += rank.total.messages;
    total.bytes += rank.total.bytes;
  }
  CHECK(forward.messages == traffic.messages);
  CHECK(forward.bytes == traffic.bytes);
  CHECK(total.messages == traffic.messages + (options.backward ? back.messages : 0));
  CHECK(total.bytes == traffic.bytes + (options.backward ? back.bytes : 0));
  covering_count.add(verdict.worst());
}

/// The rows whose policy belongs to one part of `parts`.
template <int part, int parts> void run_part() {
  covering_count.list = "covering";
  covering_count.part = std::to_string(part);
#define ROW(row, policy, Mask, mask, Shard, KvShard, Precision, head_dim, value_dim, Overlap, heads, kv_heads, ranks, \
            length, calls, input, commit)                                                                             \
  if constexpr (policy % parts == part)                                                                               \
    run_row<CoveringPolicy<Mask, Shard, KvShard, Precision, head_dim, value_dim, Overlap>>(                           \
        {row, MaskVariant::mask, heads, kv_heads, ranks, Length::length, Calls::calls, InputClass::input,             \
         Commit::commit},                                                                                             \
        "row " #row ": " #mask " " #Shard " " #KvShard " " #Precision " " #head_dim "/" #value_dim " " #Overlap       \
        " heads " #heads "/" #kv_heads " P " #ranks " " #length " " #calls " " #input " " #commit);
#include "covering.txt"
#undef ROW
}

}  // namespace ringattn::test
