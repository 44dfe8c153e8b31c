// SPDX-License-Identifier: Apache-2.0
// A head dimension that is none.
// expect: ringattn: Policy::head_dim must be positive and Policy::value_dim must not be negative
#include "fakes.hpp"

struct Mine : fake::Policy {
  static constexpr int head_dim = 0;
};
static_assert(pipeline<Mine> > 0);
