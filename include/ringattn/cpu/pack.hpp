// SPDX-License-Identifier: Apache-2.0
// From strided tensors into the dense layouts that the tile products read. T is a number of the accumulator type or a
// pair of bfloat16 (gemm_tile.hpp); pack_columns and pack_factors tell whether they met a NaN or an infinity.
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
RINGATTN_INLINE unsigned is_special(BFloat16 x) { return (x.bits & 0x7f80u) == 0x7f80u; }
RINGATTN_INLINE unsigned is_special(Float16 x) { return (x.bits & 0x7c00u) == 0x7c00u; }

/// Rows of one (batch, head): where they start and how they go on.
template <class T> struct Slab {
  T* data;
  std::int64_t row, dim;  ///< strides in elements

  /// Rows from `first` on of a [batch, seq, heads, dim] view.
  template <class Space>
  Slab(View<T, Space> const& v, std::int64_t batch, std::int64_t first, std::int64_t head)
      : data(v.row(batch, first, head)), row(v.stride[1]), dim(v.stride[3]) {}
  T* at(std::int64_t r) const { return data + r * row; }
  Slab from(std::int64_t r) const { return moved(r * row); }
  Slab columns(std::int64_t c) const { return moved(c * dim); }

 private:
  Slab moved(std::int64_t elements) const {
    Slab other(*this);
    other.data += elements;
    return other;
  }
};

/// What a product multiplies in place of `terms` numbers: x(0), or the pair x(0), x(1).
template <class T, class F> RINGATTN_INLINE T operand(F x) {
  if constexpr (terms_of<T> == 1)
    return x(0);
  else
    return T::of(x(0), x(1));
}

/// A vector's worth of whatever lies there, and back.
template <class A, class T> RINGATTN_INLINE Vec<A> load_bits(T const* p) {
  Vec<A> x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
template <class A, class T> RINGATTN_INLINE void store_bits(Vec<A> x, T* p) { __builtin_memcpy(p, &x, sizeof x); }

template <class E> inline constexpr bool has_16_bits = std::is_same_v<E, BFloat16> || std::is_same_v<E, Float16>;

/// A vector of the numbers that lie there in another format, and back, with the bits of `convert`.
template <class A, class E> RINGATTN_INLINE Vec<A> load_as(E const* p) {
  if constexpr (std::is_same_v<A, E>) {
    return Vec<A>::load(p);
  } else if constexpr (std::is_same_v<A, float> && has_16_bits<E>) {
    return simd::widen(p);
  } else {
    A line[vector_lanes<A>];
    for (int i = 0; i < vector_lanes<A>; ++i) line[i] = convert<A>(p[i]);
    return Vec<A>::load(line);
  }
}
template <class A, class E> RINGATTN_INLINE void store_as(Vec<A> x, E* p) {
  if constexpr (std::is_same_v<A, E>) {
    x.store(p);
  } else if constexpr (std::is_same_v<A, float> && has_16_bits<E>) {
    simd::narrow(x, p);
  } else {
    A line[vector_lanes<A>];
    x.store(line);
    for (int i = 0; i < vector_lanes<A>; ++i) p[i] = convert<E>(line[i]);
  }
}

/// to = W(x + y), or W(x) where y is null, of n numbers; `to` may be y.
template <class A, class W> void add_rounded(A const* x, W const* y, W* to, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + vector_lanes<A> <= n; i += vector_lanes<A>)
    store_as(y ? Vec<A>::load(x + i) + load_as<A>(y + i) : Vec<A>::load(x + i), to + i);
  for (; i < n; ++i) to[i] = convert<W>(y ? x[i] + convert<A>(y[i]) : x[i]);
}

/// Number i of an operand.
template <class T> RINGATTN_INLINE auto number(T x, int i) {
  if constexpr (terms_of<T> == 1)
    return x;
  else
    return i == 0 ? x.first() : x.second();
}

/// The type whose numbers an operand is made of.
template <class T> using Number = std::conditional_t<terms_of<T> == 2, BFloat16, T>;

/// Is there a NaN or an infinity in a row? Looked for apart from the copying, so that both become vector code.
template <int width, class E> RINGATTN_INLINE unsigned special_in(E const* row, std::int64_t dim) {
  unsigned special = 0;
  if (dim == 1)
    for (int d = 0; d < width; ++d) special |= is_special(row[d]);
  else
    for (int d = 0; d < width; ++d) special |= is_special(row[d * dim]);
  return special;
}

