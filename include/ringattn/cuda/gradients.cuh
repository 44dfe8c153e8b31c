// SPDX-License-Identifier: Apache-2.0
// A warp's weights and score gradients of one tile of keys and one of queries, and what surrounds them.
//
// Keys are rows here, queries columns: P^T and dS^T are the left factors of dV = P^T dO and dK = dS^T Q as they lie in
// registers. Lane 4 g + t has, of each 16 x 8 tile, keys g and g + 8, queries 2t and 2t + 1.
#pragma once

#include "../softmax.hpp"
#include "product.cuh"
#include "runs.cuh"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS {

// ---------------------------------------------------------------- who meets whom

/// A tile of keys meets one tile of queries after the other, from the last to the first, each with every head that
/// shares the keys.
///
/// All blocks start at the end of the sequence, where under a causal mask everybody has work. So a block is no more
/// than an addition behind the one before it, whose dQ it adds to. Head by head it would lose that place again at each
/// new head, which begins with the block that has most to do.
struct QueryTile {
  RowTile queries;
  int64_t head, index;  ///< index: of the tile among those of its head
  int64_t before;       ///< the last tile of keys before this one that adds to the same queries, or -1
  bool partial;         ///< are there pairs that do not count: masked, or past the end of a run?

  /// Finds the one after `last` (null: the first) for tile `tile` of the keys and heads first_head .. end - 1; head =
  /// `end` if there is none. `keys`, `earlier_keys`: the rows of that tile and, if there is one, of the tile before it.
  /// All lanes of a warp call it, for which the others wait.
  template <class Mask>
  __device__ void find(RunTable const& q, RunTable const& k, Mask const& mask, int64_t tile, Rows const& keys,
                       Rows const& earlier_keys, int64_t first_head, int64_t end, QueryTile const* last) {
    if (last && last->head + 1 < end) {
      if (ptx::lane() == 0) *this = *last, ++head;
      return;
    }
    // Nearly always it is the tile next to the last, and the tile of keys before this one sees it, too.
    if (last && last->index > 0) {
      int64_t const i = last->index - 1;
      RowTile const at = q.previous(last->queries, i);
      Coverage const c = mask.coverage(at.rows, keys);
      if (c != Coverage::none && (tile == 0 || mask.coverage(at.rows, earlier_keys) != Coverage::none))
        return set(q, k, keys, c, at, first_head, i, tile - 1);
    }
    int64_t const left = last ? last->index : q.tiles();
    int64_t const i =
        first_of<-1>(left - 1, left, [&](int64_t j) { return mask.coverage(q.tile(j).rows, keys) != Coverage::none; });
    if (i < 0) {
      if (ptx::lane() == 0) head = end, index = 0;
      return;
    }
    RowTile const at = q.tile(i);
    int64_t const earlier = first_of<-1>(
        tile - 1, tile, [&](int64_t j) { return mask.coverage(at.rows, k.tile(j).rows) != Coverage::none; });
    set(q, k, keys, mask.coverage(at.rows, keys), at, first_head, i, earlier);
  }

 private:
  __device__ void set(RunTable const& q, RunTable const& k, Rows const& keys, Coverage c, RowTile const& at,
                      int64_t head_, int64_t index_, int64_t before_) {
    bool const whole = at.rows.count == q.tile_size() && keys.count == k.tile_size();
    if (ptx::lane() == 0) {
      queries = at, head = head_, index = index_, before = before_;
      partial = !whole || c == Coverage::partial;
    }
  }
};

/// The pairs of a tile of queries and one of keys; indices count from the tiles' first rows.
template <class Mask> struct Pairs {
  Mask const& mask;
  Rows const &q, &k;

  __device__ int64_t query(int i) const { return q.at(i < q.count ? i : q.count - 1); }
  __device__ int64_t key(int i) const { return k.at(i < k.count ? i : k.count - 1); }
  /// A mask is asked for rows that exist only.
  __device__ bool count(int i, int j) const { return i < q.count && j < k.count && mask.visible(q.at(i), k.at(j)); }
};

// ---------------------------------------------------------------- P and dS

/// What backward knows of a query: its LSE, base 2 (+inf for a row without keys: weights 0), and dO . O.
struct alignas(8) RowFacts {
  float lse, delta;
};

