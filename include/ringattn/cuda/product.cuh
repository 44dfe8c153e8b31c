// SPDX-License-Identifier: Apache-2.0
// Products on tensor cores: how warps read tiles in shared memory as operands, and multiply them.
//
//   operand       is                     from              depth, 32-bit elements
//   RowsAsA       A[m][k] = tile[m][k]   ldmatrix          in order
//   ColumnsAsA    A[m][k] = tile[k][m]   ldmatrix.trans    in pairs (mma.cuh)
//   SumsAsA       A[m][k] = c[m][k]      accumulators      in pairs
//   RowsAsB       B[k][n] = tile[n][k]   ldmatrix          in order
//   ColumnsAsB    B[k][n] = tile[k][n]   ldmatrix.trans    in pairs
// Both operands of a product must have their depth in the same order: Rows with Rows, the others with each other.
#pragma once

#include "tile.cuh"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS {

namespace detail {

/// Where a lane reads: row `row` < 8 k, chunk `chunk` of a 16-column, 16-byte aligned box that may start at any row
/// that is a multiple of 8 and at any even chunk. Splitting the address like this leaves one XOR per box.
template <class Tile> class Cursor {
 public:
  __device__ Cursor(Tile const& tile, int row, int chunk, int byte = 0)
      : base_(tile.address + Word(row * Tile::pitch + byte)), chunk_(Word(chunk) ^ Tile::turn(row)) {}
  __device__ Word at(int first_row, int first_chunk) const {
    constexpr int inside = Tile::group - 1;
    return base_ + Word(first_row * Tile::pitch + (first_chunk & ~inside) * 16) +
           ((chunk_ ^ Word(first_chunk & inside)) << 4);
  }

 private:
  Word base_, chunk_;
};

}  // namespace detail

// ---------------------------------------------------------------- operands

// A gives fragment (m, k), B fragments (n, k) and (n + 1, k); `finite`: of numbers that are known to be.

/// m: in 16 rows, from row `first` of the tile. k: in Mma::depth columns.
template <class Tile> class RowsAsA {
 public:
  using Mma = typename Tile::Mma;
  __device__ RowsAsA(Tile const& tile, int first) : cursor_(tile, first + ptx::lane() % 16, ptx::lane() / 16) {}
  template <bool finite = false> __device__ typename Mma::A fragment(int m, int k) const {
    Word r[4];
    ptx::load_matrices(r, cursor_.at(16 * m, 2 * k));
    return Mma::template a<finite>(r);
  }

 private:
  detail::Cursor<Tile> cursor_;
};

/// m: in 16 columns, from column `first` (a multiple of 16) of the tile. k: in Mma::depth rows.
template <class Tile> class ColumnsAsA {
 public:
  using Mma = typename Tile::Mma;
  __device__ ColumnsAsA(Tile const& tile, int first)
      : even_(tile, row(0), chunk(first), byte()), odd_(tile, row(1), chunk(first), byte()) {}
  template <bool finite = false> __device__ typename Mma::A fragment(int m, int k) const {
    Word r[4];
    if constexpr (wide) {
#pragma unroll
      for (int i = 0; i < 4; ++i) r[i] = ptx::load_word((i < 2 ? even_ : odd_).at(8 * k, 4 * m + i % 2 * 2));
    } else {
      ptx::load_matrices_transposed(r, even_.at(16 * k, 2 * m));
    }
    return Mma::template a<finite>(r);
  }

 private:
  static constexpr bool wide = Mma::depth == 8;
  __device__ static int row(int odd) {
    int const l = ptx::lane();
    return wide ? l % 4 * 2 + odd : l / 16 * 8 + l % 8;
  }
  // `first` may be known to the running warp only, so it goes into the lane's own chunk.
  __device__ static int chunk(int first) {
    int const l = ptx::lane();
    return wide ? first / 4 + l / 16 : first / 8 + l / 8 % 2;
  }
  __device__ static int byte() { return wide ? ptx::lane() / 4 % 4 * 4 : 0; }

  detail::Cursor<Tile> even_, odd_;
};

