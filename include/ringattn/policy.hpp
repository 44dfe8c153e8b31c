// SPDX-License-Identifier: Apache-2.0
// ringattn::Policy, which users derive from, and the ladder of static_asserts that explains a wrong one.
#pragma once

#include "policy/mask.hpp"
#include "policy/overlap.hpp"
#include "policy/precision.hpp"
#include "policy/score.hpp"
#include "policy/shard.hpp"
#include "policy/strategy.hpp"
#include "policy/tile.hpp"

namespace ringattn::inline RINGATTN_ABI {

class Cpu;        // cpu/backend.hpp
class InProcess;  // comm/in_process.hpp

/// The choices of a pipeline. Derive at namespace scope and redeclare what you change; `Mask` and `head_dim` have no
/// default.
struct Policy {
  using Precision = Fp32;
  using Shard = Contiguous;  ///< of the queries, and of keys and values unless KvShard says otherwise
  using KvShard = void;      ///< void: as Shard
  using Score = Plain;
  using Tiles = DefaultTiles;
  using Overlap = Overlapped;
  using Strategy = RotateKeys;
  using Backend = Cpu;
  using Communicator = InProcess;
  static constexpr int value_dim = 0;  ///< 0: as head_dim
};

template <class P>
using KvShardOf = std::conditional_t<std::is_void_v<typename P::KvShard>, typename P::Shard, typename P::KvShard>;

template <class P> inline constexpr int value_dim_of = P::value_dim == 0 ? P::head_dim : P::value_dim;

/// The kernels of a policy.
template <class P>
using KernelOf =
    Kernel<typename P::Precision, typename P::Mask, typename P::Score, typename P::Tiles, P::head_dim, value_dim_of<P>>;

namespace detail {

template <class P>
concept HasMask = requires {
  typename P::Mask;
};
template <class P>
concept HasHeadDim = requires {
  { P::head_dim } -> std::convertible_to<int>;
};

/// A score keeps the precision it is given: a `float apply(float, ...)` would narrow Fp64 without a word.
template <class Score, class A>
concept ScoresIn = requires(Score const s, A x, int64_t i) {
  { s.apply(x, i, i, i) } -> std::same_as<A>;
  { s.slope(x, i, i, i) } -> std::same_as<A>;
};

/// True if P is a legal policy; otherwise one sentence, first in the compiler's output, says what to change. Each rung
/// is instantiated only if the one above holds.
template <class P> consteval bool check_policy() {
  static_assert(HasMask<P>,
                "ringattn: Policy::Mask is missing: write `using Mask = ringattn::Causal;` (or Full, SlidingWindow, "
                "your own) in your policy");
  if constexpr (HasMask<P>) {
    static_assert(HasHeadDim<P>,
                  "ringattn: Policy::head_dim is missing: write `static constexpr int head_dim = 64;` in your policy");
    if constexpr (HasHeadDim<P>) {
      static_assert(P::head_dim > 0 && P::value_dim >= 0,
                    "ringattn: Policy::head_dim must be positive and Policy::value_dim must not be negative");
      static_assert(PrecisionPolicy<typename P::Precision>,
                    "ringattn: Policy::Precision needs Element, Accumulator, Wire and fingerprint, with Accumulator at "
                    "least fp32 and, like Wire, at least as wide as Element");
      static_assert(MaskPolicy<typename P::Mask>,
                    "ringattn: Policy::Mask must be trivially copyable and have bool visible(q, k) const, Coverage "
                    "coverage(Rows, Rows) const and uint64_t fingerprint() const");
      static_assert(ScorePolicy<typename P::Score> && ScoresIn<typename P::Score, typename P::Precision::Accumulator>,
                    "ringattn: Policy::Score must be trivially copyable and have identity, apply(score, head, q, k), "
                    "slope(score, head, q, k) and fingerprint()");
      static_assert(
          ShardPolicy<typename P::Shard>,
          "ringattn: Policy::Shard needs rows(Ring, int64_t) const, a range of Rows, and uint64_t fingerprint() const");
      static_assert(ShardPolicy<KvShardOf<P>>,
                    "ringattn: Policy::KvShard needs rows(Ring, int64_t) const, a range of Rows, and uint64_t "
                    "fingerprint() const (or be void)");
      static_assert(TilePolicy<typename P::Tiles>,
                    "ringattn: Policy::Tiles must be stateless and return a Tile from (arch, head_dim, value_dim, "
                    "element_bytes)");
      static_assert(OverlapPolicy<typename P::Overlap>,
                    "ringattn: Policy::Overlap needs a static constexpr bool overlapped; take Overlapped or Serial");
    }
  }
  return true;
}

/// The second ladder: backend and communicator, which must be complete types by now.
template <class P> consteval bool check_devices() {
  using B = typename P::Backend;
  using C = typename P::Communicator;
  static_assert(
      requires { sizeof(B); },
      "ringattn: Policy::Backend is an incomplete type: include its header (cpu/backend.hpp, cuda/backend.cuh)");
  static_assert(
      requires { sizeof(C); },
      "ringattn: Policy::Communicator is an incomplete type: include its header (comm/in_process.hpp, comm/mpi.hpp, "
      "...)");
  if constexpr (requires {
                  sizeof(B);
                  sizeof(C);
                }) {
    static_assert(DeviceBackend<B>,
                  "ringattn: Policy::Backend needs Space, arch, allocate(bytes), copy(from, to) and synchronize()");
    if constexpr (DeviceBackend<B>) {
      static_assert(Attends<B, KernelOf<P>>,
                    "ringattn: Policy::Backend cannot compute attention for this policy: it needs attend_bytes, begin, "
                    "step and finish");
      static_assert(RingCommunicator<C, B>,
                    "ringattn: Policy::Communicator needs rank, size, exchange(backend, sends, recvs), progress, "
                    "abort, aborted and deadline");
      static_assert(Control<C>, "ringattn: Policy::Communicator needs all_gather(mine, all) for small host messages");
      if constexpr (RingCommunicator<C, B>)
        static_assert(Moves<C, typename B::Space>,
                      "ringattn: Policy::Communicator cannot move the memory space of Policy::Backend: take InProcess "
                      "or Mpi for Cpu, Nccl or CudaPeer for Cuda");
    }
  }
  return true;
}

}  // namespace detail

}  // namespace ringattn
