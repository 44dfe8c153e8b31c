// SPDX-License-Identifier: Apache-2.0
// An overlap policy that does not say which.
// expect: ringattn: Policy::Overlap needs a static constexpr bool overlapped; take Overlapped or Serial
#include "fakes.hpp"

struct Sometimes {};
struct Mine : fake::Policy {
  using Overlap = Sometimes;
};
static_assert(pipeline<Mine> > 0);
