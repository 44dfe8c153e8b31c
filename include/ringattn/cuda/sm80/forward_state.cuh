// SPDX-License-Identifier: Apache-2.0
// The state of forward attention for sm_80: its sizes and layout, what is written before the first step, and how
// outputs leave it after the last where the step does not write them itself.
#pragma once

#include "../launch.hpp"
#include "../scores.cuh"
#include "../tiles.hpp"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS::sm80 {

/// Compile-time sizes of a kernel.
template <class K, int arch> struct Sizes {
  static constexpr Tile tile = tile_of<K, arch>;
  static constexpr int threads = 32 * tile.warps, stages = tile.stages;
  static constexpr int warp_rows = tile.q / tile.warps;
  static constexpr int m = warp_rows / 16;       ///< 16-row tiles of a warp
  static constexpr int n = tile.kv / 8;          ///< 8-column tiles of scores
  static constexpr int d = K::value_dim / 8;     ///< ... of outputs
  static constexpr int images = tile.warps * m;  ///< 16-row tiles of a block

  using Mma = cuda::Mma<typename K::Precision>;
  using Queries = SharedTile<Mma, tile.q, K::head_dim, threads>;
  using Keys = SharedTile<Mma, tile.kv, K::head_dim, threads>;
  using Values = SharedTile<Mma, tile.kv, K::value_dim, threads>;

  /// What the threads of a block have in common; its first warp keeps it. It lies in shared memory, where it takes none
  /// of the registers that accumulators need.
  struct Block {
    Rows q;            ///< global positions of the queries
    int64_t b, local;  ///< of the queries: batch entry, first local row
    int64_t head, panel;
    typename K::Element const *k, *v;  ///< row 0 of this head
    KeyTile tiles[stages + 1];         ///< of this turn and those that are ordered ahead
  };
  static constexpr int tiles = Queries::bytes + stages * (Keys::bytes + Values::bytes);
  static constexpr int shared = tiles + int(sizeof(Block));
  static_assert(sizeof(Block) <= budget::shared_bytes_aside,
                "ringattn: raise budget::shared_bytes_aside to sizeof(Block)");
};

/// The workspace: per panel (one query tile of one head) outputs as 16 x 8 accumulators, one float4 per lane, and per
/// 16 rows one float4 {max, max, sum, sum} per lane, of rows g and g + 8. Outputs of rows whose max is -inf are 0,
/// whatever lies there.
struct Workspace {
  float4* o;     // [panel][16 rows][8 columns][lane]
  float4* rows;  // [panel][16 rows][lane]

  template <class S> __device__ float4* outputs(int64_t panel, int image) const {
    return o + (panel * S::images + image) * (S::d * 32);
  }
  template <class S> __device__ float4* state(int64_t panel, int image) const {
    return rows + (panel * S::images + image) * 32;
  }
};

/// What a row ends with: the factor of its outputs, and its LSE. 0/0 where all visible scores are -inf.
struct RowEnd {
  float factor, lse;

  __device__ RowEnd(float max, float sum) {
    bool const undefined = sum == 0 && max != softmax::minus_infinity<float>;
    factor = undefined ? sum / sum : softmax::normaliser(sum);
    lse = undefined ? factor : softmax::lse(max, sum);
  }
};

/// State of rows that have seen nothing.
template <class K, int arch> RINGATTN_HIDDEN __global__ void clear(Workspace work, int64_t count) {
  int64_t const i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  float const none = softmax::minus_infinity<float>;
  if (i < count) work.rows[i] = float4{none, none, 0, 0};
}

template <class K> struct FinishParameters {
  RowsOf<typename K::Element> out;
  RowsOf<float> lse;
  RunTable q_runs;
  Workspace work;
  int64_t heads;
};

/// Normalises a panel and writes its rows: a thread has eight columns of rows g and g + 8.
template <class K, int arch> RINGATTN_HIDDEN __global__ void finish(__grid_constant__ FinishParameters<K> const p) {
  using S = Sizes<K, arch>;
  int64_t const panel = blockIdx.x, tiles = p.q_runs.tiles();
  int64_t const b = panel / (p.heads * tiles), head = panel / tiles % p.heads;
  RowTile const mine = p.q_runs.tile(panel % tiles);
  for (int item = int(threadIdx.x); item < S::images * 8 * S::d; item += int(blockDim.x)) {
    int const column = item % S::d, g = item / S::d % 8, image = item / S::d / 8;
    float4 const* const rows = p.work.template state<S>(panel, image) + 4 * g;
    float4 const* const o = p.work.template outputs<S>(panel, image) + column * 32 + 4 * g;
    float4 const r[4] = {rows[0], rows[1], rows[2], rows[3]};
    bool const fresh = r[0].x == softmax::minus_infinity<float> && r[0].y == softmax::minus_infinity<float>;
    float4 x[4] = {};
    if (!fresh)
      for (int t = 0; t < 4; ++t) x[t] = o[t];
    for (int half = 0; half < 2; ++half) {
      int const row = image * 16 + half * 8 + g;
      if (row >= mine.rows.count) continue;
      float const max = half ? r[0].y : r[0].x;
      float const sum = half ? (r[0].w + r[1].w) + (r[2].w + r[3].w) : (r[0].z + r[1].z) + (r[2].z + r[3].z);
      RowEnd const end(max, sum);
      float y[8];
      for (int t = 0; t < 4; ++t) {
        y[2 * t] = (half ? x[t].z : x[t].x) * end.factor;
        y[2 * t + 1] = (half ? x[t].w : x[t].y) * end.factor;
      }
      store_8(p.out, p.out.at(b, mine.local + row, head), column, y);
      if (column == 0 && p.lse.data) *p.lse.at(b, mine.local + row, head) = end.lse;
    }
  }
}

}  // namespace ringattn::cuda::sm80
