// SPDX-License-Identifier: Apache-2.0
// What a pipeline knows before its first step: the agreed problem, this rank's share of it, and the buffers.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "../policy.hpp"
#include "schedule.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// When outputs are written. `all`: after a vote, so that a failure anywhere before it leaves every rank's outputs
/// untouched. `local`: when this rank is done. `automatic`: all on host backends, local on streams.
enum class Commit : int { automatic, all, local };

/// The arguments of a plan. Everything but the buffers must be equal on every rank.
template <class P> struct PlanOptions {
  Problem problem;  ///< the largest call: a call may bring a smaller batch
  typename P::Mask mask{};
  typename P::Score score{};
  typename P::Shard shard{};
  KvShardOf<P> kv_shard{};
  double scale = 0;  ///< of q.k; 0: 1/sqrt(head_dim)
  Commit commit = Commit::automatic;
  bool backward = AttendsBackward<typename P::Backend, KernelOf<P>>;  ///< false: no buffers for a backward pass
  std::span<std::byte> workspace{};  ///< the user's, 64-byte aligned, in the backend's space; empty: we allocate
};

/// The shapes of this rank's tensors.
struct Local {
  Extents q;    ///< [batch, q rows, heads, head_dim]; dq alike
  Extents k;    ///< [batch, kv rows, kv_heads, head_dim]; dk alike
  Extents v;    ///< [batch, kv rows, kv_heads, value_dim]; dv alike
  Extents out;  ///< [batch, q rows, heads, value_dim]; dout alike
  Extents lse;  ///< [batch, q rows, heads, 1]
};

/// The agreed plan, from this rank's place.
template <class P> struct Plan {
  using Kernel = KernelOf<P>;

  Problem problem;  ///< resolved
  Ring here;
  typename P::Mask mask;
  typename P::Score score;
  typename P::Precision::Accumulator scale;
  bool vote = false;
  bool backward = false;
  Schedule schedule;
  std::vector<Rows> q_rows;                ///< mine
  std::vector<std::vector<Rows>> kv_rows;  ///< [owner]

  Extents k_extents(int owner, int64_t batch) const {
    return {batch, schedule.kv_count[size_t(owner)], problem.kv_heads, P::head_dim};
  }
  Extents v_extents(int owner, int64_t batch) const {
    return {batch, schedule.kv_count[size_t(owner)], problem.kv_heads, value_dim_of<P>};
  }
  /// Elements of block K|V of an owner.
  int64_t kv_elements(int owner, int64_t batch) const {
    return k_extents(owner, batch).count() + v_extents(owner, batch).count();
  }
  Local local(int64_t batch) const {
    int64_t const q = schedule.q_count[size_t(here.rank)];
    return {.q = {batch, q, problem.heads, P::head_dim},
            .k = k_extents(here.rank, batch),
            .v = v_extents(here.rank, batch),
            .out = {batch, q, problem.heads, value_dim_of<P>},
            .lse = {batch, q, problem.heads, 1}};
  }
};

/// A K|V (or dK|dV) block in one stretch of memory: K, then V, each dense in [batch, kv_heads, rows, dim] order.
template <class T, class Space> struct Block {
  View<T, Space> k, v;

  Block(T* data, Extents k_extents, Extents v_extents)
      : k(View<T, Space>::head_major(data, k_extents)),
        v(View<T, Space>::head_major(data + k_extents.count(), v_extents)) {}
};

}  // namespace ringattn
