// SPDX-License-Identifier: Apache-2.0
// A policy without a head dimension.
// expect: ringattn: Policy::head_dim is missing: write `static constexpr int head_dim = 64;`
#include "fakes.hpp"

struct Mine : ringattn::Policy {
  using Mask = ringattn::Full;
  using Backend = fake::Device;
  using Communicator = fake::Line;
};
static_assert(pipeline<Mine> > 0);
