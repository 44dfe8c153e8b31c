// SPDX-License-Identifier: Apache-2.0
// A mask whose visible() returns a score instead of a bool.
// expect: ringattn: Policy::Mask must be trivially copyable and have bool visible(q, k) const
#include "fakes.hpp"

struct Additive {
  float visible(int64_t, int64_t) const { return 0; }
  ringattn::Coverage coverage(ringattn::Rows, ringattn::Rows) const { return ringattn::Coverage::partial; }
  std::uint64_t fingerprint() const { return 1; }
};
struct Mine : fake::Policy {
  using Mask = Additive;
};
static_assert(pipeline<Mine> > 0);
