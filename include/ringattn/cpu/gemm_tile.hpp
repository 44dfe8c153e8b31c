// SPDX-License-Identifier: Apache-2.0
// The matrix product of one register tile: all of attention's arithmetic but the softmax goes through it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "simd.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

using simd::unroll;
using simd::Vec;

template <class A> inline constexpr int vector_lanes = Vec<A>::lanes;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }
constexpr std::int64_t ceil_div(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit; }

/// What products multiply: numbers of the accumulator type, or pairs of bfloat16 that one instruction multiplies and
/// adds. A sum over n numbers has n / terms_of<T> steps.
template <class Element, class A>
using OperandOf = std::conditional_t<simd::has_pairs && std::is_same_v<Element, BFloat16> && std::is_same_v<A, float>,
                                     simd::BFloat16Pair, A>;
template <class T> inline constexpr int terms_of = std::is_same_v<T, simd::BFloat16Pair> ? 2 : 1;
template <class T>
using Factor = std::conditional_t<terms_of<T> == 2, simd::Pairs, Vec<std::conditional_t<terms_of<T> == 2, float, T>>>;

/// The register tile of products of T, whose sums stay in registers: of vectors, or of four matrix registers where
/// those multiply a T.
template <class T> struct RegisterTile {
  static constexpr bool matrix = simd::has_tiles && terms_of<T> == 2;
  static constexpr int rows = matrix ? 2 * simd::tile_side : simd::tile_rows;
  static constexpr int vectors = matrix ? 2 : simd::tile_vectors;             ///< of query rows as lanes
  static constexpr int column_vectors = matrix ? 2 : simd::column_vectors;    ///< of dimensions as lanes
  using Scope = std::conditional_t<matrix, simd::TileScope, std::nullptr_t>;  ///< while products are computed
  static constexpr int steps = matrix ? simd::tile_steps : 1;  ///< of a sum that are taken at once: none may be missing
};

/// What a tile product does with the tile that it is for.
enum class Into { replace, add, rescale_add };

/// A sum may run through several stretches of memory of n steps each: these are their number and distances.
struct Stretch {
  std::int64_t count = 1, a = 0, b = 0;
};

/// Steps of a tile product that its end goes through row by row, as many as there are registers for.
template <int rows, int vectors>
inline constexpr int closing_steps = rows* vectors + 2 * vectors + 1 <= simd::registers ? 2 : 1;

/// How many register tiles are computed at once, one below the other: where they are a vector wide a single one would
/// wait for its own sums.
constexpr int tiles_at_once(int vectors) { return vectors == 1 ? 2 : 1; }

/// c[i * c_row + w] = P, += P, or = alpha[w] c + P, where P[i][w] = sum_k a[i * a_row + k * a_step]
/// b[k * lanes + w] for simd::tile_rows rows i and `vectors` vectors of lanes; `tiles` times, a_tile apart in a. Every
/// element of P is one chain of fma in ascending k from 0, so that it depends on nothing else in the tile, nor on which
/// factor has the lanes. Not inlined: all kernels of a type share these functions.
///
/// The last steps go row by row, and each row is stored as it gets done: a store takes nothing from the multipliers if
/// its vector has just been computed, but the time of 1.5 products if it has to be read from the register file (Zen 4).
template <Into into, int vectors, int tiles, int a_row, int a_step, class T, class A>
[[gnu::noinline]] void tile_product(T const* a, [[maybe_unused]] std::int64_t a_tile, T const* b, std::int64_t n, A* c,
                                    std::int64_t c_row, [[maybe_unused]] A const* alpha, Stretch stretch) {
  constexpr int side = simd::tile_rows, rows = tiles * side, lane = vector_lanes<A>, lanes = vectors * lane,
                closing = closing_steps<rows, vectors>;
  auto const row_of = [&](auto i) RINGATTN_INLINED { return i % side * a_row + (i < side ? 0 : i / side * a_tile); };
  Vec<A> p[rows][vectors];  // in registers
  unroll<rows * vectors>([&](auto i) RINGATTN_INLINED { p[i / vectors][i % vectors] = Vec<A>::zero(); });
  bool const close = n >= closing;
  T const *x = a, *y = b;
  for (std::int64_t s = 0; s < stretch.count; ++s, a += stretch.a, b += stretch.b) {
    x = a, y = b;
    std::int64_t const steps = close && s + 1 == stretch.count ? n - closing : n;
    for (std::int64_t k = 0; k < steps; ++k, x += a_step, y += lanes) {
      Factor<T> row[vectors];
      unroll<vectors>([&](auto j) RINGATTN_INLINED { row[j] = simd::kept(Factor<T>::load(y + j * lane)); });
      unroll<rows>([&](auto i) RINGATTN_INLINED {
        Factor<T> const f = Factor<T>::broadcast(x[row_of(i)]);
        unroll<vectors>([&](auto j) RINGATTN_INLINED { p[i][j] = fma(f, row[j], p[i][j]); });
      });
    }
  }
  auto const put = [&](auto i) RINGATTN_INLINED {
    unroll<vectors>([&](auto j) RINGATTN_INLINED {
      A* const to = c + i * c_row + j * lane;
      if constexpr (into == Into::replace) p[i][j].store(to);
      if constexpr (into == Into::add) (Vec<A>::load(to) + p[i][j]).store(to);
      if constexpr (into == Into::rescale_add) fma(Vec<A>::load(to), Vec<A>::load(alpha + j * lane), p[i][j]).store(to);
    });
  };
  if (!close) return unroll<rows>(put);
  Factor<T> row[closing][vectors];
  unroll<closing>([&](auto k) RINGATTN_INLINED {
    unroll<vectors>([&](auto j) RINGATTN_INLINED { row[k][j] = Factor<T>::load(y + k * lanes + j * lane); });
  });
  unroll<rows>([&](auto i) RINGATTN_INLINED {
    unroll<closing>([&](auto k) RINGATTN_INLINED {
      Factor<T> const f = Factor<T>::broadcast(x[row_of(i) + k * a_step]);
      unroll<vectors>([&](auto j) RINGATTN_INLINED { p[i][j] = fma(f, row[k][j], p[i][j]); });
    });
    put(i);
  });
}