/// Scores become weights P, dP becomes dS = P (dP - delta) slope. `facts`: shared memory, of the tile's queries.
/// `all`: do all pairs count? The others get 0.
template <class Mask, class Score, int m, int n>
__device__ inline void weigh_gradients(float (&s)[m][n][4], float (&dp)[m][n][4], Word facts, bool all,
                                       Pairs<Mask> const& pairs, int first_key, int first_query, Score const& score,
                                       float scale, int64_t head) {
  int const g = ptx::lane() / 4, t = ptx::lane() % 4;
  float const unit = scale * float(softmax::log2_e);
#pragma unroll
  for (int j = 0; j < n; ++j) {
    int const query = first_query + 8 * j + 2 * t;
    Word two[4];
    ptx::load_words(two, facts + Word(query * int(sizeof(RowFacts))));
#pragma unroll
    for (int e = 0; e < 4 * m; ++e) {
      float const lse = __uint_as_float(two[e % 2 * 2]), delta = __uint_as_float(two[e % 2 * 2 + 1]);
      float &x = s[e / 4][j][e % 4], &y = dp[e / 4][j][e % 4];
      if constexpr (Score::identity) {
        x = ptx::exp2(__fmaf_rn(x, unit, -lse));
        y = x * (y - delta);
      } else {
        int64_t const at_q = pairs.query(query + e % 2), at_k = pairs.key(first_key + g + e / 2 * 8);
        float const slope = score.slope(x * scale, head, at_q, at_k);
        x = ptx::exp2(__fmaf_rn(score.apply(x * scale, head, at_q, at_k), float(softmax::log2_e), -lse));
        y = x * (y - delta) * slope;
      }
    }
  }
  // Chosen, not multiplied away: 0 times a NaN or an infinity would reach rows that the pair does not belong to.
  if (all) return;
#pragma unroll
  for (int i = 0; i < 4 * m * n; ++i) {
    int const e = i % 4, j = i / 4 % n, query = first_query + j * 8 + ptx::lane() % 4 * 2 + e % 2;
    bool const counts = pairs.count(query, first_key + i / (4 * n) * 16 + ptx::lane() / 4 + e / 2 * 8);
    float &x = s[i / (4 * n)][j][e], &y = dp[i / (4 * n)][j][e];
    x = counts ? x : 0;
    y = counts ? y : 0;
  }
}

/// Is one of them, in any lane, infinite or NaN?
template <int m, int n> __device__ inline bool any_special(float const (&c)[m][n][4]) {
  bool found = false;
#pragma unroll
  for (int i = 0; i < 4 * m * n; ++i) {
    float const x = c[i / (4 * n)][i / 4 % n][i % 4];
    found = found || x - x != 0;
  }
  return __any_sync(~0u, found);
}

// ---------------------------------------------------------------- their tiles in shared memory

/// The part of a tile from `row`, a multiple of 8, on: to be read as an operand.
template <class Tile> __device__ inline Tile from_row(Tile const& tile, int row) {
  return {tile.address + Word(row * Tile::pitch)};
}

/// Rounds a warp's accumulators to elements of a tile, from (row, column) on.
template <class Tile, int m, int n>
__device__ inline void store_sums(Tile const& tile, int row, int column, float const (&c)[m][n][4]) {
  int const g = ptx::lane() / 4, t = ptx::lane() % 4;
#pragma unroll
  for (int i = 0; i < 2 * m * n; ++i) {
    int const fragment = i / (2 * n), j = i / 2 % n, half = i % 2;
    int const r = row + fragment * 16 + half * 8 + g, first = column + 8 * j;
    if constexpr (Tile::per_chunk == 8) {
      Word const x = Tile::Mma::of_sums(c[fragment], j / 2).r[j % 2 * 2 + half];
      ptx::store_word(tile.at(r, first / 8) + Word(4 * t), x);
    } else {
      Word const x[] = {__float_as_uint(c[fragment][j][2 * half]), __float_as_uint(c[fragment][j][2 * half + 1])};
      ptx::store_words(tile.at(r, first / 4 + t / 2) + Word(t % 2 * 8), x);
    }
  }
}