template <int width, class E> bool special_in_rows(Slab<E const> src, std::int64_t n) {
  unsigned special = 0;
  for (std::int64_t r = 0; r < n; ++r) special |= special_in<width>(src.at(r), src.dim);
  return special != 0;
}

/// Rows as they are: dst[r][term] for n rows, zeros in terms beyond the width and in rows up to `rows`.
template <int width, int terms, class T, class E>
[[gnu::noinline]] void pack_rows(Slab<E const> src, std::int64_t n, std::int64_t rows, T* RINGATTN_RESTRICT dst) {
  using N = Number<T>;
  constexpr int step = terms_of<T>;
  for (std::int64_t r = 0; r < n; ++r, dst += terms) {
    E const* RINGATTN_RESTRICT const from = src.at(r);
    auto const put = [&](auto dim) {
      int t = 0;
      if constexpr (std::is_same_v<E, N> && step > 1)
        for (; dim == 1 && t < width / step; ++t) __builtin_memcpy(dst + t, from + t * step, sizeof(T));
      if constexpr (step == 1)
        for (; dim == 1 && t + vector_lanes<N> <= width; t += vector_lanes<N>) load_as<N>(from + t).store(dst + t);
      for (; t < width / step; ++t) dst[t] = operand<T>([&](int i) { return convert<N>(from[(t * step + i) * dim]); });
      if constexpr (width % step != 0)
        dst[t++] = operand<T>([&](int i) { return i == 0 ? convert<N>(from[(width - 1) * dim]) : N(0.f); });
      std::fill(dst + t, dst + terms, T{});
    };
    if (src.dim == 1)
      put(std::integral_constant<int, 1>{});
    else
      put(src.dim);
  }
  std::fill_n(dst, (rows - n) * terms, T{});
}

/// `block` operands of a row from operand t0 on, times factor; zeros beyond its width. A function of its own, since
/// NVIDIA's front end does not survive it as a lambda.
template <int width, int block, class T, class A, class E, class Stride>
RINGATTN_INLINE void read_line(E const* from, int t0, Stride dim, A factor, T* line) {
  using N = Number<T>;
  constexpr int step = terms_of<T>;
  auto const scaled = [&](int d) {
    E const x = from[d * dim];
    return factor == A(1) ? convert<N>(x) : convert<N>(convert<A>(x) * factor);
  };
  if ((t0 + block) * step <= width)
    for (int t = 0; t < block; ++t) line[t] = operand<T>([&](int i) { return scaled((t0 + t) * step + i); });
  else
    for (int t = 0; t < block; ++t)
      line[t] = operand<T>([&](int i) {
        int const d = (t0 + t) * step + i;
        return d < width ? scaled(d) : N(0.f);
      });
}

/// Asks for the cache lines of a row.
template <int width, int nearness, class E> RINGATTN_INLINE void fetch_row(E const* row) {
  for (int i = 0; i < width * int(sizeof(E)); i += 64)
    __builtin_prefetch(reinterpret_cast<char const*>(row) + i, 0, nearness);
}

/// Rows as lanes: dst[term][lane] = factor x, zeros in terms beyond the width and in lanes from n up to `lanes`. Square
/// blocks are transposed in registers, for read column by column, rows that lie a power of two apart would fight for
/// cache sets. Meanwhile the next rows are fetched, whole ones; `exist` >= n rows are there, some for the next call.
template <int width, int terms, class T, class A, class E>
[[gnu::noinline]] void pack_lanes(Slab<E const> src, std::int64_t n, std::int64_t exist, std::int64_t lanes, A factor,
                                  T* RINGATTN_RESTRICT dst) {
  constexpr int block = vector_lanes<A>, blocks = int(ceil_div(terms, block));
  for (std::int64_t r0 = 0; r0 < lanes; r0 += block)
    for (int b = 0; b < blocks; ++b) {
      if (src.dim == 1)
        for (std::int64_t i = b * block / blocks; i < (b + 1) * block / blocks && r0 + block + i < exist; ++i)
          fetch_row<width, 3>(src.at(r0 + block + i));
      int const t0 = b * block;
      Vec<A> x[block];
      // Numbers side by side are loaded a vector at a time; pairs only as they are.
      bool const direct = src.dim == 1 && (t0 + block) * terms_of<T> <= width && (terms_of<T> == 1 || factor == 1);
      for (int i = 0; i < block; ++i) {
        if (direct) {
          x[i] = Vec<A>::zero();
          E const* const from = src.at(r0 + i) + t0 * terms_of<T>;
          if constexpr (terms_of<T> == 1) {
            if (r0 + i < n) x[i] = load_as<A>(from) * Vec<A>::broadcast(factor);
          } else if (r0 + i < n) {
            x[i] = load_bits<A>(from);
          }
          continue;
        }
        alignas(64) T line[block]{};
        if (r0 + i < n && src.dim == 1)
          read_line<width, block>(src.at(r0 + i), t0, std::integral_constant<int, 1>{}, factor, line);
        if (r0 + i < n && src.dim != 1) read_line<width, block>(src.at(r0 + i), t0, src.dim, factor, line);
        x[i] = load_bits<A>(line);
      }
      simd::transpose(x);
      for (int t = 0; t < std::min(block, terms - t0); ++t) store_bits(x[t], dst + (t0 + t) * lanes + r0);
    }
}

