// SPDX-License-Identifier: Apache-2.0
// A device that computes no attention.
// expect: ringattn: Policy::Backend cannot compute attention for this policy: it needs attend_bytes, begin, step and
// finish
#include "fakes.hpp"

struct Idle {
  using Space = ringattn::HostSpace;
  static constexpr int arch = 0;
  fake::Bytes allocate(size_t);
  template <class From, class To> void copy(From, To);
  void synchronize();
};
struct Mine : fake::Policy {
  using Backend = Idle;
};
static_assert(pipeline<Mine> > 0);
