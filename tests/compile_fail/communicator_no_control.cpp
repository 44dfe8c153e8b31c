// SPDX-License-Identifier: Apache-2.0
// A communicator without small host messages.
// expect: ringattn: Policy::Communicator needs all_gather(mine, all) for small host messages
#include "fakes.hpp"

struct Speechless : fake::Line {
  void all_gather();
};
struct Mine : fake::Policy {
  using Communicator = Speechless;
};
static_assert(pipeline<Mine> > 0);
