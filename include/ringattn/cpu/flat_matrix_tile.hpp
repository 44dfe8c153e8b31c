// SPDX-License-Identifier: Apache-2.0
// The products of up to 16 query rows in matrix registers, with the bits of many rows (matrix_tile.hpp): the sums of
// each element take the same steps.
#pragma once

#include "flat_tile.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

#if RINGATTN_AMX

/// Keys are the rows of the left factor, where they lie.
template <class T, class A>
[[gnu::noinline]] void matrix_flat_scores(T const* queries, DenseRows<T> keys, std::int64_t n, int terms, A* scores) {
  constexpr int side = simd::tile_side, steps = simd::tile_steps;
  simd::tile_zero<0>();
  for (int t = 0; t < terms; t += steps) {
    std::int64_t const from = std::int64_t(t) * terms_of<T>;
    for (std::int64_t r = 0; r < n; ++r) keys.fetch(r, from, steps * terms_of<T>);
    if (n == side) {
      simd::tile_load<4>(keys.at(0) + from, keys.row * std::int64_t(sizeof(Number<T>)));
    } else {  // what lies behind the last row is not read
      alignas(64) T rows[side][steps]{};
      for (std::int64_t r = 0; r < n; ++r) __builtin_memcpy(rows[r], keys.at(r) + from, sizeof rows[r]);
      simd::tile_load<4>(rows, sizeof rows[0]);
    }
    simd::tile_load<6>(queries + t * side, side * sizeof(T));
    simd::tile_multiply<0, 4, 6>();
  }
  simd::tile_store<0>(scores, side * sizeof(A));
}

/// Weights are the rows of the left factor, transposed; values its partner, two rows interleaved.
template <class T, class A>
[[gnu::noinline]] void matrix_flat_values(int rows, T const* weights, DenseRows<T> values, std::int64_t n,
                                          std::int64_t columns, A* const* out, A const* alpha) {
  using N = Number<T>;
  constexpr int side = simd::tile_side, steps = simd::tile_steps, wide = 4 * side, keys = steps * terms_of<T>;
  alignas(64) A sums[side][wide];
  alignas(64) T left[side][steps], right[steps][wide];
  static constexpr N nothing[side]{};
  for (std::int64_t c0 = 0; c0 < columns; c0 += wide) {
    int const width = int(std::min<std::int64_t>(wide, columns - c0));
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < width; c += side) {
        Vec<A> const before = Vec<A>::load(out[r] + c0 + c);
        (alpha ? before * Vec<A>::broadcast(alpha[r]) : before).store(sums[r] + c);
      }
    unroll<4>([&](auto j) RINGATTN_INLINED { simd::tile_load<j>(&sums[0][j * side], sizeof sums[0]); });
    for (std::int64_t k0 = 0; k0 < n; k0 += keys, weights += steps * side) {
      Vec<A> x[steps];
      for (int s = 0; s < steps; ++s) {
        std::int64_t const k = k0 + s * terms_of<T>;
        x[s] = k < n ? load_bits<A>(weights + s * side) : Vec<A>::zero();
        for (int i = 0; i < terms_of<T> && k + i < n; ++i) values.fetch(k + i, c0, width);
        for (int c = 0; c < width; c += side)
          Factor<T>::interleave(k < n ? values.at(k) + c0 + c : nothing,
                                k + 1 < n ? values.at(k + 1) + c0 + c : nothing)
              .store(&right[s][c]);
      }
      simd::transpose(x);
      for (int r = 0; r < side; ++r) store_bits(x[r], left[r]);
      simd::tile_load<4>(left, sizeof left[0]);
      unroll<4>([&](auto j) RINGATTN_INLINED {
        if (j * side >= width) return;
        simd::tile_load<6>(&right[0][j * side], sizeof right[0]);
        simd::tile_multiply<j, 4, 6>();
      });
    }
    weights -= ceil_div(n, keys) * steps * side;
    unroll<4>([&](auto j) RINGATTN_INLINED { simd::tile_store<j>(&sums[0][j * side], sizeof sums[0]); });
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < width; c += side) Vec<A>::load(sums[r] + c).store(out[r] + c0 + c);
  }
}

#endif

}  // namespace ringattn::cpu