/// A[m][k] = tile[m][k], m in 16 rows from row `first`, k in Mma::depth columns; 32-bit elements in pairs (mma.cuh).
template <class Tile> class PairsAsA {
 public:
  using Mma = typename Tile::Mma;
  __device__ PairsAsA(Tile const& tile, int first)
      : cursor_(tile, first + ptx::lane() / 4, ptx::lane() % 4 / 2, ptx::lane() % 2 * 8) {}
  template <bool finite = false> __device__ typename Mma::A fragment(int m, int k) const {
    Word r[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Word two[2];
      ptx::load_words(two, cursor_.at(16 * m + half * 8, 2 * k));
      r[half] = two[0], r[half + 2] = two[1];
    }
    return Mma::template a<finite>(r);
  }

 private:
  detail::Cursor<Tile> cursor_;
};
template <class Tile>
requires(Tile::Mma::depth == 16) class PairsAsA<Tile> : public RowsAsA<Tile> {
 public:
  using RowsAsA<Tile>::RowsAsA;
};

/// Where several warps share the columns of a product, each has every `step`th 16 of them: the tile of 8 columns that
/// is the jth of warp `mine`.
template <int step> __device__ inline int every_column(int j, int mine) { return (j / 2 * step + mine) * 2 + j % 2; }

/// B of such a warp, from its `first`th tile of 8 columns on.
template <int step, class Tile> class EveryColumnsAsB {
 public:
  __device__ EveryColumnsAsB(Tile const& tile, int mine, int first) : b_(tile, 16 * mine), first_(first) {}
  template <bool finite = false> __device__ void fragments(int n, int k, typename Tile::Mma::B (&b)[2]) const {
    b_.template fragments<finite>((first_ + n) * step, k, b);
  }

 private:
  ColumnsAsB<Tile> b_;
  int first_;
};

template <int step, class Tile>
__device__ inline EveryColumnsAsB<step, Tile> every_columns_as_b(Tile const& tile, int mine, int first = 0) {
  return {tile, mine, first};
}

// ---------------------------------------------------------------- products with infinities and NaN

/// c[row][column] += f(row, column), element by element, with few registers and little speed: for what happens rarely.
/// Rows count from the warp's first, columns are {8-column tile, column in it}.
template <int m, int n, class F> __device__ inline void add_each(float (&c)[m][n][4], F f) {
  int const g = ptx::lane() / 4, t = ptx::lane() % 4;
#pragma unroll 1
  for (int i = 0; i < m * n * 4; ++i) {
    float const x = f(i / (4 * n) * 16 + i % 4 / 2 * 8 + g, i / 4 % n, 2 * t + i % 2);
#pragma unroll
    for (int e = 0; e < m * n * 4; ++e)  // accumulators have no index at run time
      if (e == i) c[e / (4 * n)][e / 4 % n][e % 4] += x;
  }
}

/// The sum of a(i) b(i) over the `count` i from `first` on that `counts`: the others do not take part, not even as 0
/// times infinity.
template <class Counts, class A, class B>
__device__ inline float sum_of_seen(int first, int count, Counts counts, A a, B b) {
  float sum = 0;
#pragma unroll 1
  for (int i = first; i < first + count; ++i)
    if (counts(i)) sum = __fmaf_rn(a(i), b(i), sum);
  return sum;
}

/// sum += A B over the `depth` queries from `first_query` on that count, for this warp's keys from `first_key` on and
/// its columns: dV or dK.
template <int step = 1, int m, int n, class Scores, class Tile, class Mask>
__device__ inline void add_products(float (&sum)[m][n][4], Scores const& a, int first_key, int first_query, int depth,
                                    Tile const& b, int mine, Pairs<Mask> const& pairs) {
  add_each(sum, [&](int row, int j, int column) {
    int const key = first_key + row, at = every_column<step>(j, mine) * 8 + column;
    return sum_of_seen(
        first_query, depth, [&](int i) { return pairs.count(i, key); }, [&](int i) { return a.element(key, i); },
        [&](int i) { return b.element(i, at); });
  });
}
/// The same over the keys, for this warp's queries: dQ. Its columns start at its `first`th tile of 8.
template <int step, int m, int n, class Scores, class Tile, class Mask>
__device__ inline void add_products_transposed(float (&sum)[m][n][4], Scores const& a, int first_query, Tile const& b,
                                               int mine, int first, Pairs<Mask> const& pairs) {
  add_each(sum, [&](int row, int j, int column) {
    int const query = first_query + row, at = every_column<step>(first + j, mine) * 8 + column;
    return sum_of_seen(
        0, Scores::rows, [&](int i) { return pairs.count(query, i); }, [&](int i) { return a.element(i, query); },
        [&](int i) { return b.element(i, at); });
  });
}

}  // namespace ringattn::cuda