/// n: in 8 rows, from the tile's first row. k: in Mma::depth columns.
template <class Tile> class RowsAsB {
 public:
  using Mma = typename Tile::Mma;
  __device__ explicit RowsAsB(Tile const& tile)
      : cursor_(tile, ptx::lane() / 16 * 8 + ptx::lane() % 8, ptx::lane() / 8 % 2) {}
  template <bool finite = false> __device__ void fragments(int n, int k, typename Mma::B (&b)[2]) const {
    Word r[4];
    ptx::load_matrices(r, cursor_.at(8 * n, 2 * k));
    b[0] = Mma::template b<finite>(r[0], r[1]);
    b[1] = Mma::template b<finite>(r[2], r[3]);
  }

 private:
  detail::Cursor<Tile> cursor_;
};

/// n: in 8 columns, from column `first` of the tile (its bits and those of 8 n must not overlap). k: in Mma::depth
/// rows.
template <class Tile> class ColumnsAsB {
 public:
  using Mma = typename Tile::Mma;
  __device__ explicit ColumnsAsB(Tile const& tile, int first = 0)
      : even_(tile, row(0), chunk(first), byte()), odd_(tile, row(1), chunk(first), byte()) {}
  template <bool finite = false> __device__ void fragments(int n, int k, typename Mma::B (&b)[2]) const {
    if constexpr (wide) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        b[i] = Mma::template b<finite>(ptx::load_word(even_.at(8 * k, 2 * (n + i))),
                                       ptx::load_word(odd_.at(8 * k, 2 * (n + i))));
    } else {
      Word r[4];
      ptx::load_matrices_transposed(r, even_.at(16 * k, n));
      b[0] = Mma::b(r[0], r[1]);
      b[1] = Mma::b(r[2], r[3]);
    }
  }

 private:
  static constexpr bool wide = Mma::depth == 8;
  __device__ static int row(int odd) {
    int const l = ptx::lane();
    return wide ? l % 4 * 2 + odd : l % 16;
  }
  __device__ static int chunk(int first) { return first / Tile::per_chunk + ptx::lane() / 16; }
  __device__ static int byte() { return wide ? ptx::lane() / 4 % 4 * 4 : 0; }

  detail::Cursor<Tile> even_, odd_;
};

/// Accumulators of another product, m in 16 rows, k in Mma::depth columns.
/// `packed`: after Mma::pack.
template <class Mma_, int m, int n, bool packed = false> class SumsAsA {
 public:
  using Mma = Mma_;
  __device__ explicit SumsAsA(float const (&c)[m][n][4]) : c_(c) {}
  template <bool finite = false> __device__ typename Mma::A fragment(int i, int k) const {
    return packed ? Mma::of_packed(c_[i], k) : Mma::template of_sums<finite>(c_[i], k);
  }

 private:
  float const (&c_)[m][n][4];
};

template <class Mma, int m, int n> __device__ inline SumsAsA<Mma, m, n> sums_as_a(float const (&c)[m][n][4]) {
  return SumsAsA<Mma, m, n>(c);
}
template <class Mma, int m, int n> __device__ inline SumsAsA<Mma, m, n, true> packed_as_a(float const (&c)[m][n][4]) {
  return SumsAsA<Mma, m, n, true>(c);
}

// ---------------------------------------------------------------- products

/// c += A B over `depth`, `unroll` steps at a time (all of them where a factor lies in registers: those have no index
/// at run time); c is this warp's: m tiles of 16 rows, n (even) of 8 columns, laid out as in ptx.cuh. B is finite where
/// products are split; A is if `finite`.
template <int depth, bool finite = false, int unroll = depth, int m, int n, class A, class B>
__device__ inline void multiply(float (&c)[m][n][4], A const& a, B const& b) {
  using M = typename A::Mma;
  static_assert(n % 2 == 0 && depth % M::depth == 0, "ringattn: columns in steps of 16, depth in steps of an mma");
#pragma unroll unroll
  for (int k = 0; k < depth / M::depth; ++k) {
    typename M::A x[m];
#pragma unroll
    for (int i = 0; i < m; ++i) x[i] = a.template fragment<finite>(i, k);
#pragma unroll
    for (int j = 0; j < n; j += 2) {
      typename M::B y[2];
      b.template fragments<M::split>(j, k, y);
#pragma unroll
      for (int i = 0; i < m; ++i) {
        M::multiply(c[i][j], x[i], y[0]);
        M::multiply(c[i][j + 1], x[i], y[1]);
      }
    }
  }
}

