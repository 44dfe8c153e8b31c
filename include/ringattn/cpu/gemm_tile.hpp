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

/// An accumulator tile: `rows` values in each of `lanes` lanes, meant to live in registers.
template <class A, int rows, int lanes> struct RegisterTile {
  A at[rows][lanes];

  RINGATTN_INLINE void clear() {
    for (int i = 0; i < rows; ++i)
      for (int w = 0; w < lanes; ++w) at[i][w] = 0;
  }

  /// at[i][w] += sum_k a[i * a_row + k * a_step] b[k * lanes + w], k ascending: every element is one chain of fma, so
  /// that its value depends on nothing else in the tile.
  template <int a_row, int a_step>
  RINGATTN_INLINE void add_product(A const* RINGATTN_RESTRICT a, A const* RINGATTN_RESTRICT b, std::int64_t n) {
    for (std::int64_t k = 0; k < n; ++k) {
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        A const x = a[i * a_row + k * a_step];
#pragma GCC unroll 1
        for (int w = 0; w < lanes; ++w) at[i][w] = fma(x, b[k * lanes + w], at[i][w]);
      }
    }
  }

  /// The same without the terms whose flag is 0, where 0 times a NaN or an infinity must not count.
  /// The flag of (i, k, w) is seen[i * flag_row + k * flag_step + w * flag_lane].
  template <int a_row, int a_step, int flag_row, int flag_step, int flag_lane>
  void add_seen_product(A const* a, A const* b, unsigned char const* seen, std::int64_t n) {
    for (std::int64_t k = 0; k < n; ++k)
      for (int i = 0; i < rows; ++i)
        for (int w = 0; w < lanes; ++w)
          if (seen[i * flag_row + k * flag_step + w * flag_lane])
            at[i][w] = fma(a[i * a_row + k * a_step], b[k * lanes + w], at[i][w]);
  }
};

}  // namespace ringattn::cpu
