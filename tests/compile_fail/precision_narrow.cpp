// SPDX-License-Identifier: Apache-2.0
// Scores of doubles summed in float.
// expect: ringattn: Policy::Precision needs Element, Accumulator, Wire and fingerprint, with Accumulator at least fp32
#include "fakes.hpp"

struct Narrow {
  using Element = double;
  using Accumulator = float;
  using Wire = double;
  static constexpr std::uint64_t fingerprint = 1;
};
struct Mine : fake::Policy {
  using Precision = Narrow;
};
static_assert(pipeline<Mine> > 0);
