// SPDX-License-Identifier: Apache-2.0
// When a step's block travels: beside the computation of the step before, or after it.
#pragma once

#include "../concepts.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Block i + 1 travels while block i is computed.
struct Overlapped {
  static constexpr bool overlapped = true;
};

/// Compute, then exchange: to measure what overlap gains, and to find races.
struct Serial {
  static constexpr bool overlapped = false;
};

static_assert(OverlapPolicy<Overlapped> && OverlapPolicy<Serial>);

}  // namespace ringattn
