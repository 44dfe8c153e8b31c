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

  /// The last query sees the last key.
  static constexpr Causal bottom_right(Problem p) { return {p.resolved().kv_seq - p.seq}; }
};

/// q + offset - left <= k <= q + offset + right; left, right >= 0.
struct SlidingWindow {
  int64_t left = 0, right = 0, offset = 0;

  RINGATTN_HD constexpr bool visible(int64_t q, int64_t k) const {
    return k >= q + offset - left && k <= q + offset + right;
  }
  RINGATTN_HD constexpr Coverage coverage(Rows q, Rows k) const {
    int64_t const low = offset - left, high = offset + right;
    int64_t const nearest = k.first - q.last(), farthest = k.last() - q.first;  // k - q lies between
    // Rows of equal stride differ in steps of it: a narrow window can fall between two steps.
    int64_t const step = q.stride == k.stride ? q.stride : 1;
    int64_t const least = nearest >= low ? nearest : nearest + (low - nearest + step - 1) / step * step;
    if (least > high || least > farthest) return Coverage::none;
    bool const all = nearest >= low && farthest <= high;
    return all ? Coverage::full : Coverage::partial;
  }
  constexpr std::uint64_t fingerprint() const { return fingerprint_of("sliding window", left, right, offset); }
  /// Why the object cannot be used, or null.
  constexpr char const* invalid() const { return left < 0 || right < 0 ? "left >= 0 and right >= 0" : nullptr; }
};

static_assert(MaskPolicy<Full> && MaskPolicy<Causal> && MaskPolicy<SlidingWindow>);

}  // namespace ringattn
