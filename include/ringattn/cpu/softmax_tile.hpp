// SPDX-License-Identifier: Apache-2.0
// The online softmax of a tile of scores with query rows as lanes, and what backward makes of its scores.
#pragma once

#include "../softmax.hpp"
#include "gemm_tile.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

/// How a scale reaches the scores: queries are multiplied by `packed` when they are packed, products by `product` when
/// they become base-2 scores. product > 0, so that the largest product gives the largest score.
template <class A> struct Scaling { A packed, product; };

/// Pairs of bfloat16 hold the queries as they came: the scale is left to the products, but for its sign (and for what
/// is no positive number at all). With a score policy that is not the identity, scores are in natural units.
template <class K, class T> Scaling<typename K::Accumulator> scaling(typename K::Accumulator scale) {
  using A = typename K::Accumulator;
  A const factor = K::Score::identity ? scale * A(softmax::log2_e) : scale;
  if constexpr (terms_of<T> == 1) return {factor, 1};
  if (factor > 0) return {1, factor};
  if (factor < 0) return {-1, -factor};
  return {factor, 1};
}

template <class T, class A>
using PolynomialFor = std::conditional_t<terms_of<T> == 2, BFloat16WeightPolynomial, WeightPolynomial<A>>;

/// Continues `max` and `sum` of each lane with n rows of products, which become weights: in place, or as pairs of rows
/// in `weights`, the last of an odd number paired with zeros. alpha: the factor for what was summed before; false if it
/// is 1 in all lanes. A NaN score need not win the maximum: its weight is NaN, and so is all that is summed.
template <int vectors, class T, class A>
[[gnu::noinline]] bool softmax_rows(A* s, int64_t n, A product, A* max, A* sum, A* alpha, T* weights) {
  constexpr int lane = vector_lanes<A>, lanes = vectors * lane;
  using V = Vec<A>;
  V const factor = V::broadcast(product), lowest = V::broadcast(softmax::minus_infinity<A>);
  V top[vectors], shift[vectors], total[vectors];
  for (int j = 0; j < vectors; ++j) top[j] = lowest;
  for (int64_t k = 0; k < n; ++k)
    for (int j = 0; j < vectors; ++j) top[j] = simd::max(V::load(s + k * lanes + j * lane), top[j]);
  bool changed = false;
  for (int j = 0; j < vectors; ++j) {
    V const before = V::load(max + j * lane);
    top[j] = simd::max(top[j] * factor, before);
    shift[j] = simd::where_equal(top[j], lowest, V::zero(), top[j]);  // -inf - -inf would be NaN
    total[j] = V::zero();
    changed |= simd::any_different(top[j], before);
  }
  if (changed) {
    V rescale[vectors];
    for (int j = 0; j < vectors; ++j) rescale[j] = V::load(max + j * lane) - shift[j];
    simd::exp2<WeightPolynomial<A>>(rescale);
    for (int j = 0; j < vectors; ++j) {
      V const before = V::load(max + j * lane);
      rescale[j] = simd::where_equal(before, top[j], V::broadcast(A(1)), rescale[j]);
      rescale[j].store(alpha + j * lane);
      (V::load(sum + j * lane) * rescale[j]).store(sum + j * lane);
      top[j].store(max + j * lane);
    }
  }
  auto const weigh = [&](int64_t k, auto rows) RINGATTN_INLINED {
    constexpr int count = rows * vectors;
    V p[count];
    for (int i = 0; i < count; ++i) p[i] = simd::fms(V::load(s + k * lanes + i * lane), factor, shift[i % vectors]);
    simd::exp2<PolynomialFor<T, A>>(p);
    for (int i = 0; i < count; ++i) total[i % vectors] = total[i % vectors] + p[i];
    if constexpr (terms_of<T> == 1)
      for (int i = 0; i < count; ++i) p[i].store(s + k * lanes + i * lane);
    else
      for (int j = 0; j < vectors; ++j)
        pair_lanes(p[j], rows == 2 ? p[count - vectors + j] : V::zero()).store(weights + k / 2 * lanes + j * lane);
  };
  for (int64_t k = 0; k + 2 <= n; k += 2) weigh(k, std::integral_constant<int, 2>{});
  if (n % 2) weigh(n - 1, std::integral_constant<int, 1>{});
  for (int j = 0; j < vectors; ++j) (V::load(sum + j * lane) + total[j]).store(sum + j * lane);
  return changed;
}

/// softmax_rows with `vectors` <= most of them.
template <int most, class T, class A>
bool narrow_softmax_rows(int vectors, A* s, int64_t n, A product, A* max, A* sum, A* alpha, T* weights) {
  if constexpr (most > 1)
    if (vectors < most) return narrow_softmax_rows<most - 1>(vectors, s, n, product, max, sum, alpha, weights);
  return softmax_rows<most>(s, n, product, max, sum, alpha, weights);
}

