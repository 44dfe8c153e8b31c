// SPDX-License-Identifier: Apache-2.0
// The state of backward attention for sm_80: its sizes and layout, what is computed before the first step, and how dQ
// leaves it after the last.
#pragma once

#include "../backward_tiles.hpp"
#include "../gradients.cuh"
#include "../launch.hpp"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS::sm80 {

/// How blocks add to dQ: each tile of keys after the one before it, or whoever comes first by `red.add`.
enum class Adding { in_turn, atomic };

/// Compile-time sizes of the backward kernel. Warps stand in a grid: `rows` of 16 m keys each, `columns`.
template <class K, int arch> struct BackwardSizes {
  static constexpr Tile tile = backward_tile_of<K, arch>;
  static constexpr budget::Backward needs{tile, K::head_dim, K::value_dim, int(sizeof(typename K::Element))};
  static constexpr int threads = 32 * tile.warps, stages = tile.stages;
  static constexpr int m = needs.fragments(), rows = tile.kv / (16 * m), columns = needs.columns();
  static constexpr int query_columns = needs.query_columns();    ///< warps of a row that compute scores
  static constexpr int passes = needs.passes();                  ///< in which the scores of a tile are computed
  static constexpr int n = tile.q / 8 / query_columns / passes;  ///< 8-query tiles of scores of a warp in a pass
  static constexpr int dk = K::head_dim / 8 / columns;           ///< 8-column tiles of a warp
  static constexpr int dv = K::value_dim / 8 / columns;          ///< ...
  static constexpr int images = tile.q / 16;                     ///< 16-row tiles of dQ
  static constexpr int dq_rows = needs.dq_rows();                ///< ... of a warp
  static constexpr int dq_columns = needs.dq_columns();          ///< warps that share the columns of one
  static constexpr int dq = needs.dq_step();                     ///< 8-column tiles that a warp sums at a time
  static constexpr int dq_steps = K::head_dim / 8 / dq_columns / dq;

  using Mma = cuda::Mma<typename K::Precision>;
  using Keys = SharedTile<Mma, tile.kv, K::head_dim, threads>;
  using Values = SharedTile<Mma, tile.kv, K::value_dim, threads>;
  using Queries = SharedTile<Mma, tile.q, K::head_dim, threads>;
  using Douts = SharedTile<Mma, tile.q, K::value_dim, threads>;
  using Scores = SharedTile<Mma, tile.kv, tile.q, threads>;

  /// What the threads of a block have in common; in shared memory, where it takes no registers.
  struct Block {
    RunTable const *q_runs, *k_runs;
    RowTile k;
    Rows earlier;                   ///< the tile of keys before this one, if there is one
    int64_t tile, b, kv_head, end;  ///< end: of the heads of the group
    QueryTile met[4];               ///< in turn: of this turn, the next one, the one after, the last one
    Word turn;                      ///< the number of this turn
    bool special_keys;              ///< is there an infinity or a NaN among the keys?
    bool special_values;            ///< ... the values? Of split products only.
  };

  // Shared memory: keys, values, dS, P where warps share it, per stage queries, dO and facts, the Block.
  static constexpr int facts_bytes = tile.q * int(sizeof(RowFacts));
  static constexpr int douts_at = Queries::bytes, facts_at = douts_at + Douts::bytes;  ///< in a stage
  static constexpr int stage_bytes = facts_at + facts_bytes;
  static constexpr int values_at = Keys::bytes, ds_at = values_at + Values::bytes, p_at = ds_at + Scores::bytes;
  static constexpr int stages_at = p_at + (columns > 1 ? Scores::bytes : 0);
  static constexpr int block_at = stages_at + stages * stage_bytes, shared = block_at + budget::shared_bytes_aside;
  static_assert(sizeof(Block) <= budget::shared_bytes_aside,
                "ringattn: raise budget::shared_bytes_aside to sizeof(Block)");
  static_assert(shared == needs.shared_bytes(), "ringattn: the budget is what the kernel takes");
};

/// 16 x 8 sums of dQ, to which the lanes of a warp add theirs (ptx.cuh) such that one instruction meets a line of the
/// cache once: four sums of a lane side by side where the card adds four at a time, else the lanes side by side.
struct SumsInMemory {
  float4 x[32];

  __device__ void add(int lane, float const (&sums)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    ptx::add(&x[lane], sums);
#else
    for (int e = 0; e < 4; ++e) ptx::add(&x[8 * e].x + lane, sums[e]);
#endif
  }
  /// Columns 0 .. 7 of row g + 8 half.
  __device__ void row(int g, int half, float (&y)[8]) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    for (int t = 0; t < 4; ++t) {
      float4 const of_lane = x[4 * g + t];
      y[2 * t] = half ? of_lane.z : of_lane.x;
      y[2 * t + 1] = half ? of_lane.w : of_lane.y;
    }
#else
    float4 const even = x[16 * half + g], odd = x[16 * half + 8 + g];
    y[0] = even.x, y[2] = even.y, y[4] = even.z, y[6] = even.w;
    y[1] = odd.x, y[3] = odd.y, y[5] = odd.z, y[7] = odd.w;
#endif
  }
};

