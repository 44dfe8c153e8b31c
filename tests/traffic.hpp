// SPDX-License-Identifier: Apache-2.0
// What a ring may send, worked out from single (query, key) pairs: nothing that nobody uses, nothing twice.
#pragma once

#include <ringattn/ring/schedule.hpp>

#include <algorithm>
#include <vector>

namespace ringattn::test {

/// Hops of every owner's block, brute force.
struct BruteForce {
  int size = 1;
  std::vector<char> need;                   ///< [rank, owner]
  std::vector<int> travel_up, travel_down;  ///< [owner], towards rank + 1 and rank - 1

  template <class Mask, class Shard, class KvShard>
  BruteForce(int ranks, Mask const& mask, Shard const& shard, KvShard const& kv_shard, Problem const& p)
      : size(ranks), need(size_t(ranks * ranks)), travel_up(size_t(ranks)), travel_down(size_t(ranks)) {
    auto const positions = [&](auto const& s, int rank, int64_t seq) {
      std::vector<int64_t> all;
      for (Rows const& r : s.rows(Ring{rank, ranks}, seq))
        for (int64_t i = 0; i < r.count; ++i) all.push_back(r.at(i));
      return all;
    };
    for (int r = 0; r < ranks; ++r)
      for (int c = 0; c < ranks; ++c) {
        auto const queries = positions(shard, r, p.seq), keys = positions(kv_shard, c, p.resolved().kv_seq);
        bool any = false;
        for (int64_t q : queries)
          for (int64_t k : keys) any = any || mask.visible(q, k);
        need[size_t(r * ranks + c)] = any;
        if (!any) continue;
        travel_up[size_t(c)] = std::max(travel_up[size_t(c)], (r - c + ranks) % ranks);
        travel_down[size_t(c)] = std::max(travel_down[size_t(c)], (c - r + ranks) % ranks);
      }
  }
  static int sum(std::vector<int> const& travel) {
    int n = 0;
    for (int t : travel) n += t;
    return n;
  }
  int fewest_hops() const { return std::min(sum(travel_up), sum(travel_down)); }
};

/// Messages and bytes of all ranks together, in one call.
struct TrafficOf {
  int64_t messages = 0, bytes = 0;
};

/// `element`, `wire`: bytes that one element of K|V and of dK|dV takes; `row`: elements of K|V at one position, all
/// batch entries and heads. Every block takes `travel` hops; in the backward pass its gradient takes the same and then
/// goes home.
inline TrafficOf expected_traffic(Schedule const& s, std::vector<int> const& travel, int64_t row, int64_t element,
                                  int64_t wire, bool backward) {
  TrafficOf t;
  for (int c = 0; c < s.size; ++c) {
    int64_t const hops = travel[size_t(c)], elements = row * s.kv_count[size_t(c)];
    if (hops == 0 || elements == 0) continue;
    t.messages += hops + (backward ? hops + 1 : 0);
    t.bytes += hops * elements * element + (backward ? (hops + 1) * elements * wire : 0);
  }
  return t;
}

}  // namespace ringattn::test
