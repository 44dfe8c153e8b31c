// SPDX-License-Identifier: Apache-2.0
// A key/value shard without a fingerprint.
// expect: ringattn: Policy::KvShard needs rows(Ring, int64_t) const, a range of Rows
#include "fakes.hpp"

struct Anonymous {
  ringattn::Runs<1> rows(ringattn::Ring, int64_t) const { return {}; }
};
struct Mine : fake::Policy {
  using KvShard = Anonymous;
};
static_assert(pipeline<Mine> > 0);
