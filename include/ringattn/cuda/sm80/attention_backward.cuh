// SPDX-License-Identifier: Apache-2.0
// Backward attention for sm_80 and up, one kernel per step: dK and dV stay in registers, dQ is added to in memory.
//
// A block has one tile of keys and values of one head and walks the tiles of queries that see it, with all heads of its
// group (Dao 2023, algorithm 2): P and dS are computed once and used for all three gradients. Sums of dQ lie in the
// workspace in fp32, as the registers hold them. Tiles of keys add to them in local order: each waits until the one
// before it is through with these queries. That makes the result the same at every run, and for every division of the
// keys into steps. Nobody waits for a block that has not started, since blocks take their tiles by tickets. With
// Adding::atomic, which has to be asked for, nobody waits at all, and the last bits of dQ are chance.
#pragma once

#include <algorithm>
#include <type_traits>

#include "backward_state.cuh"
#include "dispatch.hpp"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS::sm80 {

template <class K, int arch, Adding adding = Adding::in_turn>
RINGATTN_HIDDEN __global__ __launch_bounds__(BackwardSizes<K, arch>::threads,
                                             1) void attend_backward(__grid_constant__ BackwardParameters<K> const p) {
  using S = BackwardSizes<K, arch>;
  using Mma = typename S::Mma;
  constexpr int q = S::tile.q, kv = S::tile.kv, columns = S::columns, m = S::m;
  extern __shared__ __align__(128) unsigned char shared[];
  Word const base = ptx::shared_address(shared);
  typename S::Keys const keys{base};
  typename S::Values const values{base + S::values_at};
  typename S::Scores const ds_tile{base + S::ds_at};                           // dS^T, [key, query]
  typename S::Scores const p_tile{base + (columns > 1 ? S::p_at : S::ds_at)};  // P^T
  auto const stage = [&](unsigned turn) { return base + Word(S::stages_at + turn % S::stages * S::stage_bytes); };
  auto& block = *reinterpret_cast<typename S::Block*>(shared + S::block_at);
  auto const warp = [] { return ptx::thread() / 32; };
  auto const first_key = [] { return ptx::thread() / 32 % S::rows * (16 * m); };  // of this warp
  auto const warp_column = [] { return ptx::thread() / 32 / S::rows; };

  // Tiles of keys in order, the heads side by side: under a causal mask the longest first.
  if (threadIdx.x == 0) {
    int64_t const ticket = adding == Adding::in_turn ? atomicAdd(p.ticket, 1u) : blockIdx.x;
    int64_t const heads = p.batch * p.kv_heads;
    block.q_runs = &p.q_runs;
    block.k_runs = &p.k_runs;
    block.tile = ticket / heads;
    block.k = p.k_runs.tile(block.tile);
    if (block.tile > 0) block.earlier = p.k_runs.tile(block.tile - 1).rows;
    block.b = ticket % heads / p.kv_heads;
    block.kv_head = ticket % p.kv_heads;
    block.end = (block.kv_head + 1) * (p.heads / p.kv_heads);
  }
  __syncthreads();
  auto const find = [&](QueryTile& next, QueryTile const* last) {
    if (warp() == 0)
      next.find(*block.q_runs, *block.k_runs, p.mask, block.tile, block.k.rows, block.earlier,
                block.end - p.heads / p.kv_heads, block.end, last);
  };
  find(block.met[0], nullptr);
  __syncthreads();
  find(block.met[1], &block.met[0]);
  auto const met = [&](unsigned turn) -> QueryTile& { return block.met[turn % 4]; };
  auto const fetch = [&](unsigned turn) {
    QueryTile const& at = met(turn);
    if (at.head < block.end) {
      typename S::Queries{stage(turn)}.fill(p.q, p.q.at(block.b, at.queries.local, at.head),
                                            int(at.queries.rows.count));
      typename S::Douts{stage(turn) + S::douts_at}.fill(p.dout, p.dout.at(block.b, at.queries.local, at.head),
                                                        int(at.queries.rows.count));
#pragma unroll
      for (int first = 0; first < S::facts_bytes; first += 16 * S::threads)
        if (int const i = first + ptx::thread() * 16; i < S::facts_bytes)
          ptx::copy_16(stage(turn) + Word(S::facts_at + i),
                       reinterpret_cast<char const*>(p.work.facts + p.panel(block.b, at) * q) + i, true);
    }
    ptx::commit_copies();
  };

  // Whose turn it is to add to these queries, in this warp's part of dQ: 1 + the tile of keys that has added last.
  auto const turn_of = [&](QueryTile const& at) { return p.work.turn + p.panel(block.b, at) * S::tile.warps + warp(); };

  float dk[m][S::dk][4] = {}, dv[m][S::dv][4] = {};
  // Tells the next tile of keys that this warp has added to these queries.
  auto const pass_on = [&](QueryTile const& at) {
    __syncwarp();
    if (ptx::lane() == 0) ptx::store_release(turn_of(at), Word(block.tile + 1));
  };
  if (block.met[0].head < block.end) {
    keys.fill(p.k, p.k.at(block.b, block.k.local, block.kv_head), int(block.k.rows.count));
    values.fill(p.v, p.v.at(block.b, block.k.local, block.kv_head), int(block.k.rows.count));
    fetch(0);
    ptx::wait_copies<0>();
    bool const special = __syncthreads_or(keys.special());
    bool const special_values = Mma::split && __syncthreads_or(values.special());
    if (threadIdx.x == 0) {
      block.special_keys = special;
      if (Mma::split) block.special_values = special_values;
    }
  }

  // From shared memory, since sums of dQ need all registers: from the second barrier of a turn to the first of the
  // next.
  auto const this_turn = [&] { return ptx::load_word(ptx::shared_address(&block.turn)); };
  auto const now = [&]() -> QueryTile const& { return met(this_turn()); };

  unsigned turn = 0;
  for (; met(turn).head < block.end; turn = this_turn() + 1) {
    QueryTile const& here = met(turn);
    typename S::Queries const queries{stage(turn)};
    typename S::Douts const douts{stage(turn) + S::douts_at};
    ptx::wait_copies<0>();
    // A pair that does not count must not, not even as 0 * inf. Split products take finite factors only.
    bool careful = (Mma::split || here.partial) && (queries.special() || douts.special());
    // Queries and dO are here, and nobody reads dS or the tile of the last turn any more.
    careful = __syncthreads_or(careful) || ((Mma::split || here.partial) && block.special_keys);
    find(met(turn + 2), &met(turn + 1));
    if (threadIdx.x == 0) block.turn = turn;
    if (S::stages == 2) fetch(turn + 1);

    Pairs<typename K::Mask> const pairs{p.mask, here.queries.rows, block.k.rows};
#pragma unroll 1
    for (int pass = 0; pass < S::passes; ++pass) {
      if (S::query_columns < columns && warp_column() >= S::query_columns) break;
      constexpr int depth = 8 * S::n;
      int const first = (warp_column() * S::passes + pass) * depth;  // query
      float s[m][S::n][4], ds[m][S::n][4];                           // [key, query]
      multiply_scores<K::head_dim>(s, RowsAsA(keys, first_key()), RowsAsB(from_row(queries, first)), !careful);
      multiply_scores<K::value_dim>(ds, RowsAsA(values, first_key()), RowsAsB(from_row(douts, first)),
                                    !careful && !(Mma::split && block.special_values));
      weigh_gradients(s, ds, stage(turn) + S::facts_at, !here.partial, pairs, first_key(), first, p.score, p.scale,
                      here.head);
      if (columns > 1 || careful) store_sums(p_tile, first_key(), first, s);
      if constexpr (columns == 1) {
        // The only warp with these keys has their weights in registers. With care, P lies for a while where dS will.
        if (careful) {
          __syncwarp();
          add_products(dv, p_tile, first_key(), first, depth, douts, 0, pairs);
          __syncwarp();
        } else {
          multiply<depth>(dv, sums_as_a<Mma>(s), ColumnsAsB(from_row(douts, first)));  // [key, value]
        }
        bool const special = careful || (Mma::split && any_special(ds));
        careful = special;
        store_sums(ds_tile, first_key(), first, ds);
        if (special) {
          __syncwarp();
          add_products(dk, ds_tile, first_key(), first, depth, queries, 0, pairs);
        } else {
          multiply<depth, Mma::split>(dk, sums_as_a<Mma>(ds), ColumnsAsB(from_row(queries, first)));  // [key, head_dim]
        }
      } else {
        store_sums(ds_tile, first_key(), first, ds);
        if (Mma::split) careful = careful || any_special(ds);
      }
    }
    // P and dS are here. One row of warps: nobody reads these queries and dO any more.
    careful = __syncthreads_or(careful);
    if constexpr (columns > 1) {
      if (careful) {
        add_products<columns>(dv, p_tile, first_key(), 0, q, douts, warp_column(), pairs);
        add_products<columns>(dk, ds_tile, first_key(), 0, q, queries, warp_column(), pairs);
      } else {
        multiply<q, Mma::split>(dv, PairsAsA(p_tile, first_key()), every_columns_as_b<columns>(douts, warp_column()));
        multiply<q, Mma::split>(dk, PairsAsA(ds_tile, first_key()),
                                every_columns_as_b<columns>(queries, warp_column()));
      }
      if (S::stages == 1) __syncthreads();  // nobody reads these queries and dO any more
    }
    // What was added a turn ago has arrived by now, so that nobody waits for its way through the caches.
    if (adding == Adding::in_turn && this_turn() > 0) pass_on(met(this_turn() + 3));
    if (S::stages == 1) fetch(this_turn() + 1);

    auto const image = [] { return ptx::thread() / 32 / S::dq_columns * S::dq_rows; };
    auto const dq_column = [] { return ptx::thread() / 32 % S::dq_columns; };
#pragma unroll
    for (int part = 0; part < S::dq_steps; ++part) {
      float dq[S::dq_rows][S::dq][4] = {};  // [query, head_dim]
      if (careful)
        add_products_transposed<S::dq_columns>(dq, ds_tile, 16 * image(), keys, dq_column(), part * S::dq, pairs);
      else
        multiply<kv, Mma::split>(dq, ColumnsAsA(ds_tile, 16 * image()),
                                 every_columns_as_b<S::dq_columns>(keys, dq_column(), part * S::dq));
      if (adding == Adding::in_turn && part == 0) {
        if (ptx::lane() == 0)
          while (ptx::load_acquire(turn_of(now())) != Word(now().before + 1)) ptx::pause();
        __syncwarp();
      }
      SumsInMemory* const to = p.work.dq + (p.panel(block.b, now()) * S::images + image()) * (K::head_dim / 8);
#pragma unroll
      for (int i = 0; i < S::dq_rows; ++i)
#pragma unroll
        for (int j = 0; j < S::dq; ++j)
          to[i * (K::head_dim / 8) + every_column<S::dq_columns>(part * S::dq + j, dq_column())].add(ptx::lane(),
                                                                                                     dq[i][j]);
    }
  }
  if (adding == Adding::in_turn && turn > 0) pass_on(met(turn + 3));

  auto const write = [&](RowsOf<float> const& to, auto const& sum, float factor) {
    constexpr int n = int(std::extent_v<std::remove_cvref_t<decltype(sum)>, 1>);
#pragma unroll
    for (int i = 0; i < 2 * m; ++i) {
      int const row = first_key() + i * 8 + ptx::lane() / 4, half = i % 2;
      if (row >= block.k.rows.count) continue;
      float* const at = to.at(block.b, block.k.local + row, block.kv_head);
#pragma unroll
      for (int j = 0; j < n; ++j)
        store_2(to, at, every_column<columns>(j, warp_column()) * 8 + ptx::lane() % 4 * 2,
                sum[i / 2][j][2 * half] * factor, sum[i / 2][j][2 * half + 1] * factor);
    }
  };
  write(p.dk, dk, p.scale);
  write(p.dv, dv, 1);
}

