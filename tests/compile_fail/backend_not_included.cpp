// SPDX-License-Identifier: Apache-2.0
// The default backend, its header forgotten.
// expect: ringattn: Policy::Backend is an incomplete type: include its header
#include "fakes.hpp"

struct Mine : fake::Policy {
  using Backend = ringattn::Cpu;
};
static_assert(pipeline<Mine> > 0);