/// Merges the maxima and sums of a lane's next state into its state, and tells the factors of what both summed. A state
/// that saw nothing is (0, -inf, 0), and its factor -0, so that the other one keeps all its bits.
template <class A>
[[gnu::noinline]] void merge_states(int64_t lanes, A* max, A* sum, A const* next_max, A const* next_sum, A* left,
                                    A* right) {
  using V = Vec<A>;
  V const lowest = V::broadcast(softmax::minus_infinity<A>), one = V::broadcast(A(1)), nothing = V::broadcast(A(-0.));
  for (int64_t w = 0; w < lanes; w += V::lanes) {
    V const a = V::load(max + w), b = V::load(next_max + w), top = simd::max(a, b);
    V const shift = simd::where_equal(top, lowest, V::zero(), top);
    V x[2] = {a - shift, b - shift};
    simd::exp2<WeightPolynomial<A>>(x);
    x[0] = simd::where_equal(a, top, one, simd::where_equal(a, lowest, nothing, x[0]));
    x[1] = simd::where_equal(b, lowest, nothing, simd::where_equal(b, top, one, x[1]));
    top.store(max + w);
    fma(V::load(next_sum + w), x[1], V::load(sum + w) * x[0]).store(sum + w);
    x[0].store(left + w);
    x[1].store(right + w);
  }
}

/// out = left out + right next, for `rows` rows of `vectors` <= most vectors of lanes, with factors by lane.
template <int most, class A>
[[gnu::noinline]] void merge_lanes(int vectors, int64_t rows, A* out, A const* next, A const* left, A const* right) {
  if constexpr (most > 1)
    if (vectors < most) return merge_lanes<most - 1>(vectors, rows, out, next, left, right);
  using V = Vec<A>;
  V by[2][most];
  for (int j = 0; j < most; ++j) by[0][j] = V::load(left + j * V::lanes), by[1][j] = V::load(right + j * V::lanes);
  for (; rows > 0; --rows)
    for (int j = 0; j < most; ++j, out += V::lanes, next += V::lanes)
      fma(V::load(next), by[1][j], V::load(out) * by[0][j]).store(out);
}

/// out = left out + right next, n of them.
template <class A> void merge_row(int64_t n, A* out, A const* next, A left, A right) {
  using V = Vec<A>;
  for (int64_t i = 0; i < n; i += V::lanes)
    fma(V::load(next + i), V::broadcast(right), V::load(out + i) * V::broadcast(left)).store(out + i);
}

/// For an even number of keys: products become weights P, dP becomes dS = P (dP - delta). lse: base 2. Here and below,
/// keys have `vectors` <= most vectors of lanes.
template <int most, class T, class A>
[[gnu::noinline]] void weigh_gradients(int vectors, int keys, A* scores, A* dp, A product, A const* lse,
                                       A const* delta) {
  if constexpr (most > 1)
    if (vectors < most) return weigh_gradients<most - 1, T>(vectors, keys, scores, dp, product, lse, delta);
  constexpr int lane = vector_lanes<A>, lanes = most * lane, count = 2 * most;
  using V = Vec<A>;
  V const factor = V::broadcast(product);
  for (int k = 0; k < keys; k += 2) {
    V p[count];
    for (int i = 0; i < count; ++i)
      p[i] = simd::fms(V::load(scores + k * lanes + i * lane), factor, V::load(lse + i % most * lane));
    simd::exp2<PolynomialFor<T, A>>(p);
    for (int i = 0; i < count; ++i) {
      p[i].store(scores + k * lanes + i * lane);
      (p[i] * (V::load(dp + k * lanes + i * lane) - V::load(delta + i % most * lane))).store(dp + k * lanes + i * lane);
    }
  }
}

/// An even number of rows of numbers as pairs: of neighbouring lanes, the operand of sums over lanes (query rows), and
/// of rows, the operand of sums over rows (keys); the latter may be null.
template <int most, class T, class A>
[[gnu::noinline]] void round_to_pairs(int vectors, int rows, A const* x, T* of_lanes, T* of_rows) {
  if constexpr (most > 1)
    if (vectors < most) return round_to_pairs<most - 1>(vectors, rows, x, of_lanes, of_rows);
  constexpr int lane = vector_lanes<A>, lanes = most * lane;
  using V = Vec<A>;
  for (int k = 0; k < rows; k += 2) {
    V row[2 * most];
    for (int i = 0; i < 2 * most; ++i) row[i] = V::load(x + k * lanes + i * lane);
    // Two rows of lanes / 2 pairs lie one after the other.
    for (int j = 0; j < most; ++j)
      pair_neighbours(row[2 * j], row[2 * j + 1]).store(of_lanes + k * lanes / 2 + j * lane);
    if (of_rows)
      for (int j = 0; j < most; ++j) pair_lanes(row[j], row[most + j]).store(of_rows + k / 2 * lanes + j * lane);
  }
}

}  // namespace ringattn::cpu
