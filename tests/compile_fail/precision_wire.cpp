// SPDX-License-Identifier: Apache-2.0
// Gradients that travel in fewer bits than they are stored in.
// expect: ringattn: Policy::Precision needs Element, Accumulator, Wire and fingerprint, with Accumulator at least fp32
#include "fakes.hpp"

struct ThinWire {
  using Element = float;
  using Accumulator = float;
  using Wire = ringattn::BFloat16;
  static constexpr std::uint64_t fingerprint = 1;
};
struct Mine : fake::Policy {
  using Precision = ThinWire;
};
static_assert(pipeline<Mine> > 0);
