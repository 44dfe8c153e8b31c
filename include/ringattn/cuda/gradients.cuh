// SPDX-License-Identifier: Apache-2.0
// A warp's weights and score gradients of one tile of keys and one of queries, and what surrounds them.
//
// Keys are rows here, queries columns: P^T and dS^T are the left factors of dV = P^T dO and dK = dS^T Q as they lie in
// registers. Lane 4 g + t has, of each 16 x 8 tile, keys g and g + 8, queries 2t and 2t + 1.
#pragma once

#include "../softmax.hpp"
#include "runs.cuh"
#include "tile.cuh"

namespace ringattn::inline RINGATTN_ABI::cuda {

// ---------------------------------------------------------------- who meets whom

/// One tile of queries of one head.
struct QueryTile {
  int64_t head, index;
  RowTile tile;
  bool partial;  ///< are there pairs that do not count: masked, or past the end of the run?

  __device__ int64_t local() const { return tile.local; }  ///< first local row
  __device__ Rows const& rows() const { return tile.rows; }
  __device__ int count() const { return int(tile.rows.count); }
};

/// The tiles of queries that see a tile of keys: head by head, each from its last tile to its first.
///
/// All blocks start at the end of the sequence, where under a causal mask everybody has work. So a block is no more
/// than an addition behind the one before it, whose dQ it adds to.
template <class Mask> class QueryTiles {
 public:
  __device__ QueryTiles(RunTable const& runs, Mask const& mask, Rows const& k, int64_t first_head, int64_t heads)
      : runs_(runs), mask_(mask), k_(k), first_(first_head), end_(first_head + heads) {}
  __device__ QueryTile first() const {
    QueryTile at{runs_.tiles() > 0 ? first_ : end_, runs_.tiles(), {}, false};
    next(at);
    return at;
  }
  __device__ bool done(QueryTile const& at) const { return at.head >= end_; }
  __device__ void next(QueryTile& at) const {
    while (!done(at)) {
      if (--at.index < 0) {
        ++at.head;
        at.index = runs_.tiles();
        continue;
      }
      at.tile = runs_.tile(at.index);
      Coverage const c = mask_.coverage(at.tile.rows, k_);
      at.partial = c == Coverage::partial || at.count() < runs_.tile_size();
      if (c != Coverage::none) return;
    }
  }

 private:
  RunTable const& runs_;
  Mask const& mask_;
  Rows const& k_;
  int64_t first_, end_;
};

/// The last tile of keys before `tile` that these queries see, or -1. All lanes of a warp ask together.
template <class Mask>
__device__ inline int64_t tile_before(RunTable const& keys, Mask const& mask, Rows const& q, int64_t tile) {
  for (int64_t last = tile - 1; last >= 0; last -= 32) {
    int64_t const i = last - ptx::lane();
    bool const sees = i >= 0 && mask.coverage(q, keys.tile(i).rows) != Coverage::none;
    if (unsigned const found = __ballot_sync(~0u, sees)) return last - (__ffs(int(found)) - 1);
  }
  return -1;
}

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
template <class Mask, class Score, int n>
__device__ inline void weigh_gradients(float (&s)[1][n][4], float (&dp)[1][n][4], Word facts, bool all,
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
    for (int e = 0; e < 4; ++e) {
      float const lse = __uint_as_float(two[e % 2 * 2]), delta = __uint_as_float(two[e % 2 * 2 + 1]);
      float &x = s[0][j][e], &y = dp[0][j][e];
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
  if (all) return;
    // Chosen, not multiplied away: 0 times a NaN or an infinity would reach rows that the pair does not belong to.
#pragma unroll
  for (int i = 0; i < 4 * n; ++i) {
    bool const counts = pairs.count(first_query + i / 4 * 8 + 2 * t + i % 2, first_key + g + i % 4 / 2 * 8);
    float &x = s[0][i / 4][i % 4], &y = dp[0][i / 4][i % 4];
    x = counts ? x : 0;
    y = counts ? y : 0;
  }
}

/// Is one of them, in any lane, infinite or NaN?
template <int n> __device__ inline bool any_special(float const (&c)[1][n][4]) {
  bool found = false;
#pragma unroll
  for (int i = 0; i < 4 * n; ++i) {
    float const x = c[0][i / 4][i % 4];
    found = found || x - x != 0;
  }
  return __any_sync(~0u, found);
}

// ---------------------------------------------------------------- their tiles in shared memory

/// Rounds a warp's accumulators to elements of a tile, from (row, column) on.
template <class Tile, int n>
__device__ inline void store_sums(Tile const& tile, int row, int column, float const (&c)[1][n][4]) {
  int const g = ptx::lane() / 4, t = ptx::lane() % 4;
#pragma unroll
  for (int j = 0; j < n; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float const low = c[0][j][2 * half], high = c[0][j][2 * half + 1];
      int const r = row + half * 8 + g, first = column + 8 * j;
      if constexpr (Tile::per_chunk == 8) {
        ptx::store_word(tile.at(r, first / 8) + Word(4 * t), Tile::Mma::pack(low, high));
      } else {
        Word const to = tile.at(r, first / 4 + t / 2) + Word(t % 2 * 8);
        ptx::store_word(to, __float_as_uint(low));
        ptx::store_word(to + 4, __float_as_uint(high));
      }
    }
}

/// A[m][k] = tile[m][k], m in 16 rows from row `first`, k in Mma::depth columns; 32-bit elements in pairs (mma.cuh).
template <class Tile> class PairsAsA {
 public:
  using Mma = typename Tile::Mma;
  __device__ PairsAsA(Tile const& tile, int first)
      : cursor_(tile, first + ptx::lane() / 4, ptx::lane() % 4 / 2, ptx::lane() % 2 * 8) {}
  __device__ typename Mma::A fragment(int m, int k) const {
    Word r[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = ptx::load_word(cursor_.at(16 * m + i % 2 * 8, 2 * k) + Word(i / 2 * 4));
    return Mma::a(r);
  }

 private:
  detail::Cursor<Tile> cursor_;
};
template <class Tile>
requires(Tile::Mma::depth == 16) class PairsAsA<Tile> : public RowsAsA<Tile> {
 public:
  using RowsAsA<Tile>::RowsAsA;
};

/// B of a warp that has every `step`th 16 columns, its own number `first` onwards.
template <int step, class Tile> class EveryColumnsAsB {
 public:
  __device__ EveryColumnsAsB(Tile const& tile, int mine, int first = 0) : b_(tile, 16 * mine), first_(first) {}
  __device__ void fragments(int n, int k, typename Tile::Mma::B (&b)[2]) const {
    b_.fragments((first_ + n) * step, k, b);
  }

 private:
  ColumnsAsB<Tile> b_;
  int first_;
};

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

/// The sum of a(i) b(i) over the i < count that `counts`: the others do not take part, not even as 0 times infinity.
template <class Counts, class A, class B> __device__ inline float sum_of_seen(int count, Counts counts, A a, B b) {
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i)
    if (counts(i)) sum = __fmaf_rn(a(i), b(i), sum);
  return sum;
}

}  // namespace ringattn::cuda
