// SPDX-License-Identifier: Apache-2.0
// The products of few query rows: keys and then value columns are the lanes. Keys and values are read where they lie,
// each once, for there are too few products to pay for packing them.
#pragma once

#include "pack.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

/// Rows of numbers side by side, in whole vectors of what products multiply.
template <class T> struct DenseRows {
  Number<T> const* data = nullptr;
  std::int64_t row = 0;    ///< stride in numbers
  std::int64_t ahead = 0;  ///< how many rows to fetch in advance, 0: none

  Number<T> const* at(std::int64_t r) const { return data + r * row; }
  DenseRows from(std::int64_t r) const { return {at(r), row, ahead}; }
  void fetch(std::int64_t r, std::int64_t from, int numbers) const {
    if (ahead == 0) return;
    char const* const line = reinterpret_cast<char const*>(at(r + ahead) + from);
    for (int i = 0; i < numbers * int(sizeof(Number<T>)); i += 64) __builtin_prefetch(line + i, 0, 2);
  }
};

/// n rows as they lie if they are dense, else a copy in `room`, `columns` numbers each, with zeros from `width` on.
/// exist: rows in memory, of which the first n are asked for.
template <class T, int width, int columns, class E>
DenseRows<T> dense_rows(Slab<E const> src, std::int64_t n, std::int64_t exist, Number<T>* room) {
  using N = Number<T>;
  constexpr std::int64_t distance = std::max<std::int64_t>(vector_lanes<float>, 8192 / (width * int(sizeof(N))));
  if constexpr (std::is_same_v<E, N> && width == columns)
    if (src.dim == 1) return {src.data, src.row, exist >= n + distance ? distance : 0};
  for (std::int64_t r = 0; r < n; ++r) {
    E const* const from = src.at(r);
    for (int d = 0; d < columns; ++d) room[r * columns + d] = d < width ? convert<N>(from[d * src.dim]) : N(0.f);
  }
  return {room, columns, 0};
}

/// Products of `rows` query rows with n <= lanes keys: scores[key * lanes + row], for all lanes. queries:
/// [terms][lanes], terms whole vectors. Keys are transposed in registers, so that every sum is one chain of fma in
/// ascending order.
template <int rows, class T, class A>
[[gnu::noinline]] void flat_scores(T const* queries, DenseRows<T> keys, std::int64_t n, int terms, A* scores) {
  constexpr int lanes = vector_lanes<A>;
  Vec<A> sum[rows];
  unroll<rows>([&](auto r) RINGATTN_INLINED { sum[r] = Vec<A>::zero(); });
  for (int t = 0; t < terms; t += lanes, queries += lanes * lanes) {
    Vec<A> x[lanes];
    for (int i = 0; i < lanes; ++i) {
      std::int64_t const key = std::min<std::int64_t>(i, n - 1), from = std::int64_t(t) * terms_of<T>;
      x[i] = load_bits<A>(keys.at(key) + from);
      keys.fetch(key, from, lanes * terms_of<T>);
    }
    simd::transpose(x);
    unroll<lanes>([&](auto k) RINGATTN_INLINED {
      Factor<T> const key = __builtin_bit_cast(Factor<T>, x[k]);
      T const* const query = queries + k * lanes;
      unroll<rows>([&](auto r) RINGATTN_INLINED { sum[r] = fma(Factor<T>::broadcast(query[r]), key, sum[r]); });
    });
  }
  Vec<A> s[lanes];
  unroll<lanes>([&](auto r) RINGATTN_INLINED {
    if constexpr (r < rows)
      s[r] = sum[r];
    else
      s[r] = Vec<A>::zero();
  });
  simd::transpose(s);
  for (int i = 0; i < lanes; ++i) s[i].store(scores + i * lanes);
}