/// The way back, of `width` sums with rows as lanes: dst[r][d] = sums[d][lane r] * factor(r) for n rows.
template <int width, class A, class E, class F>
RINGATTN_INLINE void unpack_lanes(A const* sums, std::int64_t n, std::int64_t lanes, F factor, Slab<E> dst) {
  constexpr int block = vector_lanes<A>;
  for (std::int64_t r0 = 0; r0 < n; r0 += block)
    for (int d0 = 0; d0 < width; d0 += block) {
      int const valid = std::min(block, width - d0);
      Vec<A> x[block];
      for (int i = 0; i < block; ++i) x[i] = i < valid ? Vec<A>::load(sums + (d0 + i) * lanes + r0) : Vec<A>::zero();
      simd::transpose(x);
      for (int i = 0; i < std::min<std::int64_t>(block, n - r0); ++i) {
        x[i] = x[i] * Vec<A>::broadcast(factor(r0 + i));
        E* const to = dst.at(r0 + i) + d0 * dst.dim;
        if (dst.dim == 1 && valid == block) {
          store_as(x[i], to);
          continue;
        }
        alignas(64) A line[block];
        x[i].store(line);
        for (int d = 0; d < valid; ++d) to[d * dst.dim] = convert<E>(line[d]);
      }
    }
}

/// Columns as lanes, in blocks of `group` columns and a last one of what is left of `columns`: for column c + i, c a
/// multiple of group, dst[c * depth + s * block + i] where s counts steps of terms_of<T> rows and depth is the number
/// of steps in `rows` rows. Zeros in columns from `width` on and in rows from n up to `rows`.
template <int width, int columns, int group, class T, class E>
[[gnu::noinline]] bool pack_columns(Slab<E const> src, std::int64_t n, std::int64_t rows, T* RINGATTN_RESTRICT dst) {
  using N = Number<T>;
  using V = Vec<std::conditional_t<terms_of<T> == 2, float, N>>;
  constexpr int step = terms_of<T>, lanes = V::lanes, piece = std::min(group, lanes), chains = 4;
  // A cache line of a row at once: each is fetched once, and the blocks written to are few. They may lie a power of two
  // apart, and would fight for cache sets.
  constexpr int line = int(round_up(std::max<int>(64 / sizeof(E), lanes), group));
  constexpr int in_lines = std::min(width, columns) / line * line;
  std::int64_t const depth = rows / step, steps = ceil_div(n, step), full = n / step;

  // Steps from s on of one block, and the zeros behind them.
  auto const rest = [&](int c, std::int64_t s) {
    int const block = std::min(group, columns - c), valid = std::clamp(width - c, 0, block);
    T* RINGATTN_RESTRICT to = dst + c * depth + s * block;
    if (valid == group)
      for (; s < full; ++s, to += group) {
        E const* RINGATTN_RESTRICT const from = src.at(s * step) + c * src.dim;
        for (int i = 0; i < group; ++i)
          to[i] = operand<T>([&](int k) { return convert<N>(from[k * src.row + i * src.dim]); });
      }
    for (; s < steps; ++s, to += block) {  // a row or a column is missing
      E const* const from = src.at(s * step) + c * src.dim;
      for (int i = 0; i < block; ++i)
        to[i] = operand<T>([&](int k) {
          return i < valid && s * step + k < n ? convert<N>(from[k * src.row + i * src.dim]) : N(0.f);
        });
    }
    std::fill_n(to, (depth - steps) * block, T{});
  };

  if (src.dim != 1) {
    for (int c = 0; c < columns; c += group) rest(c, 0);
    return special_in_rows<width>(src, n);
  }
  std::int64_t const by_lines = full / chains * chains;
  V sum[chains];  // of products with 0: not 0 after a NaN or an infinity
  unroll<chains>([&](auto i) RINGATTN_INLINED { sum[i] = V::zero(); });
  for (int c = 0; c < in_lines; c += line) {
    for (std::int64_t s = 0; s < by_lines; s += chains)
      unroll<chains>([&](auto i) RINGATTN_INLINED {
        E const* RINGATTN_RESTRICT const from = src.at((s + i) * step) + c;
        unroll<line / lanes>([&](auto l) RINGATTN_INLINED {
          T part[lanes];
          Factor<T> x;
          if constexpr (step == 2)
            x = Factor<T>::interleave(from + l * lanes, from + src.row + l * lanes);
          else
            x = load_as<N>(from + l * lanes);
          x.store(part);
          sum[i] = fma(x, Factor<T>::broadcast(T{}), sum[i]);
          for (int b = 0; b < lanes; b += piece) {
            int const at = l * lanes + b;
            __builtin_memcpy(dst + (c + at / group * group) * depth + (s + i) * group + at % group, part + b,
                             piece * sizeof(T));
          }
        });
      });
    for (int b = 0; b < line; b += group) rest(c + b, by_lines);
  }
  for (int c = in_lines; c < columns; c += group) rest(c, 0);
  bool special = false;
  unroll<chains>([&](auto i) RINGATTN_INLINED { special |= simd::any_different(sum[i], V::zero()); });
  if constexpr (in_lines > 0) special |= special_in_rows<in_lines>(src.from(by_lines * step), n - by_lines * step);
  if constexpr (in_lines < width) special |= special_in_rows<width - in_lines>(src.columns(in_lines), n);
  return special;
}

