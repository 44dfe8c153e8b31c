// SPDX-License-Identifier: Apache-2.0
// A communicator that would wait for ever.
// expect: ringattn: Policy::Communicator needs rank, size, exchange(backend, sends, recvs), progress
#include "fakes.hpp"

struct Patient : fake::Line {
  void deadline() const;
};
struct Mine : fake::Policy {
  using Communicator = Patient;
};
static_assert(pipeline<Mine> > 0);
