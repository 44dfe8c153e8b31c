// SPDX-License-Identifier: Apache-2.0
// Forward attention for sm_80 and up, resumable: mma.sync on fragments in registers, keys and values by cp.async.
//
// A block has one tile of queries of one head and walks the key tiles that it sees. While scores are computed its
// values arrive, while values are summed the next keys arrive (Dao 2023). Between steps the running outputs lie in the
// workspace as the registers hold them, in fp32: a step goes on as if it had never stopped.
#pragma once

#include <algorithm>
#include <type_traits>

#include "dispatch.hpp"
#include "forward_state.cuh"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS::sm80 {

/// What a kernel is told.
template <class K> struct ForwardParameters {
  using E = typename K::Element;

  RowsOf<E const> q, k, v;
  RowsOf<E> out;
  RowsOf<float> lse;
  bool first, last;  ///< does the call begin with this step, and end?
  RunTable q_runs, k_runs;
  Workspace work;
  typename K::Mask mask;
  typename K::Score score;
  float scale;
  int64_t heads, group;  ///< query heads; of one key/value head
  int64_t together;      ///< heads that run side by side: what their keys and values take fits in the L2 cache

  /// Which head and query tile a block has. The heads of a section side by side, late tiles first: under a causal mask
  /// they have the most work.
  struct Place {
    int64_t b, head, tile, panel;
  };
  __device__ Place place(int64_t block) const {
    int64_t const tiles = q_runs.tiles(), entry = block / (heads * tiles), rest = block % (heads * tiles);
    int64_t const section = rest / (together * tiles), inside = rest % (together * tiles);
    int64_t const head = section * together + inside % together, tile = tiles - 1 - inside / together;
    return {entry, head, tile, (entry * heads + head) * tiles + tile};
  }
};

/// Normalises and writes a warp's rows.
template <class K, class S>
__device__ inline void write_rows(ForwardParameters<K> const& p, typename S::Block const& block,
                                  RowState<S::m> const& state, float const (&o)[S::m][S::d][4]) {
#pragma unroll
  for (int i = 0; i < 2 * S::m; ++i) {
    float sum = state.sum[i];
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    int const row = ptx::thread() / 32 * S::warp_rows + i * 8 + ptx::lane() / 4;
    if (row >= block.q.count) continue;
    RowEnd const end(state.max[i], sum);
    typename K::Element* const to = p.out.at(block.b, block.local + row, block.head);
#pragma unroll
    for (int j = 0; j < S::d; ++j)
      store_2(p.out, to, 8 * j + ptx::lane() % 4 * 2, o[i / 2][j][i % 2 * 2] * end.factor,
              o[i / 2][j][i % 2 * 2 + 1] * end.factor);
    if (ptx::lane() % 4 == 0 && p.lse.data) *p.lse.at(block.b, block.local + row, block.head) = end.lse;
  }
}

