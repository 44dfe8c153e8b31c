// SPDX-License-Identifier: Apache-2.0
// Backward attention for sm_80 and up, one kernel per step: dK and dV stay in registers, dQ is added to in turn.
//
// A block has one tile of keys and values of one head and walks the tiles of queries, of all heads of its group, that
// see it (Dao 2023, algorithm 2): P and dS are computed once and used for all three gradients. Sums of dQ lie in the
// workspace in fp32, as the registers hold them. Tiles of keys add to them in local order: each waits until the one
// before it is through with these queries. That makes the result the same at every run, and for every division of the
// keys into steps. Nobody waits for a block that has not started, since blocks take their tiles by tickets.
#pragma once

#include <algorithm>
#include <climits>
#include <type_traits>

#include "../backward_tiles.hpp"
#include "../gradients.cuh"
#include "../launch.hpp"

namespace ringattn::inline RINGATTN_ABI::cuda::sm80 {

/// Compile-time sizes of the backward kernel. Warps stand in a grid: `rows` of 16 keys each, `columns`.
template <class K, int arch> struct BackwardSizes {
  static constexpr Tile tile = backward_tile_of<K, arch>;
  static constexpr budget::Backward budget{tile, K::head_dim, K::value_dim, int(sizeof(typename K::Element))};
  static constexpr int threads = 32 * tile.warps, stages = tile.stages;
  static constexpr int rows = tile.kv / 16, columns = budget.columns();
  static constexpr int query_columns = budget.query_columns();  ///< warps of a row that compute scores
  static constexpr int n = tile.q / 8 / query_columns;          ///< 8-query tiles of scores of a warp
  static constexpr int dk = K::head_dim / 8 / columns;          ///< 8-column tiles of a warp
  static constexpr int dv = K::value_dim / 8 / columns;         ///< ...
  static constexpr int images = tile.q / 16;                    ///< 16-row tiles of dQ
  static constexpr int dq_rows = budget.dq_rows();              ///< ... of a warp
  static constexpr int dq_columns = budget.dq_columns();        ///< warps that share the columns of one
  static constexpr int dq = budget.dq_step();                   ///< 8-column tiles that a warp sums at a time
  static constexpr int dq_steps = K::head_dim / 8 / dq_columns / dq;

  using Mma = cuda::Mma<typename K::Precision>;
  using Keys = SharedTile<Mma, tile.kv, K::head_dim, threads>;
  using Values = SharedTile<Mma, tile.kv, K::value_dim, threads>;
  using Queries = SharedTile<Mma, tile.q, K::head_dim, threads>;
  using Douts = SharedTile<Mma, tile.q, K::value_dim, threads>;
  using Scores = SharedTile<Mma, tile.kv, tile.q, threads>;

  // Shared memory: keys, values, dS, P where warps share it, per stage queries, dO and facts, the ticket.
  static constexpr int facts_bytes = tile.q * int(sizeof(RowFacts));
  static constexpr int stage_bytes = Queries::bytes + Douts::bytes + facts_bytes;
  static constexpr int values_at = Keys::bytes, ds_at = values_at + Values::bytes, p_at = ds_at + Scores::bytes;
  static constexpr int stages_at = p_at + (columns > 1 ? Scores::bytes : 0);
  static constexpr int ticket_at = stages_at + stages * stage_bytes, shared = ticket_at + 128;
  static_assert(shared == budget.shared_bytes(), "ringattn: the budget is what the kernel takes");
};

/// The workspace: per panel (one query tile of one head) dQ as 16 x 8 accumulators, one float4 per lane, and what is
/// known of its rows. `turn`, one per panel and warp: 1 + the tile of keys that has added last in this step. A warp
/// has the same part of dQ in all blocks, so that it waits for, and is waited for by, its likes alone.
struct BackwardWorkspace {
  float4* dq;       // [panel][16 rows][8 columns][lane]
  RowFacts* facts;  // [panel][row]
  Word* turn;       // [panel][warp], and the ticket
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
};

/// Stores two neighbours of a row.
__device__ inline void store_2(RowsOf<float> const& tensor, float* row, int column, float x, float y) {
  if (tensor.chunks) {
    *reinterpret_cast<float2*>(row + column) = float2{x, y};
  } else {
    row[column * tensor.dim] = x;
    row[(column + 1) * tensor.dim] = y;
  }
}

template <class K, int arch>
RINGATTN_HIDDEN __global__ __launch_bounds__(BackwardSizes<K, arch>::threads,
                                             1) void attend_backward(__grid_constant__ BackwardParameters<K> const p) {
  using S = BackwardSizes<K, arch>;
  using Mma = typename S::Mma;
  constexpr int q = S::tile.q, kv = S::tile.kv, columns = S::columns;
  extern __shared__ __align__(128) unsigned char shared[];
  Word const base = ptx::shared_address(shared);
  typename S::Keys const keys{base};
  typename S::Values const values{base + S::values_at};
  typename S::Scores const ds_tile{base + S::ds_at};                           // dS^T, [key, query]
  typename S::Scores const p_tile{base + (columns > 1 ? S::p_at : S::ds_at)};  // P^T
  auto const stage = [&](int slot) { return base + Word(S::stages_at + slot * S::stage_bytes); };
  auto const queries = [&](int slot) { return typename S::Queries{stage(slot)}; };
  auto const douts = [&](int slot) { return typename S::Douts{stage(slot) + S::Queries::bytes}; };
  auto const facts = [&](int slot) { return stage(slot) + Word(S::Queries::bytes + S::Douts::bytes); };

  // Tiles of keys in order, the heads side by side: under a causal mask the longest first.
  if (threadIdx.x == 0) ptx::store_word(base + S::ticket_at, atomicAdd(p.ticket, 1u));
  __syncthreads();
  int64_t const ticket = ptx::load_word(base + S::ticket_at), pair = ticket % (p.batch * p.kv_heads);
  int64_t const tile = ticket / (p.batch * p.kv_heads), b = pair / p.kv_heads, kv_head = pair % p.kv_heads;
  RowTile const mine = p.k_runs.tile(tile);
  int64_t const group = p.heads / p.kv_heads;

  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int const warp_row = warp % S::rows, warp_column = warp / S::rows, first_key = 16 * warp_row;
  int const first_query = warp_column * 8 * S::n;
  bool const scores = warp_column < S::query_columns;

  QueryTiles const tiles(p.q_runs, p.mask, mine.rows, kv_head * group, group);
  QueryTile here = tiles.first(), ahead = here;
  auto const panel_of = [&](QueryTile const& at) { return (b * p.heads + at.head) * p.q_runs.tiles() + at.index; };
  auto const fetch = [&](int slot) {
    if (!tiles.done(ahead)) {
      queries(slot).fill(p.q, p.q.at(b, ahead.local(), ahead.head), ahead.count());
      douts(slot).fill(p.dout, p.dout.at(b, ahead.local(), ahead.head), ahead.count());
      if (int const i = int(threadIdx.x) * 16; i < S::facts_bytes)
        ptx::copy_16(facts(slot) + Word(i), reinterpret_cast<char const*>(p.work.facts + panel_of(ahead) * q) + i,
                     true);
    }
    ptx::commit_copies();
  };

  float dk[1][S::dk][4] = {}, dv[1][S::dv][4] = {};
  bool special_keys = false;
  if (!tiles.done(here)) {
    keys.fill(p.k, p.k.at(b, mine.local, kv_head), int(mine.rows.count));
    values.fill(p.v, p.v.at(b, mine.local, kv_head), int(mine.rows.count));
    fetch(0);
    ptx::wait_copies<0>();
    special_keys = keys.special();
  }

  for (int slot = 0; !tiles.done(here); slot = (slot + 1) % S::stages) {
    ptx::wait_copies<0>();
    bool const all = !here.partial && mine.rows.count == kv;
    // A pair that does not count must not, not even as 0 * inf. Split products take finite factors only.
    bool const special = (Mma::split || !all) && (special_keys || queries(slot).special() || douts(slot).special());
    bool careful = __syncthreads_or(special);  // queries and dO are here, and nobody reads dS any more
    if constexpr (S::stages == 2) {
      tiles.next(ahead);
      fetch((slot + 1) % 2);
    }

    Pairs<typename K::Mask> const pairs{p.mask, here.rows(), mine.rows};
    float s[1][S::n][4], ds[1][S::n][4];  // [key, query]
    if (scores) {
      typename S::Queries const my_queries{queries(slot).address + Word(first_query * S::Queries::pitch)};
      typename S::Douts const my_douts{douts(slot).address + Word(first_query * S::Douts::pitch)};
      multiply_scores<K::head_dim>(s, RowsAsA(keys, first_key), RowsAsB(my_queries));
      multiply_scores<K::value_dim>(ds, RowsAsA(values, first_key), RowsAsB(my_douts));
      weigh_gradients(s, ds, facts(slot), all, pairs, first_key, first_query, p.score, p.scale, here.head);
    }

    auto const add_seen = [&](auto& sum, auto const& left, auto const& right) {
      add_each(sum, [&](int row, int j, int column) {
        int const key = first_key + row;
        return sum_of_seen(
            q, [&](int i) { return pairs.count(i, key); }, [&](int i) { return left.element(key, i); },
            [&](int i) { return right.element(i, ((j / 2 * columns + warp_column) * 2 + j % 2) * 8 + column); });
      });
    };
    if constexpr (columns == 1) {
      // The warp's own keys, so that nobody else is needed.
      if (careful) {
        store_sums(p_tile, first_key, 0, s);
        __syncwarp();
        add_seen(dv, p_tile, douts(slot));
        __syncwarp();
      } else {
        multiply<q>(dv, sums_as_a<Mma>(s), ColumnsAsB(douts(slot)));  // [key, value]
      }
      store_sums(ds_tile, first_key, 0, ds);
      if (Mma::split) careful = careful || any_special(ds);
      if (careful) {
        __syncwarp();
        add_seen(dk, ds_tile, queries(slot));
      } else {
        multiply<q>(dk, sums_as_a<Mma>(ds), ColumnsAsB(queries(slot)));  // [key, head_dim]
      }
      careful = __syncthreads_or(careful);  // dS is here, and nobody reads these queries and dO any more
    } else {
      if (scores) {
        store_sums(p_tile, first_key, first_query, s);
        store_sums(ds_tile, first_key, first_query, ds);
        if (Mma::split) careful = careful || any_special(ds);
      }
      careful = __syncthreads_or(careful);  // P and dS are here
      if (careful) {
        add_seen(dv, p_tile, douts(slot));
        add_seen(dk, ds_tile, queries(slot));
      } else {
        multiply<q>(dv, PairsAsA(p_tile, first_key),
                    EveryColumnsAsB<columns, typename S::Douts>(douts(slot), warp_column));
        multiply<q>(dk, PairsAsA(ds_tile, first_key),
                    EveryColumnsAsB<columns, typename S::Queries>(queries(slot), warp_column));
      }
      if (S::stages == 1) __syncthreads();  // nobody reads these queries and dO any more
    }
    if constexpr (S::stages == 1) {
      tiles.next(ahead);
      fetch(0);
    }

    int const image = warp / S::dq_columns * S::dq_rows, dq_column = warp % S::dq_columns;
    Word* const turn = p.work.turn + panel_of(here) * S::tile.warps + warp;
#pragma unroll
    for (int part = 0; part < S::dq_steps; ++part) {
      float dq[S::dq_rows][S::dq][4] = {};  // [query, head_dim]
      auto const tile_of_column = [&](int j) {
        return ((part * S::dq + j) / 2 * S::dq_columns + dq_column) * 2 + j % 2;
      };
      if (careful)
        add_each(dq, [&](int row, int j, int column) {
          int const query = 16 * image + row;
          return sum_of_seen(
              kv, [&](int i) { return pairs.count(query, i); }, [&](int i) { return ds_tile.element(i, query); },
              [&](int i) { return keys.element(i, tile_of_column(j) * 8 + column); });
        });
      else
        multiply<kv>(dq, ColumnsAsA(ds_tile, 16 * image),
                     EveryColumnsAsB<S::dq_columns, typename S::Keys>(keys, dq_column, part * S::dq));
      if (part == 0) {
        Word const before = Word(1 + tile_before(p.k_runs, p.mask, here.rows(), tile));
        if (lane == 0)
          while (ptx::load_acquire(turn) != before) {
          }
        __syncwarp();
      }
#pragma unroll
      for (int i = 0; i < S::dq_rows; ++i)
#pragma unroll
        for (int j = 0; j < S::dq; ++j) {
          float4* const at = p.work.dq +
                             ((panel_of(here) * S::images + image + i) * (K::head_dim / 8) + tile_of_column(j)) * 32 +
                             lane;
          float4 x = __ldcg(at);
          x.x += dq[i][j][0], x.y += dq[i][j][1], x.z += dq[i][j][2], x.w += dq[i][j][3];
          __stcg(at, x);
        }
    }
    __syncwarp();
    if (lane == 0) ptx::store_release(turn, Word(tile + 1));
    here = ahead;
  }

  int const g = lane / 4, t = lane % 4;
  auto const write = [&](RowsOf<float> const& to, auto const& sum, float factor) {
    constexpr int n = int(std::extent_v<std::remove_cvref_t<decltype(sum)>, 1>);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const row = first_key + half * 8 + g;
      if (row >= mine.rows.count) continue;
      float* const at = to.at(b, mine.local + row, kv_head);
#pragma unroll
      for (int j = 0; j < n; ++j)
        store_2(to, at, ((j / 2 * columns + warp_column) * 2 + j % 2) * 8 + 2 * t, sum[0][j][2 * half] * factor,
                sum[0][j][2 * half + 1] * factor);
    }
  };
  write(p.dk, dk, p.scale);
  write(p.dv, dv, 1);
}

