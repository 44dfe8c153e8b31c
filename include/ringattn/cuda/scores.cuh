// SPDX-License-Identifier: Apache-2.0
// A warp's scores while they are accumulators: masked, turned into weights, and what of their rows is kept.
//
// Lane 4 g + t has, of each 16 x 8 tile, rows g and g + 8, columns 2t and 2t + 1; the four lanes of a row are a quad.
#pragma once

#include "../softmax.hpp"
#include "product.cuh"
#include "runs.cuh"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS {

/// The maximum of a row that saw keys whose scores are all -inf. Such a row has no softmax (0/0), unlike one that sees
/// no key, whose maximum is -inf.
inline constexpr float lowest = std::numeric_limits<float>::lowest();

/// A key tile that a tile of queries sees. Lies in shared memory and is found by one warp, for which the others wait.
struct KeyTile : RowTile {
  int64_t index;  ///< in the run table; rows.count is 0 if there are no more tiles
  bool partial;   ///< there are pairs that do not count: masked, or past the end of the run

  __device__ bool done() const { return rows.count == 0; }
  __device__ int count() const { return int(rows.count); }

  /// The first one after `last` (null: of all), in local order. All lanes of a warp call it.
  template <class Mask>
  __device__ void find(RunTable const& runs, Mask const& mask, Rows const& q, KeyTile const* last) {
    int64_t i = last ? last->index + 1 : 0;
    RowTile tile{};
    Coverage seen = Coverage::none;
    if (i < runs.tiles()) {
      // Nearly always it is the tile next to the last.
      tile = last ? runs.next(*last, i) : runs.tile(i);
      seen = mask.coverage(q, tile.rows);
      if (seen == Coverage::none) {
        i = first_of<1>(i + 1, runs.tiles() - i - 1,
                        [&](int64_t j) { return mask.coverage(q, runs.tile(j).rows) != Coverage::none; });
        tile = i < 0 ? RowTile{} : runs.tile(i);
        seen = i < 0 ? Coverage::none : mask.coverage(q, tile.rows);
      }
    }
    if (ptx::lane() == 0) {
      static_cast<RowTile&>(*this) = tile;
      index = seen == Coverage::none ? runs.tiles() : i;
      partial = seen == Coverage::partial || tile.rows.count < runs.tile_size();
    }
  }
};

/// Of a row of a tile. Rows past the end stand for the last one: a mask is asked for positions that exist only.
__device__ inline int64_t position_of(Rows const& rows, int i) {
  int const last = int(rows.count) - 1;
  return rows.at(i < last ? i : last);
}

/// Scores become base-2 scores divided by `unit`, or -inf where the pair does not count. `first`: the warp's first row
/// in q. `least` of the rows (two per 16-row tile) in which this lane has a pair that counts becomes `lowest`.
template <class Mask, class Score, int m, int n>
__device__ inline void mask_scores(float (&s)[m][n][4], float (&least)[2 * m], Mask const& mask, Score const& score,
                                   float scale, int64_t head, Rows const& q, int first, Rows const& k) {
#pragma unroll
  for (int i = 0; i < 2 * m; ++i) {
    int const lane = ptx::lane();
    int64_t const position = position_of(q, first + i * 8 + lane / 4);
    int64_t key = k.at(lane % 4 * 2);
    int const left = int(k.count) - lane % 4 * 2;  // columns from the lane's first one to the end
#pragma unroll
    for (int j = 0; j < 2 * n; ++j) {
      float& x = s[i / 2][j / 2][i % 2 * 2 + j % 2];
      bool const counts = j / 2 * 8 + j % 2 < left && mask.visible(position, key);
      if constexpr (!Score::identity)
        x = counts ? score.apply(x * scale, head, position, key) * float(softmax::log2_e) : x;
      x = counts ? x : softmax::minus_infinity<float>;
      least[i] = counts ? lowest : least[i];
      key += j % 2 == 0 ? k.stride : 7 * k.stride;
      asm volatile("" : "+l"(key));  // one key at a time: all of them at once would take the registers of accumulators
    }
  }
}

/// What is kept of a warp's rows between tiles, and between steps. `sum` is this lane's part of the row's sum: the four
/// of a quad are added when the row is finished, so that the order of additions does not depend on the steps.
template <int m> struct RowState { float max[2 * m], sum[2 * m]; };

/// Continues the rows with a tile of scores, which become weights, packed: s = 2^(s unit - max). o is brought to the
/// new maximum. `least`: `lowest` for rows that see a key of the tile, or -inf.
template <class Mma, int m, int n, int d>
__device__ inline void weigh(float (&s)[m][n][4], float unit, float const (&least)[2 * m], RowState<m>& state,
                             float (&o)[m][d][4]) {
  float factor[2 * m];
  bool unchanged = true;
#pragma unroll
  for (int i = 0; i < 2 * m; ++i) {
    float top = least[i];
#pragma unroll
    for (int j = 0; j < 2 * n; ++j) top = ptx::max(top, s[i / 2][j / 2][i % 2 * 2 + j % 2]);
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) top = ptx::max(top, __shfl_xor_sync(~0u, top, lanes));
    float const max = ptx::max(state.max[i], top == lowest ? top : top * unit);
    factor[i] = softmax::rescale(state.max[i], max);
    unchanged = unchanged && factor[i] == 1;
    state.max[i] = max;
    state.sum[i] *= factor[i];
  }
  // Late tiles seldom have a new maximum. Where outputs are narrow, asking costs more than it saves.
  if (d < n || !__all_sync(~0u, unchanged)) {
#pragma unroll
    for (int i = 0; i < m * d * 4; ++i) o[i / (4 * d)][i / 4 % d][i % 4] *= factor[i / (4 * d) * 2 + i % 4 / 2];
  }
#pragma unroll
  for (int i = 0; i < 2 * m; ++i) {
    float const shift = state.max[i] == softmax::minus_infinity<float> ? 0 : state.max[i];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < n; ++j) {
      float &x = s[i / 2][j][i % 2 * 2], &y = s[i / 2][j][i % 2 * 2 + 1];
      x = ptx::exp2(__fmaf_rn(x, unit, -shift));
      y = ptx::exp2(__fmaf_rn(y, unit, -shift));
      sum += x;
      sum += y;
      Mma::pack(x, y);
    }
    state.sum[i] += sum;
  }
}

/// o += the infinite and NaN elements of the visible values of a tile. A product with weights would give them to rows
/// that do not see them, too, since 0 * inf = NaN. The weight of a visible infinity is taken as positive.
template <class Tile, class Mask, int m, int d>
__device__ inline void add_specials(float (&o)[m][d][4], Tile const& values, Mask const& mask, Rows const& q, int first,
                                    Rows const& k) {
  int const lane = ptx::lane();
#pragma unroll 1
  for (int j = 0; j < int(k.count); ++j)
#pragma unroll 1
    for (int c = 0; c < 2 * d; ++c) {
      float const x = values.element(j, c / 2 * 8 + lane % 4 * 2 + c % 2);
      if (x - x == 0) continue;
#pragma unroll
      for (int i = 0; i < 2 * m; ++i) {
        if (!mask.visible(position_of(q, first + i * 8 + lane / 4), k.at(j))) continue;
          // Rare and slow, so that it takes no registers from the rest: accumulators have no index at run time.
#pragma unroll
        for (int e = 0; e < 2 * d; ++e)
          if (e == c) o[i / 2][e / 2][i % 2 * 2 + e % 2] += x;
      }
    }
}

}  // namespace ringattn::cuda
