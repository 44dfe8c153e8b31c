// SPDX-License-Identifier: Apache-2.0
// Tiles with a member: block sizes must not depend on an object.
// expect: ringattn: Policy::Tiles must be stateless and return a Tile from (arch, head_dim, value_dim, element_bytes)
#include "fakes.hpp"

struct Remembered {
  int q = 64;
  constexpr ringattn::Tile operator()(int, int, int, int) const { return {.q = q}; }
};
struct Mine : fake::Policy {
  using Tiles = Remembered;
};
static_assert(pipeline<Mine> > 0);
