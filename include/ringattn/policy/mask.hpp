// SPDX-License-Identifier: Apache-2.0
// Masks over global positions: who sees whom, pair by pair and block by block.
//
// `offset` shifts the diagonal for q rows and k rows of different counts: 0 aligns the top left corners, and
// kv_seq - seq the bottom right ones (the last query sees the last key).
//
//      Causal{}        Causal{.offset = 2}     SlidingWindow{.left = 1, .right = 0}
//      k ->            k ->                    k ->
//   q  x . . .         x x x . .               x . . .
//   |  x x . .         x x x x .               x x . .
//   v  x x x .         x x x x x               . x x .
#pragma once

#include "../concepts.hpp"

namespace ringattn::inline RINGATTN_ABI {

namespace detail {

/// Too far from 0 to be added to positions without a thought of overflow.
constexpr bool far(int64_t distance) { return distance >= int64_t(1) << 60 || distance <= -(int64_t(1) << 60); }

}  // namespace detail

struct Full {
  RINGATTN_HD constexpr bool visible(int64_t, int64_t) const { return true; }
  RINGATTN_HD constexpr Coverage coverage(Rows, Rows) const { return Coverage::full; }
  constexpr std::uint64_t fingerprint() const { return fingerprint_of("full"); }
};

/// k <= q + offset.
struct Causal {
  int64_t offset = 0;

  RINGATTN_HD constexpr bool visible(int64_t q, int64_t k) const { return k <= q + offset; }
  RINGATTN_HD constexpr Coverage coverage(Rows q, Rows k) const {
    if (k.first > q.last() + offset) return Coverage::none;
    return k.last() <= q.first + offset ? Coverage::full : Coverage::partial;
  }
  constexpr std::uint64_t fingerprint() const { return fingerprint_of("causal", offset); }
  /// Why the object cannot be used, or null.
  constexpr char const* invalid() const { return detail::far(offset) ? "|offset| < 2^60" : nullptr; }

  /// The last query sees the last key.
  static constexpr Causal bottom_right(Problem p) { return {p.resolved().kv_seq - p.seq}; }
};

namespace detail {

/// Is one of the rows in low .. high?
RINGATTN_HD constexpr bool any_within(Rows r, int64_t low, int64_t high) {
  int64_t const least = low <= r.first ? r.first : r.first + (low - r.first + r.stride - 1) / r.stride * r.stride;
  return least <= high && least <= r.last();
}

}  // namespace detail

/// q + offset - left <= k <= q + offset + right; left, right >= 0.
struct SlidingWindow {
  int64_t left = 0, right = 0, offset = 0;

  RINGATTN_HD constexpr bool visible(int64_t q, int64_t k) const {
    return k >= q + offset - left && k <= q + offset + right;
  }
  RINGATTN_HD constexpr Coverage coverage(Rows q, Rows k) const {
    int64_t const low = offset - left, high = offset + right;                   // of k - q: what is visible
    int64_t const nearest = k.first - q.last(), farthest = k.last() - q.first;  // and what there is
    // Strided rows differ in steps: a narrow window can fall between two of them.
    bool const any = q.stride == 1          ? detail::any_within(k, q.first + low, q.last() + high)
                     : k.stride == 1        ? detail::any_within(q, k.first - high, k.last() - low)
                     : q.stride == k.stride ? detail::any_within({nearest, q.stride, q.count + k.count - 1}, low, high)
                                            : nearest <= high && farthest >= low;
    if (!any) return Coverage::none;
    bool const all = nearest >= low && farthest <= high;
    return all ? Coverage::full : Coverage::partial;
  }
  constexpr std::uint64_t fingerprint() const { return fingerprint_of("sliding window", left, right, offset); }
  /// Why the object cannot be used, or null.
  constexpr char const* invalid() const {
    if (left < 0 || right < 0) return "left >= 0 and right >= 0";
    return detail::far(left) || detail::far(right) || detail::far(offset) ? "left, right, |offset| < 2^60" : nullptr;
  }
};

static_assert(MaskPolicy<Full> && MaskPolicy<Causal> && MaskPolicy<SlidingWindow>);

}  // namespace ringattn