template <class K, int arch>
RINGATTN_HIDDEN __global__
__launch_bounds__(Sizes<K, arch>::threads) void attend(__grid_constant__ ForwardParameters<K> const p) {
  using S = Sizes<K, arch>;
  constexpr int m = S::m, n = S::n, d = S::d, stages = S::stages;
  extern __shared__ __align__(128) unsigned char shared[];
  typename S::Queries const queries{ptx::shared_address(shared)};
  auto const keys = [&](int slot) {
    return typename S::Keys{queries.address + Word(S::Queries::bytes + slot * S::Keys::bytes)};
  };
  auto const values = [&](int slot) {
    return typename S::Values{queries.address +
                              Word(S::Queries::bytes + stages * S::Keys::bytes + slot * S::Values::bytes)};
  };

  auto& block = *reinterpret_cast<typename S::Block*>(shared + S::tiles);
  auto const warp = [] { return ptx::thread() / 32; };
  {
    auto const place = p.place(blockIdx.x);
    RowTile const mine = p.q_runs.tile(place.tile);
    queries.fill(p.q, p.q.at(place.b, mine.local, place.head), int(mine.rows.count));
    if (threadIdx.x == 0) {
      block.q = mine.rows;
      block.b = place.b;
      block.local = mine.local;
      block.head = place.head;
      block.panel = place.panel;
      block.k = p.k.at(place.b, 0, place.head / p.group);
      block.v = p.v.at(place.b, 0, place.head / p.group);
    }
    if (warp() == 0) {
      for (int i = 0; i < stages; ++i) {
        block.tiles[i].find(p.k_runs, p.mask, mine.rows, i == 0 ? nullptr : &block.tiles[i - 1]);
        __syncwarp();
      }
    }
  }
  __syncthreads();

  // Slots of the tile buffers and of block.tiles go round.
  auto const fetch_keys = [&](int turn) {
    KeyTile const& tile = block.tiles[turn % (stages + 1)];
    if (!tile.done()) keys(turn % stages).fill(p.k, block.k + tile.local * p.k.row, tile.count());
    ptx::commit_copies();
  };
  auto const fetch_values = [&](int turn) {
    KeyTile const& tile = block.tiles[turn % (stages + 1)];
    if (!tile.done()) values(turn % stages).fill(p.v, block.v + tile.local * p.v.row, tile.count());
    ptx::commit_copies();
  };
  constexpr int under_way = 2 * stages - 2;  // of the keys, values, keys, ... that are ordered ahead

  fetch_keys(0);
#pragma unroll
  for (int turn = 1; turn < stages; ++turn) {
    fetch_values(turn - 1);
    fetch_keys(turn);
  }
  if (block.tiles[0].done() && !p.first && !p.last) return;
  // A negative scale moves to the queries: weigh takes the largest product for the largest score.
  float const unit = K::Score::identity ? fabsf(p.scale) * float(softmax::log2_e) : 1.f;
  if (K::Score::identity && p.scale < 0) {
    ptx::wait_copies<under_way>();
    queries.transform([](Word x) { return S::Mma::negative(x); });
  }

  RowState<m> state;
  float o[m][d][4];
#pragma unroll
  for (int i = 0; i < m; ++i) {
    float const none = softmax::minus_infinity<float>;
    float4 const rows =
        p.first ? float4{none, none, 0, 0} : p.work.template state<S>(block.panel, warp() * m)[i * 32 + ptx::lane()];
    state.max[2 * i] = rows.x, state.max[2 * i + 1] = rows.y, state.sum[2 * i] = rows.z, state.sum[2 * i + 1] = rows.w;
    bool const fresh = rows.x == softmax::minus_infinity<float> && rows.y == softmax::minus_infinity<float>;
#pragma unroll
    for (int j = 0; j < d; ++j) {
      float4 const x = fresh ? float4{0, 0, 0, 0}
                             : p.work.template outputs<S>(block.panel, warp() * m)[(i * d + j) * 32 + ptx::lane()];
      o[i][j][0] = x.x, o[i][j][1] = x.y, o[i][j][2] = x.z, o[i][j][3] = x.w;
    }
  }

  bool finite_queries = true;  // and the first keys
  for (int turn = 0; !block.tiles[turn % (stages + 1)].done(); ++turn) {
    KeyTile const& here = block.tiles[turn % (stages + 1)];
    typename S::Keys const k = keys(turn % stages);
    typename S::Values const v = values(turn % stages);
    ptx::wait_copies<under_way>();
    // Keys are here, and nobody reads the values and the tile of the last turn any more.
    bool finite = true;
    if constexpr (S::Mma::split) {
      finite = !__syncthreads_or(k.special() || (turn == 0 && queries.special())) && finite_queries;
      if (turn == 0) finite_queries = finite;
    } else {
      __syncthreads();
    }
    fetch_values(turn + stages - 1);
    if (warp() == 0)
      block.tiles[(turn + stages) % (stages + 1)].find(p.k_runs, p.mask, block.q,
                                                       &block.tiles[(turn + stages - 1) % (stages + 1)]);
    float s[m][n][4];  // [q, kv]
    multiply_scores<K::head_dim>(s, RowsAsA(queries, warp() * S::warp_rows), RowsAsB(k), finite);
    bool const masked = !K::Score::identity || here.partial;
    float least[2 * m];
#pragma unroll
    for (float& x : least) x = masked ? softmax::minus_infinity<float> : lowest;
    if (masked) mask_scores(s, least, p.mask, p.score, p.scale, block.head, block.q, warp() * S::warp_rows, here.rows);

    ptx::wait_copies<under_way>();
    // A masked pair must not count, not even as 0 * inf. Split products take finite factors only.
    bool const careful = (S::Mma::split || here.partial) && v.special();
    bool const special = __syncthreads_or(careful);  // values are here, and nobody reads these keys any more
    fetch_keys(turn + stages);
    weigh<typename S::Mma>(s, unit, least, state, o);
    if (special) {
      add_specials(o, v, p.mask, block.q, warp() * S::warp_rows, here.rows);
      __syncthreads();
      v.transform([](Word x) { return S::Mma::finite(x); });
      __syncthreads();
    }
    multiply<S::tile.kv>(o, packed_as_a<typename S::Mma>(s), ColumnsAsB(v));  // [q, value]
  }

  if (p.last) {
    write_rows<K, S>(p, block, state, o);
    return;
  }
#pragma unroll
  for (int i = 0; i < m; ++i) {
    p.work.template state<S>(block.panel, warp() * m)[i * 32 + ptx::lane()] =
        float4{state.max[2 * i], state.max[2 * i + 1], state.sum[2 * i], state.sum[2 * i + 1]};
#pragma unroll
    for (int j = 0; j < d; ++j)
      p.work.template outputs<S>(block.panel, warp() * m)[(i * d + j) * 32 + ptx::lane()] =
          float4{o[i][j][0], o[i][j][1], o[i][j][2], o[i][j][3]};
  }
}

