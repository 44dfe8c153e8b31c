// SPDX-License-Identifier: Apache-2.0
// How many (query, key) pairs of a block a mask lets through: closed forms for our masks, counting for yours.
#pragma once

#include "../policy/mask.hpp"

namespace ringattn::inline RINGATTN_ABI::plan {

namespace detail {

/// Sum over i in [0, n) of floor((a i + b) / m), for a, b >= 0 and m > 0; Euclid's algorithm on (a, m).
constexpr int64_t floor_sum(int64_t n, int64_t m, int64_t a, int64_t b) {
  int64_t sum = 0;
  while (n > 0) {
    sum += n * (n - 1) / 2 * (a / m) + n * (b / m);
    a %= m;
    b %= m;
    int64_t const top = a * n + b;
    n = top / m;
    b = top % m;
    int64_t const swap = a;
    a = m;
    m = swap == 0 ? 1 : swap;
  }
  return sum;
}

/// The first i in [0, q.count] with q.at(i) >= position.
constexpr int64_t first_at_or_after(Rows q, int64_t position) {
  if (position <= q.first) return 0;
  int64_t const i = (position - q.first + q.stride - 1) / q.stride;
  return i < q.count ? i : q.count;
}

/// Pairs with k <= q + shift.
constexpr int64_t pairs_up_to(Rows q, Rows k, int64_t shift) {
  if (q.count == 0 || k.count == 0) return 0;
  int64_t const some = first_at_or_after(q, k.first - shift), all = first_at_or_after(q, k.last() - shift);
  int64_t const n = all - some;  // queries that see more than none and fewer than all
  int64_t const slack = n > 0 ? q.at(some) + shift - k.first : 0;
  return n + floor_sum(n, k.stride, q.stride, slack) + (q.count - all) * k.count;
}

}  // namespace detail

/// Visible pairs of one block; for a mask of the user's by asking coverage(), and visible() where that stays partial.
template <class Mask> constexpr int64_t visible_pairs(Mask const& mask, Rows q, Rows k) {
  if (q.count == 0 || k.count == 0) return 0;
  Coverage const c = mask.coverage(q, k);
  if (c == Coverage::none) return 0;
  if (c == Coverage::full) return q.count * k.count;
  if (q.count == 1 && k.count == 1) return mask.visible(q.first, k.first);
  bool const cut_q = q.count >= k.count;
  int64_t const half = (cut_q ? q.count : k.count) / 2;
  if (cut_q) return visible_pairs(mask, q.slice(0, half), k) + visible_pairs(mask, q.slice(half, q.count - half), k);
  return visible_pairs(mask, q, k.slice(0, half)) + visible_pairs(mask, q, k.slice(half, k.count - half));
}
constexpr int64_t visible_pairs(Full, Rows q, Rows k) { return q.count * k.count; }
constexpr int64_t visible_pairs(Causal mask, Rows q, Rows k) { return detail::pairs_up_to(q, k, mask.offset); }
constexpr int64_t visible_pairs(SlidingWindow mask, Rows q, Rows k) {
  return detail::pairs_up_to(q, k, mask.offset + mask.right) - detail::pairs_up_to(q, k, mask.offset - mask.left - 1);
}

/// Visible pairs of two ranges of runs: a rank's queries and a block's keys.
template <class Mask, class QRows, class KRows>
requires requires(QRows const& q) { q.begin(); }
constexpr int64_t visible_pairs(Mask const& mask, QRows const& q_rows, KRows const& k_rows) {
  int64_t n = 0;
  for (Rows const& q : q_rows)
    for (Rows const& k : k_rows) n += visible_pairs(mask, q, k);
  return n;
}

/// Visible pairs of the whole problem, per batch entry and head.
template <class Mask> constexpr int64_t visible_pairs(Mask const& mask, Problem problem) {
  Problem const p = problem.resolved();
  return visible_pairs(mask, Rows{0, 1, p.seq}, Rows{0, 1, p.kv_seq});
}

}  // namespace ringattn::plan
