// SPDX-License-Identifier: Apache-2.0
// A policy without a mask.
// expect: ringattn: Policy::Mask is missing: write `using Mask = ringattn::Causal;`
#include "fakes.hpp"

struct Mine : ringattn::Policy {
  using Backend = fake::Device;
  using Communicator = fake::Line;
  static constexpr int head_dim = 64;
};
static_assert(pipeline<Mine> > 0);