template <class K> struct FactsParameters {
  RowsOf<typename K::Element const> out, dout;
  RowsOf<float const> lse;
  RunTable q_runs;
  BackwardWorkspace work;
  int64_t heads, rows;  ///< rows: of all panels
};

/// What is known of each row: a warp per row.
template <class K, int arch> RINGATTN_HIDDEN __global__ void find_facts(__grid_constant__ FactsParameters<K> const p) {
  constexpr int q = BackwardSizes<K, arch>::tile.q;
  int64_t const index = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32, panel = index / q;
  if (index >= p.rows) return;
  int const lane = int(threadIdx.x) % 32, row = int(index % q);
  int64_t const tiles = p.q_runs.tiles(), head = panel / tiles % p.heads, b = panel / tiles / p.heads;
  RowTile const tile = p.q_runs.tile(panel % tiles);
  // Rows past the end, and rows that see no key, have no weight: 2^(s - inf).
  RowFacts facts{-softmax::minus_infinity<float>, 0};
  if (row < tile.rows.count) {
    auto const* const o = p.out.at(b, tile.local + row, head);
    auto const* const dout = p.dout.at(b, tile.local + row, head);
    float sum = 0;
    for (int d = lane; d < K::value_dim; d += 32)
      sum = __fmaf_rn(float(o[d * p.out.dim]), float(dout[d * p.dout.dim]), sum);
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    facts.delta = sum;
    float const lse = *p.lse.at(b, tile.local + row, head);
    if (lse != softmax::minus_infinity<float>) facts.lse = lse * float(softmax::log2_e);
  }
  if (lane == 0) p.work.facts[index] = facts;
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
    float4 const* const from = p.work.dq + ((panel * images + image) * columns + column) * 32 + 4 * g;
    float4 const x[4] = {from[0], from[1], from[2], from[3]};
    for (int half = 0; half < 2; ++half) {
      int const row = image * 16 + half * 8 + g;
      if (row >= mine.rows.count) continue;
      float y[8];
      for (int t = 0; t < 4; ++t) {
        y[2 * t] = (half ? x[t].z : x[t].x) * p.scale;
        y[2 * t + 1] = (half ? x[t].w : x[t].y) * p.scale;
      }
      store_8(p.dq, p.dq.at(b, mine.local + row, head), column, y);
    }
  }
}

