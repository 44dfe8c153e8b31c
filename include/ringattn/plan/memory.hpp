// SPDX-License-Identifier: Apache-2.0
// Bytes per rank, before anything runs: of this pipeline, exactly, and of a layer by the paper's account.
#pragma once

#include "../ring/workspace.hpp"
#include "hardware.hpp"

namespace ringattn::inline RINGATTN_ABI::plan {

// ---------------------------------------------------------------- this pipeline

/// What a backend's kernels cannot do without: the running state (o, max, sum) of every query row in forward; dQ and
/// the row sums dO . O in backward. Real backends ask for more (packing, threads' scratch): give theirs for exact
/// figures.
template <class P> constexpr StateBytes least_state_bytes(Problem problem, int64_t q_rows) {
  Problem const p = problem.resolved();
  size_t const rows = size_t(p.batch * p.heads * q_rows), wide = sizeof(typename P::Precision::Accumulator);
  return {.forward = rows * size_t(value_dim_of<P> + 2) * wide, .backward = rows * size_t(P::head_dim + 1) * wide};
}

/// The rows of a rank, and of the largest key/value shard of the ring.
struct RankRows {
  int64_t q = 0, kv = 0, largest_kv = 0, largest_kv_runs = 1;
};

/// The part of a plan's options that decides bytes.
template <class P> struct MemoryOptions {
  typename P::Shard shard{};
  KvShardOf<P> kv_shard{};
  bool backward = true;
};

template <class P> constexpr RankRows rank_rows(Problem problem, Ring here, MemoryOptions<P> const& o = {}) {
  Problem const p = problem.resolved();
  RankRows rows{.q = count_rows(o.shard.rows(here, p.seq)), .kv = count_rows(o.kv_shard.rows(here, p.kv_seq))};
  for (int r = 0; r < here.size; ++r) {
    int64_t n = 0, runs = 0;
    for (Rows const& run : o.kv_shard.rows(Ring{r, here.size}, p.kv_seq)) n += run.count, ++runs;
    rows.largest_kv = n > rows.largest_kv ? n : rows.largest_kv;
    rows.largest_kv_runs = runs > rows.largest_kv_runs ? runs : rows.largest_kv_runs;
  }
  return rows;
}

/// RingAttention<P>::workspace_bytes() of a rank whose backend asks for `state`. The same function lays it out.
template <class P>
constexpr size_t workspace_bytes(Problem problem, Ring here, StateBytes state, MemoryOptions<P> const& o = {}) {
  RankRows const rows = rank_rows<P>(problem, here, o);
  return rotate_workspace<P>(problem, here.size, rows.largest_kv, rows.kv, state, o.backward).total;
}

namespace detail {

/// `ask(shape)` -> StateBytes with a rank's shape, as the engine fills it.
template <class P, class Ask>
constexpr StateBytes with_shape(Problem problem, Ring here, MemoryOptions<P> const& o, Ask ask) {
  Problem const p = problem.resolved();
  RankRows const rows = rank_rows<P>(p, here, o);
  std::vector<Rows> q_rows;
  for (Rows const& r : o.shard.rows(here, p.seq)) q_rows.push_back(r);
  return ask(AttendShape{.batch = p.batch,
                         .heads = p.heads,
                         .kv_heads = p.kv_heads,
                         .q_rows = q_rows,
                         .kv_count = rows.largest_kv,
                         .kv_runs = rows.largest_kv_runs});
}

}  // namespace detail

/// The bytes that an existing backend asks for on a rank, for `workspace_bytes`.
template <class P, class Backend>
StateBytes state_bytes(Backend& backend, Problem problem, Ring here, MemoryOptions<P> const& o = {}) {
  using K = KernelOf<P>;
  return detail::with_shape<P>(problem, here, o, [&](AttendShape const& shape) {
    StateBytes bytes{.forward = backend.template attend_bytes<K>(shape)};
    if constexpr (AttendsBackward<Backend, K>)
      if (o.backward) bytes.backward = backend.template attend_backward_bytes<K>(shape);
    return bytes;
  });
}

/// The bytes that P::Backend, if it can tell before it exists, as Cpu can, will ask for with so many threads. 0: the
/// least that any backend can do with.
template <class P, int threads = 0>
constexpr StateBytes state_bytes(Problem problem, Ring here, MemoryOptions<P> const& o = {}) {
  if constexpr (threads == 0) {
    StateBytes bytes = least_state_bytes<P>(problem, rank_rows<P>(problem, here, o).q);
    if (!o.backward) bytes.backward = 0;
    return bytes;
  } else {
    using K = KernelOf<P>;
    return detail::with_shape<P>(problem, here, o, [&](AttendShape const& shape) {
      using Backend = typename P::Backend;
      return StateBytes{Backend::template attend_bytes<K>(shape, threads),
                        o.backward ? Backend::template attend_backward_bytes<K>(shape, threads) : 0};
    });
  }
}

/// A rank's bytes for one attention: the caller's tensors and our workspace.
struct RankBytes {
  size_t tensors = 0;    ///< q, k, v, out, lse; with backward also their gradients
  size_t workspace = 0;  ///< blocks under way, gradient sums, the kernels' state

