// SPDX-License-Identifier: Apache-2.0
// The base of all sources here compiles: what they report is what they break.
// expect: nothing
#include "fakes.hpp"

struct Mine : fake::Policy {
  using Shard = ringattn::ZigZag;
  using Precision = ringattn::Bf16;
  static constexpr int value_dim = 32;
};
static_assert(pipeline<Mine> > 0);
