// SPDX-License-Identifier: Apache-2.0
// The matrix product of one register tile: all of attention's arithmetic but the softmax goes through it.
#pragma once

#include <cstdint>

#include "exp2.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64, register_rows = 8;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32, register_rows = 4;
#else
inline constexpr int vector_bytes = 16, register_rows = 4;
#endif

template <class A> inline constexpr int vector_lanes = vector_bytes / int(sizeof(A));

constexpr std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }
constexpr std::int64_t ceil_div(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit; }

// GCC keeps a register tile in registers if it unrolls the loop over the rows and leaves the lanes to the vectoriser;
// clang does if it is left alone.
#if defined(__GNUC__) && !defined(__clang__)
#define RINGATTN_ROWS _Pragma("GCC unroll 16")
#define RINGATTN_LANES _Pragma("GCC unroll 1")
#else
#define RINGATTN_ROWS
#define RINGATTN_LANES
#endif

/// x, but the compiler cannot tell where it comes from. Clang otherwise sees that the values of the rows lie side by
/// side and makes vectors of rows instead of lanes, at a third of the speed.
template <class A> RINGATTN_INLINE A opaque(A x) {
#if defined(__clang__) && defined(__x86_64__)
  __asm__("" : "+x"(x));
#elif defined(__clang__) && defined(__aarch64__)
  __asm__("" : "+w"(x));
#endif
  return x;
}

/// What a tile product does with the tile that it is for.
enum class Into { replace, add, rescale_add };

/// c[i * c_row + w] = P, += P, or = alpha[w] c + P, where P[i][w] = sum_k a[i * a_row + k * a_step] b[k * lanes + w]
/// for register_rows rows i. Every element of P is one chain of fma in ascending k from 0, so that it depends on
/// nothing else in the tile. One function for all kernels of a type, not inlined: it is the seam to faster ones.
template <Into into, int lanes, int a_row, int a_step, class A>
[[gnu::noinline]] void tile_product(A const* RINGATTN_RESTRICT a, A const* RINGATTN_RESTRICT b, std::int64_t n,
                                    A* RINGATTN_RESTRICT c, std::int64_t c_row,
                                    [[maybe_unused]] A const* RINGATTN_RESTRICT alpha = nullptr) {
  A p[register_rows][lanes];  // in registers
  for (int i = 0; i < register_rows; ++i)
    for (int w = 0; w < lanes; ++w) p[i][w] = 0;
  for (std::int64_t k = 0; k < n; ++k) {
    RINGATTN_ROWS
    for (int i = 0; i < register_rows; ++i) {
      A const x = opaque(a[i * a_row + k * a_step]);
      RINGATTN_LANES
      for (int w = 0; w < lanes; ++w) p[i][w] = fma(x, b[k * lanes + w], p[i][w]);
    }
  }
  RINGATTN_ROWS
  for (int i = 0; i < register_rows; ++i) {
    RINGATTN_LANES
    for (int w = 0; w < lanes; ++w) {
      A& x = c[i * c_row + w];
      if constexpr (into == Into::replace) x = p[i][w];
      if constexpr (into == Into::add) x += p[i][w];
      if constexpr (into == Into::rescale_add) x = fma(x, alpha[w], p[i][w]);
    }
  }
}

#undef RINGATTN_ROWS
#undef RINGATTN_LANES

/// The same without the terms whose flag is 0, where 0 times a NaN or an infinity must not count. The flag of (i, k, w)
/// is seen[i * flag_row + k * flag_step + w * flag_lane]. Slow.
template <Into into, int lanes, int a_row, int a_step, class A>
[[gnu::noinline]] void seen_product(A const* a, A const* b, std::int64_t n, unsigned char const* seen, int flag_row,
                                    int flag_step, int flag_lane, A* c, std::int64_t c_row, A const* alpha = nullptr) {
  for (int i = 0; i < register_rows; ++i)
    for (int w = 0; w < lanes; ++w) {
      A p = 0;
      for (std::int64_t k = 0; k < n; ++k)
        if (seen[i * flag_row + k * flag_step + w * flag_lane]) p = fma(a[i * a_row + k * a_step], b[k * lanes + w], p);
      A& x = c[i * c_row + w];
      x = into == Into::replace ? p : into == Into::add ? x + p : fma(x, alpha[w], p);
    }
}

}  // namespace ringattn::cpu
