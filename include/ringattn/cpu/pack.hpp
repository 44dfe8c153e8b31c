// SPDX-License-Identifier: Apache-2.0
// From strided tensors into the dense, wide layouts that the tile products read, and back.
#pragma once

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

  Slab(T* p, std::int64_t row_stride, std::int64_t dim_stride) : data(p), row(row_stride), dim(dim_stride) {}
  /// Rows from `first` on of a [batch, seq, heads, dim] view.
  template <class Space>
  Slab(View<T, Space> const& v, std::int64_t batch, std::int64_t first, std::int64_t head)
      : data(v.row(batch, first, head)), row(v.stride[1]), dim(v.stride[3]) {}
};

/// dst[r * columns + d], zeros in rows n .. rows - 1 and columns width .. columns - 1. Is there a NaN or an infinity?
template <int width, int columns, class A, class T>
bool pack_rows(Slab<T const> src, std::int64_t n, std::int64_t rows, A* RINGATTN_RESTRICT dst) {
  unsigned special = 0;
  for (std::int64_t r = 0; r < n; ++r, dst += columns) {
    T const* const from = src.data + r * src.row;
    if (src.dim == 1) {
      for (int d = 0; d < width; ++d) {
        A const x = convert<A>(from[d]);
        special |= is_special(x);
        dst[d] = x;
      }
    } else {
      for (int d = 0; d < width; ++d) special |= is_special(dst[d] = convert<A>(from[d * src.dim]));
    }
    for (int d = width; d < columns; ++d) dst[d] = 0;
  }
  for (std::int64_t i = 0; i < (rows - n) * columns; ++i) dst[i] = 0;
  return special != 0;
}

/// Panels of `group` dimensions: dst[(d / group * rows + r) * group + d % group], dimensions from `width` on are zero.
/// Is there a NaN or an infinity?
template <int width, int group, class A, class T>
bool pack_panels(Slab<T const> src, std::int64_t n, std::int64_t rows, A* RINGATTN_RESTRICT dst) {
  unsigned special = 0;
  for (std::int64_t r = 0; r < n; ++r)
    for (int p = 0; p < width; p += group) {
      A* const to = dst + (p * rows + r * group);
      T const* const from = src.data + r * src.row + p * src.dim;
      if (p + group <= width && src.dim == 1) {
        for (int i = 0; i < group; ++i) special |= is_special(to[i] = convert<A>(from[i]));
      } else {
        for (int i = 0; i < group; ++i)
          special |= is_special(to[i] = p + i < width ? convert<A>(from[i * src.dim]) : A(0));
      }
    }
  return special != 0;
}

/// Transposed: rows become lanes, dst[(r / lanes * width + d) * lanes + r % lanes], times `factor`; zeros in lanes from
/// n up to a multiple of `lanes`.
template <int width, int lanes, class A, class T>
void pack_lanes(Slab<T const> src, std::int64_t n, A factor, A* RINGATTN_RESTRICT dst) {
  for (std::int64_t r = 0; r < round_up(n, lanes); ++r) {
    A* const to = dst + r / lanes * width * lanes + r % lanes;
    T const* const from = src.data + r * src.row;
    if (r >= n) {
      for (int d = 0; d < width; ++d) to[d * lanes] = 0;
    } else {
      for (int d = 0; d < width; ++d) to[d * lanes] = convert<A>(from[d * src.dim]) * factor;
    }
  }
}

/// Column panels: [column block][row][lane], blocks of `lanes` columns and a last one of what is left. `lanes` and
/// `columns` are whole vectors; columns from `width` on are zero. Is there a NaN or an infinity?
template <int width, int columns, int lanes, class A, class T>
bool pack_columns(Slab<T const> src, std::int64_t n, std::int64_t rows, A* RINGATTN_RESTRICT dst) {
  unsigned special = 0;
  for (int c = 0; c < columns; c += lanes) {
    int const block = c + lanes <= columns ? lanes : columns - c;
    for (std::int64_t r = 0; r < n; ++r) {
      A* const to = dst + c * rows + r * block;
      T const* const from = src.data + r * src.row + c * src.dim;
      for (int w = 0; w < block; ++w) {
        A const x = c + w < width ? convert<A>(from[w * src.dim]) : A(0);
        special |= is_special(x);
        to[w] = x;
      }
    }
  }
  return special != 0;
}

}  // namespace ringattn::cpu
