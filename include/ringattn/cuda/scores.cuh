// SPDX-License-Identifier: Apache-2.0
// A warp's scores while they are accumulators: masked, turned into weights, and what of their rows is kept.
//
// Lane 4 g + t has, of each 16 x 8 tile, rows g and g + 8, columns 2t and 2t + 1; the four lanes of a row are a quad.
#pragma once

#include "../softmax.hpp"
#include "runs.cuh"
#include "tile.cuh"

namespace ringattn::inline RINGATTN_ABI::cuda {

/// The maximum of a row that saw keys whose scores are all -inf. Such a row has no softmax (0/0), unlike one that sees
/// no key, whose maximum is -inf.
inline constexpr float lowest = std::numeric_limits<float>::lowest();

/// The key tiles that a tile of queries sees, in local order.
template <class Mask> class KeyTiles {
 public:
  __device__ KeyTiles(RunTable const& runs, Mask const& mask, Rows const& q) : runs_(runs), mask_(mask), q_(q) {
    find();
  }
  __device__ bool done() const { return index_ >= runs_.tiles(); }
  __device__ void next() {
    ++index_;
    find();
  }
  __device__ int64_t local() const { return tile_.local; }  ///< first local row
  __device__ int count() const { return int(tile_.rows.count); }
  __device__ Rows const& rows() const { return tile_.rows; }
  /// Are there pairs that do not count: masked, or past the end of the run?
  __device__ bool partial() const { return partial_ || count() < runs_.tile_size(); }

 private:
  __device__ void find() {
    for (; !done(); ++index_) {
      tile_ = runs_.tile(index_);
      Coverage const c = mask_.coverage(q_, tile_.rows);
      partial_ = c == Coverage::partial;
      if (c != Coverage::none) return;
    }
  }

  RunTable const& runs_;
  Mask const& mask_;
  Rows const q_;
  RowTile tile_;
  int64_t index_ = 0;
  bool partial_ = false;
};

/// Scores become base-2 scores divided by `unit`, or -inf where the pair does not count. `first`: the warp's first row
/// in q. Returns a bit per row (2 i + half, of 16-row tile i): has this lane a pair in it that counts?
template <class Mask, class Score, int m, int n>
__device__ inline unsigned mask_scores(float (&s)[m][n][4], Mask const& mask, Score const& score, float scale,
                                       int64_t head, Rows const& q, int first, Rows const& k) {
  int const lane = detail::lane();
  unsigned seen = 0;
#pragma unroll
  for (int i = 0; i < 2 * m; ++i) {
    // Rows past the end stand for the last one: a mask is asked for positions that exist only.
    int64_t const row = first + i * 8 + lane / 4, position = q.at(row < q.count ? row : q.count - 1);
#pragma unroll
    for (int j = 0; j < 2 * n; ++j) {
      int const column = j / 2 * 8 + lane % 4 * 2 + j % 2;
      float& x = s[i / 2][j / 2][i % 2 * 2 + j % 2];
      bool const counts = column < k.count && mask.visible(position, k.at(column));
      if constexpr (!Score::identity)
        x = counts ? score.apply(x * scale, head, position, k.at(column)) * float(softmax::log2_e) : x;
      x = counts ? x : softmax::minus_infinity<float>;
      seen |= unsigned(counts) << i;
    }
  }
  return seen;
}

/// What is kept of a warp's rows between tiles, and between steps. `sum` is this lane's part of the row's sum: the four
/// of a quad are added when the row is finished, so that the order of additions does not depend on the steps.
template <int m> struct RowState { float max[2 * m], sum[2 * m]; };

/// Continues the rows with a tile of scores, which become weights: s = 2^(s unit - max). o is brought to the new
/// maximum. `seen` as from mask_scores.
template <int m, int n, int d>
__device__ inline void weigh(float (&s)[m][n][4], float unit, unsigned seen, RowState<m>& state, float (&o)[m][d][4]) {
#pragma unroll
  for (int lanes = 1; lanes < 4; lanes *= 2) seen |= __shfl_xor_sync(~0u, seen, lanes);
  float factor[2 * m];
  bool unchanged = true;
#pragma unroll
  for (int i = 0; i < 2 * m; ++i) {
    float top = softmax::minus_infinity<float>;
#pragma unroll
    for (int j = 0; j < 2 * n; ++j) top = ptx::max(top, s[i / 2][j / 2][i % 2 * 2 + j % 2]);
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) top = ptx::max(top, __shfl_xor_sync(~0u, top, lanes));
    float max = ptx::max(state.max[i], top * unit);
    if (max == softmax::minus_infinity<float> && (seen >> i & 1)) max = lowest;
    factor[i] = softmax::rescale(state.max[i], max);
    unchanged = unchanged && factor[i] == 1;
    state.max[i] = max;
    float const shift = max == softmax::minus_infinity<float> ? 0 : max;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 2 * n; ++j) {
      float& x = s[i / 2][j / 2][i % 2 * 2 + j % 2];
      x = ptx::exp2(__fmaf_rn(x, unit, -shift));
      sum += x;
    }
    state.sum[i] = __fmaf_rn(state.sum[i], factor[i], sum);
  }
  if (__all_sync(~0u, unchanged)) return;
#pragma unroll
  for (int i = 0; i < m * d * 4; ++i) o[i / (4 * d)][i / 4 % d][i % 4] *= factor[i / (4 * d) * 2 + i % 4 / 2];
}

/// o += the infinite and NaN elements of the visible values of a tile. A product with weights would give them to rows
/// that do not see them, too, since 0 * inf = NaN. The weight of a visible infinity is taken as positive.
template <class Tile, class Mask, int m, int d>
__device__ inline void add_specials(float (&o)[m][d][4], Tile const& values, Mask const& mask, Rows const& q, int first,
                                    Rows const& k) {
  int const lane = detail::lane();
#pragma unroll 1
  for (int j = 0; j < int(k.count); ++j) {
    bool sees[2 * m];
#pragma unroll
    for (int i = 0; i < 2 * m; ++i) {
      int64_t const row = first + i * 8 + lane / 4;
      sees[i] = mask.visible(q.at(row < q.count ? row : q.count - 1), k.at(j));
    }
#pragma unroll
    for (int c = 0; c < 2 * d; ++c) {
      float const x = values.element(j, c / 2 * 8 + lane % 4 * 2 + c % 2);
      if (x - x == 0) continue;
#pragma unroll
      for (int i = 0; i < 2 * m; ++i)
        if (sees[i]) o[i / 2][c / 2][i % 2 * 2 + c % 2] += x;
    }
  }
}

}  // namespace ringattn::cuda
