// SPDX-License-Identifier: Apache-2.0
// A score change without its derivative.
// expect: ringattn: Policy::Score must be trivially copyable and have identity, apply(score, head, q, k)
#include "fakes.hpp"

struct Softcap {
  static constexpr bool identity = false;
  float apply(float x, int64_t, int64_t, int64_t) const { return x; }
  std::uint64_t fingerprint() const { return 1; }
};
struct Mine : fake::Policy {
  using Score = Softcap;
};
static_assert(pipeline<Mine> > 0);