/// How a step's work is laid out, and how kernels are launched.
template <class K> struct Forward {
  using Step = AttendStep<K, DeviceSpace>;
  using Result = AttendResult<K, DeviceSpace>;
  static_assert(
      requires { sizeof(Mma<typename K::Precision>); },
      "ringattn: Cuda<sm80> computes attention in Fp32, Tf32, Bf16 and Fp16; take one of them as Policy::Precision");
  static_assert(K::head_dim % 32 == 0 && K::value_dim % 32 == 0,
                "ringattn: Cuda<sm80> computes attention for head_dim and value_dim in multiples of 32");

  /// What fits on a card.
  static Tile tile(Launch const& where) {
    return with_arch<Sizes, K>("Tiles", where,
                               []<int arch>(std::integral_constant<int, arch>) { return tile_of<K, arch>; });
  }
  /// Bytes of state for a plan on any card.
  static size_t bytes(AttendShape const& shape) {
    auto const of = [&]<int arch>(std::integral_constant<int, arch>) {
      int64_t const tiles = RunTable(shape.q_rows, tile_of<K, arch>.q, nullptr).tiles();
      return Layout<arch>(shape.batch * shape.heads * tiles, int64_t(shape.q_rows.size()), shape.kv_runs).bytes;
    };
    return std::max(of(std::integral_constant<int, 80>{}), of(std::integral_constant<int, 86>{}));
  }

  static void begin(Step const& step, Launch const& where) {
    with_arch<Sizes, K>("Tiles", where, [&]<int arch>(std::integral_constant<int, arch>) {
      Plan<arch> const plan(step);
      plan.q_runs.write(step.q_rows, where);
      int64_t const count = plan.panels * Sizes<K, arch>::images * 32;
      launch("begin attention", clear<K, arch>, blocks((count + 255) / 256), 256, 0, where, plan.work, count);
    });
  }

  static void step(Step const& step, Launch const& where) { Forward::step(step, {}, where); }
  static void step(Step const& step, Part<K, DeviceSpace> const& part, Launch const& where) {
    with_arch<Sizes, K>("Tiles", where, [&]<int arch>(std::integral_constant<int, arch>) {
      using S = Sizes<K, arch>;
      Plan<arch> const plan(step);
      if (part.first) plan.q_runs.write(step.q_rows, where);
      RunTable const k_runs(step.k_rows, S::tile.kv, step.state + plan.layout.k_runs);
      if (k_runs.tiles() == 0) return;
      k_runs.write(step.k_rows, where);
      Extents const q = step.q.extents, k = step.k.extents;
      int64_t const group = q.heads / k.heads;
      int64_t together = q.heads;
      int64_t const of_head = k.seq * (K::head_dim + K::value_dim) * int64_t(sizeof(typename K::Element));
      while (together % 2 == 0 && together / group * of_head > keys_in_cache) together /= 2;
      RowsOf<typename K::Element> const out = part.last ? RowsOf(part.last->out) : RowsOf<typename K::Element>();
      RowsOf<float> const lse = part.last ? RowsOf(part.last->lse) : RowsOf<float>();
      ForwardParameters<K> const p{RowsOf(step.q), RowsOf(step.k),       RowsOf(step.v), out,     lse,
                                   part.first,     part.last != nullptr, plan.q_runs,    k_runs,  plan.work,
                                   step.mask,      step.score,           step.scale,     q.heads, group,
                                   together};
      launch("attention", attend<K, arch>, blocks(plan.panels), S::threads, S::shared, where, p);
    });
  }

  static void finish(Step const& step, Result const& result, Launch const& where) {
    with_arch<Sizes, K>("Tiles", where, [&]<int arch>(std::integral_constant<int, arch>) {
      Plan<arch> const plan(step);
      FinishParameters<K> const p{RowsOf(result.out), RowsOf(result.lse), plan.q_runs, plan.work, step.q.extents.heads};
      launch("finish attention", sm80::finish<K, arch>, blocks(plan.panels), 256, 0, where, p);
    });
  }

 private:
  /// Keys and values that heads which run side by side may have: less than the L2 cache of any card this size.
  static constexpr int64_t keys_in_cache = 16 << 20;

  /// Offsets in the state.
  template <int arch> struct Layout {
    size_t q_runs = 0, o, rows, k_runs, bytes;

    Layout(int64_t panels, int64_t q_run_count, int64_t k_run_count) {
      int64_t const lanes = panels * Sizes<K, arch>::images * 32;
      o = RunTable::bytes(q_run_count);
      rows = o + size_t(lanes * Sizes<K, arch>::d) * sizeof(float4);
      k_runs = rows + size_t(lanes) * sizeof(float4);
      bytes = k_runs + RunTable::bytes(k_run_count);
    }
  };

  /// What the kernels of one call share.
  template <int arch> struct Plan {
    RunTable q_runs;
    int64_t panels;
    Layout<arch> layout;
    Workspace work;

    explicit Plan(Step const& step)
        : q_runs(step.q_rows, tile_of<K, arch>.q, step.state),
          panels(step.q.extents.batch * step.q.extents.heads * q_runs.tiles()),
          layout(panels, int64_t(step.q_rows.size()), int64_t(step.k_rows.size())),
          work{reinterpret_cast<float4*>(step.state + layout.o), reinterpret_cast<float4*>(step.state + layout.rows)} {}
  };
};

}  // namespace ringattn::cuda::sm80