/// Products of pairs in matrix registers, for a multiple of 32 rows, a_row pairs apart. Every element is a sum that
/// goes on from c (or alpha c, or 0) by one addition for RegisterTile<T>::steps steps at a time, in ascending order;
/// zeros fill the last ones.
template <Into into, int vectors>
void matrix_product(std::int64_t rows, simd::BFloat16Pair const* a, std::int64_t a_row, simd::BFloat16Pair const* b,
                    std::int64_t n, float* c, std::int64_t c_row, float const* alpha, Stretch stretch);

/// Tile products one below the other, `vectors` <= most wide, for `rows` rows rounded up to whole register tiles, whose
/// factors lie a_tile apart.
template <Into into, int most, int a_row, int a_step, class T, class A>
void tall_product(int vectors, std::int64_t rows, T const* a, std::int64_t a_tile, T const* b, std::int64_t n, A* c,
                  std::int64_t c_row, A const* alpha = nullptr, Stretch stretch = {}) {
  if constexpr (RegisterTile<T>::matrix) {
    static_assert(a_step == 1 && most == RegisterTile<T>::vectors,
                  "matrix registers load rows, for two vectors of lanes");
    auto const product = vectors == 1 ? matrix_product<into, 1> : matrix_product<into, 2>;
    product(round_up(rows, RegisterTile<T>::rows), a, a_row, b, round_up(n, RegisterTile<T>::steps), c, c_row, alpha,
            stretch);
  } else {
    if constexpr (most > 1)
      if (vectors < most)
        return tall_product<into, most - 1, a_row, a_step>(vectors, rows, a, a_tile, b, n, c, c_row, alpha, stretch);
    constexpr int side = RegisterTile<T>::rows, tiles = tiles_at_once(most);
    for (; rows > (tiles - 1) * side; rows -= tiles * side, a += tiles * a_tile, c += tiles * side * c_row)
      tile_product<into, most, tiles, a_row, a_step>(a, a_tile, b, n, c, c_row, alpha, stretch);
    for (; rows > 0; rows -= side, a += a_tile, c += side * c_row)
      tile_product<into, most, 1, a_row, a_step>(a, a_tile, b, n, c, c_row, alpha, stretch);
  }
}

/// A tile product without the terms whose flag is 0, where 0 times a NaN or an infinity must not count. The flag of (i,
/// k, w), k counting numbers, is seen[i * flag_row + k * flag_step + w * flag_lane], for k < n. Slow.
template <Into into, int a_row, int a_step, class T, class A>
[[gnu::noinline]] void seen_product(int rows, int lanes, T const* a, T const* b, std::int64_t n,
                                    unsigned char const* seen, int flag_row, int flag_step, int flag_lane, A* c,
                                    std::int64_t c_row, A const* alpha = nullptr) {
  for (int i = 0; i < rows; ++i)
    for (int w = 0; w < lanes; ++w) {
      A p = 0;
      for (std::int64_t k = 0; k < n; ++k) {
        if (!seen[i * flag_row + k * flag_step + w * flag_lane]) continue;
        T const x = a[i * a_row + k / terms_of<T> * a_step], y = b[k / terms_of<T> * lanes + w];
        if constexpr (terms_of<T> == 1)
          p = fma(x, y, p);
        else
          p = k % 2 == 0 ? fma(x.first(), y.first(), p) : fma(x.second(), y.second(), p);
      }
      A& x = c[i * c_row + w];
      if constexpr (into == Into::replace) x = p;
      if constexpr (into == Into::add) x = x + p;
      if constexpr (into == Into::rescale_add) x = fma(x, alpha[w], p);
    }
}

}  // namespace ringattn::cpu

#include "matrix_tile.hpp"
