// SPDX-License-Identifier: Apache-2.0
// The default communicator, its header forgotten.
// expect: ringattn: Policy::Communicator is an incomplete type: include its header
#include "fakes.hpp"

struct Mine : fake::Policy {
  using Communicator = ringattn::InProcess;
};
static_assert(pipeline<Mine> > 0);
