// SPDX-License-Identifier: Apache-2.0
// Tile products in matrix registers: what gemm_tile.hpp and flat_tile.hpp do with vectors.
//
// Registers 0 to 3 hold sums, 4 and 5 rows of the left factor, 6 and 7 steps of the right one.
#pragma once

#include "gemm_tile.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

#if RINGATTN_AMX

/// Loads, or clears, or stores the sums of two by `vectors` matrix registers.
template <bool clear, int vectors> RINGATTN_INLINE void load_sums(float const* c, std::int64_t c_row) {
  unroll<2 * vectors>([&](auto i) RINGATTN_INLINED {
    constexpr int to = i / vectors * 2 + i % vectors;
    if constexpr (clear)
      simd::tile_zero<to>();
    else
      simd::tile_load<to>(c + i / vectors * simd::tile_side * c_row + i % vectors * simd::tile_side, c_row * 4);
  });
}
template <int vectors> RINGATTN_INLINE void store_sums(float* c, std::int64_t c_row) {
  unroll<2 * vectors>([&](auto i) RINGATTN_INLINED {
    simd::tile_store<i / vectors * 2 + i % vectors>(
        c + i / vectors * simd::tile_side * c_row + i % vectors * simd::tile_side, c_row * 4);
  });
}

template <Into into, int vectors>
void matrix_product(simd::BFloat16Pair const* a, std::int64_t a_row, simd::BFloat16Pair const* b, std::int64_t n,
                    float* c, std::int64_t c_row, [[maybe_unused]] float const* alpha, Stretch stretch) {
  using V = Vec<float>;
  constexpr int side = simd::tile_side, steps = simd::tile_steps, lanes = vectors * side;
  if constexpr (into == Into::rescale_add) {
    V by[vectors];
    for (int j = 0; j < vectors; ++j) by[j] = V::load(alpha + j * side);
    for (int i = 0; i < 2 * side; ++i)
      for (int j = 0; j < vectors; ++j) (V::load(c + i * c_row + j * side) * by[j]).store(c + i * c_row + j * side);
  }
  load_sums<into == Into::replace, vectors>(c, c_row);
  for (std::int64_t s = 0; s < stretch.count; ++s, a += stretch.a, b += stretch.b) {
    simd::BFloat16Pair const *x = a, *y = b;
    for (std::int64_t k = 0; k < n; k += steps, x += steps, y += steps * lanes) {
      simd::tile_load<4>(x, a_row * 4);
      simd::tile_load<6>(y, lanes * 4);
      simd::tile_multiply<0, 4, 6>();
      simd::tile_load<5>(x + side * a_row, a_row * 4);
      simd::tile_multiply<2, 5, 6>();
      if constexpr (vectors == 2) {
        simd::tile_load<7>(y + side, lanes * 4);
        simd::tile_multiply<1, 4, 7>();
        simd::tile_multiply<3, 5, 7>();
      }
    }
  }
  store_sums<vectors>(c, c_row);
}

#endif

}  // namespace ringattn::cpu
