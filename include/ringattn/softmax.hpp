// SPDX-License-Identifier: Apache-2.0
// The online-softmax algebra, once, for host and device. Base 2 inside: scores are multiplied by log2(e) beforehand.
//
// A row's running state is (o, max, sum): o = sum_j 2^(s_j - max) v_j and sum = sum_j 2^(s_j - max), over the keys
// seen. Nothing seen yet is (0, -inf, 0). Two states merge by rescaling both to the larger maximum (Milakov &
// Gimelshein 2018).
#pragma once

#include <cmath>
#include <limits>

#include "config.hpp"

namespace ringattn::inline RINGATTN_ABI::softmax {

inline constexpr double log2_e = 1.4426950408889634;
inline constexpr double ln_2 = 0.6931471805599453;

template <class A> inline constexpr A minus_infinity = -std::numeric_limits<A>::infinity();

/// The larger of two maxima; NaN wins, so that a NaN score reaches its row's output instead of being skipped.
template <class A> RINGATTN_HD inline A max(A running, A score) {
  return score > running || score != score ? score : running;
}

/// Factor for what was summed under `old_max`. Equal maxima give 1 even when both are -inf: -inf - -inf is NaN.
template <class A> RINGATTN_HD inline A rescale(A old_max, A new_max) {
  using std::exp2;
  return old_max == new_max ? A(1) : exp2(old_max - new_max);
}

/// Weight of a score (base 2) under a maximum (base 2). An invisible score, -inf, weighs exactly 0 under every maximum.
template <class A> RINGATTN_HD inline A weight(A score, A max) {
  using std::exp2;
  return score == minus_infinity<A> ? A(0) : exp2(score - max);
}

/// 1 / sum; a row that saw no key gets 0, so that its output is 0 and not 0/0.
template <class A> RINGATTN_HD inline A normaliser(A sum) { return sum == A(0) ? A(0) : A(1) / sum; }

/// Natural-log LSE of a finished row: max ln 2 + ln sum; -inf if it saw no key.
template <class A> RINGATTN_HD inline A lse(A max, A sum) {
  using std::log;
  return sum == A(0) ? minus_infinity<A> : A(max * A(ln_2) + log(sum));
}

/// Max and sum of a row, and the factors that bring two partial outputs to their merged maximum.
template <class A> struct Merged {
  A max, sum, left, right;  ///< o = left * o_left + right * o_right
};

/// Merges two states of the same row, in this order.
template <class A> RINGATTN_HD inline Merged<A> merge(A max_left, A sum_left, A max_right, A sum_right) {
  A const m = softmax::max(max_left, max_right);
  A const l = rescale(max_left, m), r = rescale(max_right, m);
  return {m, l * sum_left + r * sum_right, l, r};
}

}  // namespace ringattn::softmax
