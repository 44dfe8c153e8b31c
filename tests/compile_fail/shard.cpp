// SPDX-License-Identifier: Apache-2.0
// A shard that gives one run where a range of runs is asked for.
// expect: ringattn: Policy::Shard needs rows(Ring, int64_t) const, a range of Rows
#include "fakes.hpp"

struct OneRun {
  ringattn::Rows rows(ringattn::Ring, int64_t seq) const { return {0, 1, seq}; }
  std::uint64_t fingerprint() const { return 1; }
};
struct Mine : fake::Policy {
  using Shard = OneRun;
};
static_assert(pipeline<Mine> > 0);
