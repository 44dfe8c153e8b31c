// SPDX-License-Identifier: Apache-2.0
// Who needs whose keys, how far every block travels and which way the ring turns: plain data, the same on every rank.
#pragma once

#include <algorithm>
#include <vector>

#include "../concepts.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// The messages of a ring, before any is sent. Block c is at its owner in step 0 and one rank further in every step,
/// until it has been to the last rank that needs it, travel[c] hops away.
struct Schedule {
  int size = 1;                   ///< ranks
  int direction = 1;              ///< +1: blocks go to rank + 1; -1: to rank - 1
  int steps = 1;                  ///< 1 + the longest travel
  std::vector<char> need;         ///< [rank, owner]: is any pair of their rows visible
  std::vector<int> travel;        ///< [owner], hops
  std::vector<int64_t> q_count;   ///< [rank], query rows
  std::vector<int64_t> kv_count;  ///< [rank], key/value rows

  int wrap(int rank) const { return (rank % size + size) % size; }
  int next(int rank) const { return wrap(rank + direction); }
  int previous(int rank) const { return wrap(rank - direction); }
  /// Whose block comes to `rank` in `step` if it travels that far.
  int owner(int rank, int step) const { return wrap(rank - direction * step); }
  /// The rank where block c makes its last stop.
  int last_stop(int owner) const { return wrap(owner + direction * travel[size_t(owner)]); }
  bool needs(int rank, int owner) const { return need[size_t(rank) * size_t(size) + size_t(owner)] != 0; }
  /// Is a block at `rank` in `step`?
  bool holds(int rank, int step) const { return step < steps && travel[size_t(owner(rank, step))] >= step; }
  int64_t largest_kv() const { return *std::max_element(kv_count.begin(), kv_count.end()); }
};

namespace detail {

template <class Mask, class QRows, class KRows>
bool any_visible(Mask const& mask, QRows const& q_rows, KRows const& k_rows) {
  for (Rows const& q : q_rows)
    for (Rows const& k : k_rows)
      if (q.count > 0 && k.count > 0 && mask.coverage(q, k) != Coverage::none) return true;
  return false;
}

}  // namespace detail

/// Derives the schedule of a ring of `size` from mask and shards: O(size^2) coverage questions.
template <class Mask, class QShard, class KvShard>
Schedule make_schedule(int size, Mask const& mask, QShard const& q_shard, KvShard const& kv_shard, Problem problem) {
  Problem const p = problem.resolved();
  Schedule s;
  s.size = size;
  s.need.assign(size_t(size) * size_t(size), 0);
  for (int r = 0; r < size; ++r) {
    s.q_count.push_back(count_rows(q_shard.rows(Ring{r, size}, p.seq)));
    s.kv_count.push_back(count_rows(kv_shard.rows(Ring{r, size}, p.kv_seq)));
  }
  for (int r = 0; r < size; ++r) {
    auto const q_rows = q_shard.rows(Ring{r, size}, p.seq);
    for (int c = 0; c < size; ++c)
      s.need[size_t(r) * size_t(size) + size_t(c)] =
          detail::any_visible(mask, q_rows, kv_shard.rows(Ring{c, size}, p.kv_seq));
  }
  // Both ways round; the one with fewer hops wins, +1 on a tie.
  int64_t fewest = -1;
  for (int direction : {1, -1}) {
    std::vector<int> travel(size_t(size), 0);
    int64_t hops = 0;
    for (int c = 0; c < size; ++c) {
      for (int r = 0; r < size; ++r) {
        int const distance = s.wrap(direction * (r - c));
        if (s.needs(r, c)) travel[size_t(c)] = std::max(travel[size_t(c)], distance);
      }
      hops += travel[size_t(c)];
    }
    if (fewest < 0 || hops < fewest) {
      fewest = hops;
      s.direction = direction;
      s.travel = std::move(travel);
    }
  }
  s.steps = 1 + *std::max_element(s.travel.begin(), s.travel.end());
  return s;
}

}  // namespace ringattn
