// SPDX-License-Identifier: Apache-2.0
// Backward: the same loop with one more traveller. Each block's dK|dV is summed along its way and then goes home.
//
// A step's contribution is summed from zero in its own buffer and added to the sum that arrives, after the step: so the
// sum's hop hides behind the next step. Block c visits travel[c] further ranks; the last one sends the sum to c itself.
#pragma once

#include <utility>

#include "rotate.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// `out` and `lse` are what forward wrote; `dout` is the gradient of `out`.
template <class P> struct BackwardArgs {
  using Space = typename P::Backend::Space;
  using Element = typename P::Precision::Element;
  using Accumulator = typename P::Precision::Accumulator;

  View<Element const, Space> q{}, k{}, v{}, out{};
  View<Accumulator const, Space> lse{};
  View<Element const, Space> dout{};
  View<Element, Space> dq{}, dk{}, dv{};
};

/// The sums of dK|dV on their way: this step's, the one that came in, the one that leaves, and this rank's own.
template <class P> class GradientTraffic {
 public:
  using Accumulator = typename P::Precision::Accumulator;
  using Wire = typename P::Precision::Wire;
  using Space = typename P::Backend::Space;

  struct Buffers {
    Accumulator* mine;
    Wire *arriving, *leaving, *home;
  };

  GradientTraffic(typename P::Backend& backend, Traffic<P>& traffic, Plan<P> const& plan, Buffers buffers)
      : backend_(backend), traffic_(traffic), plan_(plan), buffers_(buffers) {}

  void start(int64_t batch) {
    batch_ = batch;
    b_ = buffers_;
  }
  /// Where a step puts its contribution to an owner's block.
  Block<Accumulator, Space> mine(int owner) const {
    return {b_.mine, plan_.k_extents(owner, batch_), plan_.v_extents(owner, batch_)};
  }
  /// This rank's own dK|dV, after `finish`.
  Block<Wire const, Space> home() const {
    int const rank = plan_.here.rank;
    return {b_.home, plan_.k_extents(rank, batch_), plan_.v_extents(rank, batch_)};
  }

  /// After a step: adds its contribution to the sum that arrived, sends the sum on or home, receives the next ones.
  void after(int step) {
    Schedule const& s = plan_.schedule;
    int const rank = plan_.here.rank, owner = s.owner(rank, step), last = s.travel[size_t(owner)];
    traffic_.wait(lane_, "gradient block");  // this step's sum is here, and the one that left is gone
    if (s.holds(rank, step)) {
      bool const stays = step == 0 && last == 0;
      if (step == 0) {
        begin_sum(stays, owner);
      } else {  // or only passing through
        if (s.needs(rank, owner))
          backend_.accumulate(b_.mine, static_cast<Wire const*>(b_.arriving), b_.arriving, elements(owner));
        std::swap(b_.arriving, b_.leaving);
      }
      if (!stays) lane_.send(step < last ? s.next(rank) : owner, b_.leaving, bytes(owner));
    }
    if (s.holds(rank, step + 1)) lane_.receive(s.previous(rank), b_.arriving, bytes(s.owner(rank, step + 1)));
    if (step > 0 && step == s.travel[size_t(rank)]) lane_.receive(s.last_stop(rank), b_.home, bytes(rank));
    traffic_.post(lane_);
  }
  void finish() { traffic_.wait(lane_, "gradient block"); }
  void drop() { traffic_.drop(lane_); }

 private:
  /// The first contribution is the sum so far: buffers change places, unless it has to be rounded for the wire.
  void begin_sum(bool stays, int owner) {
    if constexpr (std::is_same_v<Wire, Accumulator>) {
      if (stays && b_.home == b_.mine) return;
      if (!stays) return std::swap(b_.mine, b_.leaving);
    }
    backend_.accumulate(b_.mine, static_cast<Wire const*>(nullptr), stays ? b_.home : b_.leaving, elements(owner));
  }
  int64_t elements(int owner) const { return plan_.kv_elements(owner, batch_); }
  size_t bytes(int owner) const { return size_t(elements(owner)) * sizeof(Wire); }

  typename P::Backend& backend_;
  Traffic<P>& traffic_;
  Plan<P> const& plan_;
  Buffers buffers_, b_{};
  typename Traffic<P>::Lane lane_;
  int64_t batch_ = 0;
};

/// The steps up to, not including, the write of the outputs.
template <class P>
void backward_steps(typename P::Backend& backend, Plan<P> const& plan, Rotation<P>& rotation,
                    GradientTraffic<P>& gradients, Timings& timings, BackwardArgs<P> const& args,
                    BackwardStep<KernelOf<P>, typename P::Backend::Space>& step) {
  using K = KernelOf<P>;
  Schedule const& s = plan.schedule;
  gradients.start(args.k.extents.batch);
  backend.template begin_backward<K>(step);
  rotation.run(
      args.k, args.v,
      [&](int i, auto k, auto v) {
        int const rank = plan.here.rank, owner = s.owner(rank, i);
        if (i > 0 && !s.needs(rank, owner)) return;  // its own block is always visited: the sum starts there
        detail::Stopwatch watch(timings.compute_s);
        auto const contribution = gradients.mine(owner);
        step.k = k;
        step.v = v;
        step.k_rows = plan.kv_rows[size_t(owner)];
        step.dk = contribution.k;
        step.dv = contribution.v;
        backend.template step_backward<K>(step);
        ++timings.steps;
      },
      [&](int i) { gradients.after(i); });
  gradients.finish();
}

}  // namespace ringattn
