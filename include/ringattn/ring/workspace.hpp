// SPDX-License-Identifier: Apache-2.0
// Where the pieces of a rank's one workspace lie: constexpr, so that the planner and the pipeline cannot disagree.
#pragma once

#include "plan.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Byte offsets into the workspace of RotateKeys. Forward and backward share it; they never run at the same time.
struct RotateWorkspace {
  size_t slot[2] = {0, 0};  ///< K|V that is here, K|V that is arriving; Element
  size_t forward_state = 0;
  size_t mine = 0;      ///< dK|dV of this step; Accumulator
  size_t arriving = 0;  ///< dK|dV summed by the ranks before; Wire
  size_t leaving = 0;   ///< ... with this rank's share; Wire
  size_t home = 0;      ///< this rank's own dK|dV, complete; Wire
  size_t backward_state = 0;
  size_t total = 0;
};

/// Bytes that a backend's kernels ask for, for one rank.
struct StateBytes {
  size_t forward = 0, backward = 0;
};

/// The layout on a rank. `largest_kv`, `own_kv`: key/value rows of the largest shard and of this rank's.
/// A ring of one sends nothing and needs no slots.
template <class P>
constexpr RotateWorkspace rotate_workspace(Problem problem, int ring_size, int64_t largest_kv, int64_t own_kv,
                                           StateBytes state, bool backward) {
  using Precision = typename P::Precision;
  Problem const p = problem.resolved();
  int64_t const row = p.batch * p.kv_heads * (P::head_dim + value_dim_of<P>);  // K|V elements of one position
  size_t cursor = 0;
  auto const take = [&cursor](size_t bytes) {
    size_t const at = cursor;
    cursor += (bytes + 63) / 64 * 64;
    return at;
  };
  bool const ring = ring_size > 1;
  RotateWorkspace w;
  for (size_t& slot : w.slot) slot = take(ring ? size_t(row * largest_kv) * sizeof(typename Precision::Element) : 0);
  size_t const shared = cursor;
  w.forward_state = take(state.forward);
  w.total = cursor;
  if (!backward) return w;
  cursor = shared;
  w.mine = take(size_t(row * largest_kv) * sizeof(typename Precision::Accumulator));
  size_t const sum = size_t(row * largest_kv) * sizeof(typename Precision::Wire);
  w.arriving = take(ring ? sum : 0);
  w.leaving = take(ring ? sum : 0);
  // What a ring of one computes is home already, if sums stay in the format they are computed in.
  bool const at_home = !ring && std::is_same_v<typename Precision::Wire, typename Precision::Accumulator>;
  w.home = at_home ? w.mine : take(size_t(row * own_kv) * sizeof(typename Precision::Wire));
  w.backward_state = take(state.backward);
  w.total = cursor > w.total ? cursor : w.total;
  return w;
}

}  // namespace ringattn
