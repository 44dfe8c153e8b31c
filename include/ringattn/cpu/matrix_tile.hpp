// SPDX-License-Identifier: Apache-2.0
// Tile products in matrix registers: what gemm_tile.hpp does with vectors.
#pragma once

#include "gemm_tile.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

#if RINGATTN_AMX

/// Blocks of 16 rows take turns: while one's sums grow in registers 0 and 1, those of the one before, in 2 and 3, are
/// stored. Stores after all products would take a third of the time again (Emerald Rapids).
template <Into into, int vectors>
[[gnu::noinline]] void matrix_product(std::int64_t rows, simd::BFloat16Pair const* a, std::int64_t a_row,
                                      simd::BFloat16Pair const* b, std::int64_t n, float* c, std::int64_t c_row,
                                      [[maybe_unused]] float const* alpha, Stretch stretch) {
  using V = Vec<float>;
  constexpr int side = simd::tile_side, steps = simd::tile_steps, lanes = vectors * side;
  auto const store = [&](auto first, float* to) RINGATTN_INLINED {
    simd::tile_store<first>(to, c_row * 4);
    if constexpr (vectors == 2) simd::tile_store<first + 1>(to + side, c_row * 4);
  };
  float* computed = nullptr;
  auto const block = [&](auto first) RINGATTN_INLINED {
    using Others = std::integral_constant<int, 2 - first>;
    if constexpr (into == Into::replace) {
      simd::tile_zero<first>();
      if constexpr (vectors == 2) simd::tile_zero<first + 1>();
    } else {
      if constexpr (into == Into::rescale_add)
        for (int i = 0; i < side; ++i)
          for (int j = 0; j < vectors; ++j) {
            float* const x = c + i * c_row + j * side;
            (V::load(x) * V::load(alpha + j * side)).store(x);
          }
      simd::tile_load<first>(c, c_row * 4);
      if constexpr (vectors == 2) simd::tile_load<first + 1>(c + side, c_row * 4);
    }
    simd::BFloat16Pair const *x = a, *y = b;
    for (std::int64_t s = 0; s < stretch.count; ++s, x += stretch.a - n, y += stretch.b - n * lanes)
      for (std::int64_t k = 0; k < n; k += steps, x += steps, y += steps * lanes) {
        constexpr int left = 4 + first / 2;
        simd::tile_load<left>(x, a_row * 4);
        simd::tile_load<6>(y, lanes * 4);
        simd::tile_multiply<first, left, 6>();
        if constexpr (vectors == 2) {
          simd::tile_load<7>(y + side, lanes * 4);
          simd::tile_multiply<first + 1, left, 7>();
        }
        if (computed) {
          store(Others{}, computed);
          computed = nullptr;
        }
      }
    computed = c;
    a += side * a_row;
    c += side * c_row;
  };
  for (; rows > 0; rows -= 2 * side) {
    block(std::integral_constant<int, 0>{});
    block(std::integral_constant<int, 2>{});
  }
  if (computed) store(std::integral_constant<int, 2>{}, computed);
}

#endif

}  // namespace ringattn::cpu