/// The same from memory: the fragments of a step are on their way while those of the step before it are multiplied.
template <int depth, int m, int n, class A, class B>
__device__ inline void multiply_ahead(float (&c)[m][n][4], A const& a, B const& b) {
  using M = typename A::Mma;
  struct Step {
    typename M::A x[m];
    typename M::B y[n];
  };
  auto const fetch = [&](int k) {
    Step s;
#pragma unroll
    for (int i = 0; i < m; ++i) s.x[i] = a.fragment(i, k);
#pragma unroll
    for (int j = 0; j < n; j += 2) {
      typename M::B y[2];
      b.fragments(j, k, y);
      s.y[j] = y[0], s.y[j + 1] = y[1];
    }
    return s;
  };
  auto const add = [&](Step const& s) {
#pragma unroll
    for (int j = 0; j < n; ++j)
#pragma unroll
      for (int i = 0; i < m; ++i) M::multiply(c[i][j], s.x[i], s.y[j]);
  };
  Step now = fetch(0);
#pragma unroll 2
  for (int k = 1; k < depth / M::depth; ++k) {
    Step const next = fetch(k);
    add(now);
    now = next;
  }
  add(now);
}

/// c = A B, both from memory, where infinite factors give what the exact product gives. `finite`: both are, which
/// only split products make use of.
template <int depth, bool finite = false, int m, int n, class A, class B>
__device__ inline void multiply_scores(float (&c)[m][n][4], A const& a, B const& b) {
  using M = typename A::Mma;
#pragma unroll
  for (int i = 0; i < m * n * 4; ++i) c[i / (4 * n)][i / 4 % n][i % 4] = 0;
  if constexpr (!M::split) {
    // As many steps at a time as there are registers for.
    if constexpr (m * n >= 32)
      multiply<depth, false, 1>(c, a, b);
    else if constexpr (depth / M::depth <= 4)
      multiply<depth>(c, a, b);
    else if constexpr (m * n >= 16)
      multiply_ahead<depth>(c, a, b);
    else
      multiply<depth, false, 2>(c, a, b);
  } else {
    float low[m][n][4] = {};
    constexpr int unroll = finite ? depth / M::depth : 1;  // the other one is for what happens rarely
#pragma unroll unroll
    for (int k = 0; k < depth / M::depth; ++k) {
      typename M::A x[m];
#pragma unroll
      for (int i = 0; i < m; ++i) x[i] = a.template fragment<finite>(i, k);
#pragma unroll
      for (int j = 0; j < n; j += 2) {
        typename M::B y[2];
        b.template fragments<finite>(j, k, y);
#pragma unroll
        for (int i = 0; i < 2 * m; ++i) M::multiply(c[i / 2][j + i % 2], low[i / 2][j + i % 2], x[i / 2], y[i % 2]);
      }
    }
#pragma unroll
    for (int i = 0; i < m * n * 4; ++i) {
      float& x = c[i / (4 * n)][i / 4 % n][i % 4];
      float const y = low[i / (4 * n)][i / 4 % n][i % 4];
      x = y == y ? x + y : x;
    }
  }
}

/// The same, with what is known at run time.
template <int depth, int m, int n, class A, class B>
__device__ inline void multiply_scores(float (&c)[m][n][4], A const& a, B const& b, bool finite) {
  if (A::Mma::split && finite)
    multiply_scores<depth, true>(c, a, b);
  else
    multiply_scores<depth>(c, a, b);
}

}  // namespace ringattn::cuda