/// How a step's work is laid out, and how kernels are launched.
template <class K, Adding adding = Adding::in_turn> struct Backward {
  using Step = BackwardStep<K, DeviceSpace>;
  static_assert(
      requires { sizeof(Mma<typename K::Precision>); },
      "ringattn: Cuda<sm80> computes attention in Fp32, Tf32, Bf16 and Fp16; take one of them as Policy::Precision");
  static_assert(K::head_dim % 32 == 0 && K::value_dim % 32 == 0,
                "ringattn: Cuda<sm80> computes attention for head_dim and value_dim in multiples of 32");

  /// What fits on a card.
  static Tile tile(Launch const& where) {
    return with_arch<BackwardSizes, K>(
        "Tiles of the backward pass", where,
        []<int arch>(std::integral_constant<int, arch>) { return backward_tile_of<K, arch>; });
  }
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
    with_arch<BackwardSizes, K>("Tiles of the backward pass", where, [&]<int arch>(std::integral_constant<int, arch>) {
      Plan<arch> const plan(step);
      if (plan.panels == 0) return;
      plan.q_runs.write(step.q_rows, where);
      check(cudaMemsetAsync(plan.work.dq, 0, plan.layout.facts - plan.layout.dq, where.stream), "begin gradients");
      int64_t const rows = plan.panels * BackwardSizes<K, arch>::tile.q;
      FactsParameters<K> const p{
          RowsOf(step.out), RowsOf(step.dout), RowsOf(step.lse), plan.q_runs, plan.work, step.q.extents.heads, rows};
      constexpr int rows_per_block = 256 / lanes_per_row<K>;
      launch("begin gradients", find_facts<K, arch>, blocks((rows + rows_per_block - 1) / rows_per_block), 256, 0,
             where, p);
    });
  }

  static void step(Step const& step, Launch const& where) {
    with_arch<BackwardSizes, K>("Tiles of the backward pass", where, [&]<int arch>(std::integral_constant<int, arch>) {
      using S = BackwardSizes<K, arch>;
      Plan<arch> const plan(step);
      RunTable const k_runs(step.k_rows, S::tile.kv, step.state + plan.layout.k_runs);
      Extents const q = step.q.extents, k = step.k.extents;
      int64_t const work = k_runs.tiles() * k.batch * k.heads;
      if (work == 0) return;
      k_runs.write(step.k_rows, where);
      if (adding == Adding::in_turn)
        check(cudaMemsetAsync(plan.work.turn, 0, plan.layout.k_runs - plan.layout.turn, where.stream), "gradients");
      BackwardParameters<K> const p{RowsOf(step.q),  RowsOf(step.k),  RowsOf(step.v), RowsOf(step.dout),
                                    RowsOf(step.dk), RowsOf(step.dv), plan.q_runs,    k_runs,
                                    plan.work,       plan.ticket(),   step.mask,      step.score,
                                    step.scale,      q.heads,         k.heads,        k.batch};
      launch("gradients", attend_backward<K, arch, adding>, blocks(work), S::threads, S::shared, where, p);
    });
  }

  static void finish(Step const& step, View<typename K::Element, DeviceSpace> const& dq, Launch const& where) {
    with_arch<BackwardSizes, K>("Tiles of the backward pass", where, [&]<int arch>(std::integral_constant<int, arch>) {
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
      facts = dq + size_t(panels * S::images * (K::head_dim / 8)) * sizeof(SumsInMemory);
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
          work{reinterpret_cast<SumsInMemory*>(step.state + layout.dq),
               reinterpret_cast<RowFacts*>(step.state + layout.facts),
               reinterpret_cast<Word*>(step.state + layout.turn)} {}
    Word* ticket() const { return work.turn + panels * BackwardSizes<K, arch>::tile.warps; }
  };
};

}  // namespace ringattn::cuda::sm80
