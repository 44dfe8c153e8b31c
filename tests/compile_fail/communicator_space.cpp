// SPDX-License-Identifier: Apache-2.0
// A communicator that cannot move the backend's memory.
// expect: ringattn: Policy::Communicator cannot move the memory space of Policy::Backend: take InProcess or Mpi for Cpu
#include "fakes.hpp"

struct Elsewhere : fake::Line {
  template <class Space> static constexpr bool moves = false;
};
struct Mine : fake::Policy {
  using Communicator = Elsewhere;
};
static_assert(pipeline<Mine> > 0);