/// How a step's work is laid out, and how kernels are launched.
template <class K> struct Backward {
  using Step = BackwardStep<K, DeviceSpace>;
  static_assert(
      requires { sizeof(Mma<typename K::Precision>); },
      "ringattn: Cuda<sm80> computes attention in Fp32, Tf32, Bf16 and Fp16; take one of them as Policy::Precision");
  static_assert(K::head_dim % 32 == 0 && K::value_dim % 32 == 0,
                "ringattn: Cuda<sm80> computes attention for head_dim and value_dim in multiples of 32");

  /// Bytes of state for a plan on any card.
  static size_t bytes(AttendShape const& shape) {
    auto const of = [&]<int arch>(std::integral_constant<int, arch>) {
      int64_t const tiles = RunTable(shape.q_rows, backward_tile_of<K, arch>.q, nullptr).tiles();
      return Layout<arch>(shape.batch * shape.heads * tiles, int64_t(shape.q_rows.size()), shape.kv_runs).bytes;
    };
    return std::max(of(std::integral_constant<int, 80>{}), of(std::integral_constant<int, 86>{}));
  }

  /// Clears dQ and computes what is known of the rows.
  static void begin(Step const& step, Launch const& where) {
    with_arch(where, [&]<int arch>(std::integral_constant<int, arch>) {
      Plan<arch> const plan(step);
      if (plan.panels == 0) return;
      plan.q_runs.write(step.q_rows, where);
      check(cudaMemsetAsync(plan.work.dq, 0, plan.layout.facts - plan.layout.dq, where.stream), "begin gradients");
      int64_t const rows = plan.panels * BackwardSizes<K, arch>::tile.q;
      FactsParameters<K> const p{
          RowsOf(step.out), RowsOf(step.dout), RowsOf(step.lse), plan.q_runs, plan.work, step.q.extents.heads, rows};
      launch("begin gradients", find_facts<K, arch>, blocks((rows + 7) / 8), 256, 0, where, p);
    });
  }

  static void step(Step const& step, Launch const& where) {
    with_arch(where, [&]<int arch>(std::integral_constant<int, arch>) {
      using S = BackwardSizes<K, arch>;
      Plan<arch> const plan(step);
      RunTable const k_runs(step.k_rows, S::tile.kv, step.state + plan.layout.k_runs);
      Extents const q = step.q.extents, k = step.k.extents;
      int64_t const work = k_runs.tiles() * k.batch * k.heads;
      if (work == 0) return;
      k_runs.write(step.k_rows, where);
      check(cudaMemsetAsync(plan.work.turn, 0, plan.layout.k_runs - plan.layout.turn, where.stream), "gradients");
      BackwardParameters<K> const p{RowsOf(step.q),  RowsOf(step.k),  RowsOf(step.v), RowsOf(step.dout),
                                    RowsOf(step.dk), RowsOf(step.dv), plan.q_runs,    k_runs,
                                    plan.work,       plan.ticket(),   step.mask,      step.score,
                                    step.scale,      q.heads,         k.heads,        k.batch};
      launch("gradients", attend_backward<K, arch>, blocks(work), S::threads, S::shared, where, p);
    });
  }

  static void finish(Step const& step, View<typename K::Element, DeviceSpace> const& dq, Launch const& where) {
    with_arch(where, [&]<int arch>(std::integral_constant<int, arch>) {
      Plan<arch> const plan(step);
      WriteParameters<K> const p{RowsOf(dq), plan.q_runs, plan.work, step.scale, step.q.extents.heads};
      launch("finish gradients", write_dq<K, arch>, blocks(plan.panels), 256, 0, where, p);
    });
  }

 private:
  /// Offsets in the state.
  template <int arch> struct Layout {
    size_t q_runs = 0, dq, facts, turn, k_runs, bytes;

    Layout(int64_t panels, int64_t q_run_count, int64_t k_run_count) {
      using S = BackwardSizes<K, arch>;
      dq = RunTable::bytes(q_run_count);
      facts = dq + size_t(panels * S::images * (K::head_dim / 8) * 32) * sizeof(float4);
      turn = facts + size_t(panels * S::tile.q) * sizeof(RowFacts);
      k_runs = turn + (size_t(panels * S::tile.warps + 1) * sizeof(Word) + 255) / 256 * 256;
      bytes = k_runs + RunTable::bytes(k_run_count);
    }
  };

  /// What the kernels of one call share.
  template <int arch> struct Plan {
    RunTable q_runs;
    int64_t panels;
    Layout<arch> layout;
    BackwardWorkspace work;

    explicit Plan(Step const& step)
        : q_runs(step.q_rows, backward_tile_of<K, arch>.q, step.state),
          panels(step.q.extents.batch * step.q.extents.heads * q_runs.tiles()),
          layout(panels, int64_t(step.q_rows.size()), int64_t(step.k_rows.size())),
          work{reinterpret_cast<float4*>(step.state + layout.dq),
               reinterpret_cast<RowFacts*>(step.state + layout.facts),
               reinterpret_cast<Word*>(step.state + layout.turn)} {}
    Word* ticket() const { return work.turn + panels * BackwardSizes<K, arch>::tile.warps; }
  };

  /// f(arch) for the tiles that the card has the shared memory for.
  template <class F> static void with_arch(Launch const& where, F f) {
    if constexpr (backward_tile_of<K, 80> == backward_tile_of<K, 86>)
      f(std::integral_constant<int, 80>{});
    else if (size_t(BackwardSizes<K, 80>::shared) <= where.shared_limit)
      f(std::integral_constant<int, 80>{});
    else
      f(std::integral_constant<int, 86>{});
  }

  static dim3 blocks(int64_t count) {
    if (count > INT_MAX)
      throw Error(ErrorCode::invalid_argument, -1, "batch * heads * rows", "less than 2^31 blocks of a kernel",
                  std::to_string(count));
    return dim3(unsigned(count));
  }
};

}  // namespace ringattn::cuda::sm80