/// out[r] = alpha[r] out[r] + sum over n keys of weights[key][r] values[key], of `vectors` vectors from column c on;
/// alpha is 1 if null. weights: [ceil(n / terms_of<T>)][lanes].
template <int rows, int vectors, class T, class A>
[[gnu::noinline]] void flat_values(T const* weights, DenseRows<T> values, std::int64_t n, std::int64_t c, A* const* out,
                                   A const* alpha) {
  using N = Number<T>;
  constexpr int lanes = vector_lanes<A>;
  Vec<A> sum[rows][vectors];
  unroll<rows * vectors>([&](auto i) RINGATTN_INLINED { sum[i / vectors][i % vectors] = Vec<A>::zero(); });
  auto const add = [&](N const* first, [[maybe_unused]] N const* second) RINGATTN_INLINED {
    unroll<vectors>([&](auto j) RINGATTN_INLINED {
      Factor<T> v;
      if constexpr (terms_of<T> == 1)
        v = Factor<T>::load(first + j * lanes);
      else
        v = Factor<T>::interleave(first + j * lanes, second + j * lanes);
      unroll<rows>([&](auto r) RINGATTN_INLINED { sum[r][j] = fma(Factor<T>::broadcast(weights[r]), v, sum[r][j]); });
    });
    weights += lanes;
  };
  std::int64_t k = 0;
  for (; k + terms_of<T> <= n; k += terms_of<T>) {
    for (int i = 0; i < terms_of<T>; ++i) values.fetch(k + i, c, vectors * lanes);
    add(values.at(k) + c, values.at(k) + values.row + c);
  }
  if (k < n) {  // half a pair: what lies behind the last row does not count, whatever it is
    static constexpr N nothing[vectors * lanes]{};
    add(values.at(k) + c, nothing);
  }
  unroll<rows>([&](auto r) RINGATTN_INLINED {
    unroll<vectors>([&](auto j) RINGATTN_INLINED {
      A* const to = out[r] + c + j * lanes;
      Vec<A> const before = Vec<A>::load(to);
      (alpha ? fma(before, Vec<A>::broadcast(alpha[r]), sum[r][j]) : before + sum[r][j]).store(to);
    });
  });
}

/// flat_scores of up to 16 rows in matrix registers.
template <class T, class A>
void matrix_flat_scores(T const* queries, DenseRows<T> keys, std::int64_t n, int terms, A* scores);
/// All columns of flat_values, of `rows` <= 16 rows, in matrix registers.
template <class T, class A>
void matrix_flat_values(int rows, T const* weights, DenseRows<T> values, std::int64_t n, std::int64_t columns,
                        A* const* out, A const* alpha);

/// flat_scores of `rows` <= most rows, rounded up to 2, 4, 8, ...: memory, not arithmetic, bounds fewer.
template <int most, class T, class A>
void some_flat_scores(int rows, T const* queries, DenseRows<T> keys, std::int64_t n, int terms, A* scores) {
  if constexpr (RegisterTile<T>::matrix) {
    matrix_flat_scores(queries, keys, n, terms, scores);
  } else {
    if constexpr (most > 2)
      if (2 * rows <= most) return some_flat_scores<most / 2>(rows, queries, keys, n, terms, scores);
    flat_scores<most>(queries, keys, n, terms, scores);
  }
}

/// All columns, of `rows` <= most rows, rounded up in the same way: out and alpha have so many.
template <int most, class T, class A>
void some_flat_values(int rows, T const* weights, DenseRows<T> values, std::int64_t n, std::int64_t columns,
                      A* const* out, A const* alpha) {
  if constexpr (RegisterTile<T>::matrix) {
    matrix_flat_values(rows, weights, values, n, columns, out, alpha);
  } else {
    if constexpr (most > 2)
      if (2 * rows <= most) return some_flat_values<most / 2>(rows, weights, values, n, columns, out, alpha);
    constexpr int lanes = vector_lanes<A>, vectors = std::clamp(simd::registers / 2 / most, 1, 4);
    std::int64_t c = 0;
    for (; c + vectors * lanes <= columns; c += vectors * lanes)
      flat_values<most, vectors>(weights, values, n, c, out, alpha);
    for (; c < columns; c += lanes) flat_values<most, 1>(weights, values, n, c, out, alpha);
  }
}

}  // namespace ringattn::cpu

#include "flat_matrix_tile.hpp"
