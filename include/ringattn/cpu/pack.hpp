// SPDX-License-Identifier: Apache-2.0
// From strided tensors into the dense, wide layouts that the tile products read, and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../tensor.hpp"
#include "gemm_tile.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

/// Number formats that convert to and from 16 bits by way of float.
template <class To, class From> RINGATTN_INLINE To convert(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_arithmetic_v<To>)
    return To(x);
  else
    return To(float(x));
}

/// 1 if x is a NaN or an infinity: all bits of its exponent are set.
RINGATTN_INLINE unsigned is_special(float x) {
  return (__builtin_bit_cast(std::uint32_t, x) & 0x7f800000u) == 0x7f800000u;
}
RINGATTN_INLINE unsigned is_special(double x) {
  constexpr std::uint64_t exponent = 0x7ff0000000000000u;
  return (__builtin_bit_cast(std::uint64_t, x) & exponent) == exponent;
}

/// Rows of one (batch, head): where they start and how they go on.
template <class T> struct Slab {
  T* data;
  std::int64_t row, dim;  ///< strides in elements

  /// Rows from `first` on of a [batch, seq, heads, dim] view.
  template <class Space>
  Slab(View<T, Space> const& v, std::int64_t batch, std::int64_t first, std::int64_t head)
      : data(v.row(batch, first, head)), row(v.stride[1]), dim(v.stride[3]) {}
};

/// Rows side by side, `group` of them: dst[(r / group * width + d) * group + r % group] = factor x, zeros in rows from
/// n up to a multiple of group. Is there a NaN or an infinity?
template <int group, class A, class T>
[[gnu::noinline]] bool pack_row_groups(Slab<T const> src, std::int64_t n, int width, A factor,
                                       A* RINGATTN_RESTRICT dst) {
  unsigned special = 0;
  for (std::int64_t r = 0; r < round_up(n, group); ++r) {
    A* const to = dst + r / group * width * group + r % group;
    T const* const from = src.data + r * src.row;
    if (r >= n) {
      for (int d = 0; d < width; ++d) to[d * group] = 0;
    } else {
      for (int d = 0; d < width; ++d) {
        A const x = convert<A>(from[d * src.dim]) * factor;
        special |= is_special(x);
        to[d * group] = x;
      }
    }
  }
  return special != 0;
}

/// Blocks of `group` columns, and a last one of what is left of `columns`: dst[c * rows + r * block + i] for column
/// c + i, c a multiple of group; zeros in columns from `width` on. Is there a NaN or an infinity?
template <int group, class A, class T>
[[gnu::noinline]] bool pack_column_groups(Slab<T const> src, std::int64_t n, std::int64_t rows, int width, int columns,
                                          A* RINGATTN_RESTRICT dst) {
  unsigned special = 0;
  for (int c = 0; c < columns; c += group) {
    int const block = std::min(group, columns - c), valid = std::clamp(width - c, 0, block);
    for (std::int64_t r = 0; r < n; ++r) {
      A* const to = dst + c * rows + r * block;
      T const* const from = src.data + r * src.row + c * src.dim;
      if (valid == group && src.dim == 1) {
        for (int i = 0; i < group; ++i) special |= is_special(to[i] = convert<A>(from[i]));
      } else {
        for (int i = 0; i < valid; ++i) special |= is_special(to[i] = convert<A>(from[i * src.dim]));
        for (int i = valid; i < block; ++i) to[i] = 0;
      }
    }
  }
  return special != 0;
}

}  // namespace ringattn::cpu