/// Columns as rows, for matrix registers: dst[c * depth + s] where s counts pairs of rows and depth is their number in
/// `rows` rows. Zeros in columns from `width` up to `columns` and in rows from n up to `rows`.
template <int width, int columns, class T, class E>
[[gnu::noinline]] bool pack_transposed(Slab<E const> src, std::int64_t n, std::int64_t rows, T* RINGATTN_RESTRICT dst) {
  using V = Vec<float>;
  constexpr int block = V::lanes;
  std::int64_t const depth = rows / 2;
  for (std::int64_t s0 = 0; s0 < depth; s0 += block)
    for (int c = 0; c < columns; c += block) {
      V x[block];
      for (int i = 0; i < block; ++i) {
        std::int64_t const r = 2 * (s0 + i);
        alignas(64) BFloat16 line[2][block]{};
        BFloat16 const* from[2] = {line[0], line[1]};
        for (int k = 0; k < 2 && r + k < n; ++k) {
          E const* const row = src.at(r + k) + c * src.dim;
          if constexpr (std::is_same_v<E, BFloat16>)
            if (src.dim == 1 && c + block <= width) {
              from[k] = row;
              continue;
            }
          for (int d = 0; d < std::min(block, width - c); ++d) line[k][d] = convert<BFloat16>(row[d * src.dim]);
        }
        x[i] = __builtin_bit_cast(V, Factor<T>::interleave(from[0], from[1]));
      }
      simd::transpose(x);
      for (int i = 0; i < block; ++i) store_bits(x[i], dst + (c + i) * depth + s0);
    }
  return special_in_rows<width>(src, n);
}

/// The factor of sums over rows: its columns are the rows of the register tiles of `columns` sums.
template <int width, int columns, class T, class E>
bool pack_factors(Slab<E const> src, std::int64_t n, std::int64_t rows, T* RINGATTN_RESTRICT dst) {
  if constexpr (RegisterTile<T>::matrix)
    return pack_transposed<width, columns>(src, n, rows, dst);
  else
    return pack_columns<width, columns, RegisterTile<T>::rows>(src, n, rows, dst);
}

/// Fetches rows of keys and values into the caches, a few at a time, while others are computed on. nearness: 3 the
/// first level, 2 the second one.
template <int key_width, int value_width, int nearness, class E> class Prefetch {
 public:
  /// `rows` of them, in `calls` calls of `some`.
  Prefetch(Slab<E const> keys, Slab<E const> values, std::int64_t rows, std::int64_t calls)
      : keys_(keys), values_(values), rows_(rows), calls_(calls) {}

  void some() {
    if (next_ == rows_) return;
    for (due_ += rows_; due_ >= calls_; due_ -= calls_, ++next_) {
      fetch_row<key_width, nearness>(keys_.at(next_));
      fetch_row<value_width, nearness>(values_.at(next_));
    }
  }

 private:
  Slab<E const> keys_, values_;
  std::int64_t rows_, calls_, next_ = 0, due_ = 0;
};

}  // namespace ringattn::cpu
