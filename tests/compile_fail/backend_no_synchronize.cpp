// SPDX-License-Identifier: Apache-2.0
// A backend that cannot say when it is done.
// expect: ringattn: Policy::Backend needs Space, arch, allocate(bytes), copy(from, to) and synchronize()
#include "fakes.hpp"

struct Endless {
  using Space = ringattn::HostSpace;
  static constexpr int arch = 0;
  fake::Bytes allocate(size_t);
  template <class From, class To> void copy(From, To);
};
struct Mine : fake::Policy {
  using Backend = Endless;
};
static_assert(pipeline<Mine> > 0);
