// SPDX-License-Identifier: Apache-2.0
// Forward: every block that comes by continues the running softmax state (Algorithm 1 of Liu et al. 2023).
#pragma once

#include "rotate.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Views may have any strides; extents as Local says, with any batch up to the planned one.
template <class P> struct ForwardArgs {
  using Space = typename P::Backend::Space;
  using Element = typename P::Precision::Element;
  using Accumulator = typename P::Precision::Accumulator;

  View<Element const, Space> q{}, k{}, v{};
  View<Element, Space> out{};
  View<Accumulator, Space> lse{};  ///< natural log; may be left out
};

/// The steps up to, not including, the write of the outputs.
template <class P>
void forward_steps(typename P::Backend& backend, Plan<P> const& plan, Rotation<P>& rotation, Timings& timings,
                   ForwardArgs<P> const& args, AttendStep<KernelOf<P>, typename P::Backend::Space>& step) {
  using K = KernelOf<P>;
  Schedule const& s = plan.schedule;
  backend.template begin<K>(step);
  rotation.run(
      args.k, args.v,
      [&](int i, auto k, auto v) {
        int const rank = plan.here.rank, owner = s.owner(rank, i);
        if (!s.needs(rank, owner)) return;
        detail::Stopwatch watch(timings.compute_s);
        step.k = k;
        step.v = v;
        step.k_rows = plan.kv_rows[size_t(owner)];
        backend.template step<K>(step);
        ++timings.steps;
      },
      [](int) {});
}

}  // namespace ringattn