  constexpr size_t total() const { return tensors + workspace; }
};

template <class P> constexpr size_t tensor_bytes(Problem problem, Ring here, MemoryOptions<P> const& o = {}) {
  Problem const p = problem.resolved();
  RankRows const rows = rank_rows<P>(p, here, o);
  size_t const q_side = size_t(p.batch * rows.q * p.heads) * size_t(P::head_dim + value_dim_of<P>);
  size_t const kv_side = size_t(p.batch * rows.kv * p.kv_heads) * size_t(P::head_dim + value_dim_of<P>);
  size_t const elements = (q_side + kv_side) * (o.backward ? 2 : 1);
  size_t const lse = size_t(p.batch * rows.q * p.heads) * sizeof(typename P::Precision::Accumulator);
  return elements * sizeof(typename P::Precision::Element) + lse;
}

/// The bytes of the rank that needs most.
template <class P, int threads = 0>
constexpr RankBytes most_bytes(Problem problem, int ring_size, MemoryOptions<P> const& o = {}) {
  RankBytes most;
  for (int r = 0; r < ring_size; ++r) {
    Ring const here{r, ring_size};
    StateBytes const state = state_bytes<P, threads>(problem, here, o);
    RankBytes const bytes{tensor_bytes<P>(problem, here, o), workspace_bytes<P>(problem, here, state, o)};
    if (bytes.total() > most.total()) most = bytes;
  }
  return most;
}

/// Does one attention fit, on every rank? For a user's static_assert; to the byte for Cpu with two threads:
///   static_assert(ringattn::plan::fits<LongContext, 2>({.seq = 1 << 20, .heads = 32}, 64, 8e9));
template <class P, int threads = 0>
constexpr bool fits(Problem problem, int ring_size, double bytes_per_rank, MemoryOptions<P> const& o = {}) {
  return double(most_bytes<P, threads>(problem, ring_size, o).total()) <= bytes_per_rank;
}
template <class P, int threads = 0>
constexpr bool fits(Problem problem, int ring_size, Hardware const& hardware, MemoryOptions<P> const& o = {}) {
  return fits<P, threads>(problem, ring_size, hardware.memory_bytes, o);
}

// ---------------------------------------------------------------- the paper's account of a transformer layer

/// The columns of table 3 of Liu et al. 2023.
enum class Scheme {
  vanilla,           ///< scores in memory
  memory_efficient,  ///< attention block by block
  blockwise,         ///< ... and the feed-forward too
  ring               ///< ... and the sequence sharded over a ring
};

/// A transformer layer on one device.
struct Layer {
  double batch = 1, seq = 0, hidden = 0, heads = 0;
  double block = 0;          ///< rows of a block; under `ring` this device's share of the sequence
  double element_bytes = 2;  ///< bf16
};

/// The largest activations, bytes, that attention and feed-forward have at a time (table 1). The paper prints ring
/// attention's six blocks (query, two K|V here, two arriving, output) as 6bch, which counts elements; these are bytes.
struct Activations {
  double attention = 0, feed_forward = 0;

  constexpr double peak() const { return attention > feed_forward ? attention : feed_forward; }
};

constexpr Activations activations(Scheme scheme, Layer const& l) {
  double const whole = l.element_bytes * l.batch * l.seq * l.hidden;
  double const block = l.element_bytes * l.batch * l.block * l.hidden;
  switch (scheme) {
    case Scheme::vanilla:
      return {l.element_bytes * l.batch * l.heads * l.seq * l.seq, 4 * whole};
    case Scheme::memory_efficient:
      return {whole + 2 * block, 4 * whole};
    case Scheme::blockwise:
      return {whole, whole};
    case Scheme::ring:
      break;
  }
  return {6 * block, block};
}

/// The longest sequence whose activations fit into `bytes` per device, with every layer's input kept and the rest
/// recomputed (full checkpointing). `devices` share one sequence under `ring` and hold one each otherwise.
constexpr double longest_sequence(Scheme scheme, double bytes, Layer layer, double layers, double devices) {
  double const share = scheme == Scheme::ring ? devices : 1;
  auto const needed = [&](double seq) {
    layer.seq = seq;
    if (scheme == Scheme::ring) layer.block = seq / share;
    return layers * layer.element_bytes * layer.batch * (seq / share) * layer.hidden +
           activations(scheme, layer).peak();
  };
  double low = 0, high = 1;
  while (needed(high) <= bytes) high *= 2;
  while (high - low > 0.5) (needed((low + high) / 2) <= bytes ? low : high) = (low + high) / 2;
  return low;
}

}  // namespace ringattn::plan