/// The workspace: per panel (one query tile of one head) the sums of dQ, and what is known of its rows. `turn`, one per
/// panel and warp: 1 + the tile of keys that has added last in this step. A warp has the same part of dQ in all blocks,
/// so that it waits for, and is waited for by, its likes alone.
struct BackwardWorkspace {
  SumsInMemory* dq;  // [panel][16 rows][8 columns]
  RowFacts* facts;   // [panel][row]
  Word* turn;        // [panel][warp], and the ticket
};

/// What the backward kernel is told.
template <class K> struct BackwardParameters {
  using E = typename K::Element;

  RowsOf<E const> q, k, v, dout;
  RowsOf<float> dk, dv;
  RunTable q_runs, k_runs;
  BackwardWorkspace work;
  Word* ticket;
  typename K::Mask mask;
  typename K::Score score;
  float scale;
  int64_t heads, kv_heads, batch;

  __device__ int64_t panel(int64_t b, QueryTile const& at) const {
    return (b * heads + at.head) * q_runs.tiles() + at.index;
  }
};

/// The power of two that has a lane for eight columns of a row each: at most 32.
template <class K>
inline constexpr int lanes_per_row = K::value_dim > 128  ? 32
                                     : K::value_dim > 64 ? 16
                                     : K::value_dim > 32 ? 8
                                                         : 4;

template <class K> struct FactsParameters {
  RowsOf<typename K::Element const> out, dout;
  RowsOf<float const> lse;
  RunTable q_runs;
  BackwardWorkspace work;
  int64_t heads, rows;  ///< rows: of all panels
};

/// What is known of each row. `lanes` of a warp share a row, eight columns each.
template <class K, int arch> RINGATTN_HIDDEN __global__ void find_facts(__grid_constant__ FactsParameters<K> const p) {
  constexpr int q = BackwardSizes<K, arch>::tile.q, lanes = lanes_per_row<K>;
  int64_t const thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, index = thread / lanes, panel = index / q;
  int const column = int(thread % lanes), row = int(index % q);
  int64_t const tiles = p.q_runs.tiles(), head = panel / tiles % p.heads, b = panel / tiles / p.heads;
  RowTile const tile = index < p.rows ? p.q_runs.tile(panel % tiles) : RowTile{};
  bool const there = row < tile.rows.count;
  float sum = 0;
  if (there && column < K::value_dim / 8) {
    float o[8], dout[8];
    load_8(p.out, p.out.at(b, tile.local + row, head), column, o);
    load_8(p.dout, p.dout.at(b, tile.local + row, head), column, dout);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = __fmaf_rn(o[i], dout[i], sum);
  }
#pragma unroll
  for (int i = lanes / 2; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  if (index >= p.rows || column != 0) return;
  // Rows past the end, and rows that see no key, have no weight: 2^(s - inf).
  RowFacts facts{-softmax::minus_infinity<float>, 0};
  if (there) {
    facts.delta = sum;
    float const lse = *p.lse.at(b, tile.local + row, head);
    if (lse != softmax::minus_infinity<float>) facts.lse = lse * float(softmax::log2_e);
  }
  p.work.facts[index] = facts;
}

template <class K> struct WriteParameters {
  RowsOf<typename K::Element> dq;
  RunTable q_runs;
  BackwardWorkspace work;
  float scale;
  int64_t heads;
};

/// Scales and writes the dQ of a panel: a thread has eight columns of rows g and g + 8.
template <class K, int arch> RINGATTN_HIDDEN __global__ void write_dq(__grid_constant__ WriteParameters<K> const p) {
  constexpr int columns = K::head_dim / 8, images = BackwardSizes<K, arch>::images;
  int64_t const panel = blockIdx.x, tiles = p.q_runs.tiles();
  int64_t const b = panel / (p.heads * tiles), head = panel / tiles % p.heads;
  RowTile const mine = p.q_runs.tile(panel % tiles);
  for (int item = int(threadIdx.x); item < images * 8 * columns; item += int(blockDim.x)) {
    int const column = item % columns, g = item / columns % 8, image = item / columns / 8;
    SumsInMemory const& sums = p.work.dq[(panel * images + image) * columns + column];
    for (int half = 0; half < 2; ++half) {
      int const row = image * 16 + half * 8 + g;
      if (row >= mine.rows.count) continue;
      float y[8];
      sums.row(g, half, y);
      for (float& x : y) x *= p.scale;
      store_8(p.dq, p.dq.at(b, mine.local + row, head), column, y);
    }
  }
}

}  // namespace ringattn::cuda::sm80
