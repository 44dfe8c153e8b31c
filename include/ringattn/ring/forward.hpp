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

/// All steps, and what comes before and after them. `vote`: called before outputs are written.
template <class P, class Vote>
void forward_steps(typename P::Backend& backend, Plan<P> const& plan, Rotation<P>& rotation, Timings& timings,
                   ForwardArgs<P> const& args, AttendStep<KernelOf<P>, typename P::Backend::Space>& step, Vote&& vote) {
  using K = KernelOf<P>;
  using Space = typename P::Backend::Space;
  constexpr bool in_parts = AttendsInParts<typename P::Backend, K>;
  Schedule const& s = plan.schedule;
  AttendResult<K, Space> const result{.out = args.out, .lse = args.lse};
  int const rank = plan.here.rank;
  auto const has_work = [&](int i) {
    int const owner = s.owner(rank, i);
    return s.needs(rank, owner) && count_rows(plan.kv_rows[size_t(owner)]) > 0;
  };
  int first = 0, last = plan.here.size - 1;
  while (first <= last && !has_work(first)) ++first;
  while (first <= last && !has_work(last)) --last;
  bool const any = first <= last;

  if (!in_parts || !any) backend.template begin<K>(step);
  rotation.run(
      args.k, args.v,
      [&](int i, auto k, auto v) {
        if (!has_work(i)) return;
        detail::Stopwatch watch(timings.compute_s);
        step.k = k;
        step.v = v;
        step.k_rows = plan.kv_rows[size_t(s.owner(rank, i))];
        if constexpr (in_parts)
          backend.template step<K>(step, Part<K, Space>{i == first, i == last && !plan.vote ? &result : nullptr});
        else
          backend.template step<K>(step);
        ++timings.steps;
      },
      [](int) {});
  vote();
  if (!in_parts || !any || plan.vote) backend.template finish<K>(step, result);
}

}  // namespace ringattn
