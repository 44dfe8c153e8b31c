// SPDX-License-Identifier: Apache-2.0
// What happens to a score between q.k and the softmax.
#pragma once

#include "../concepts.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Nothing.
struct Plain {
  static constexpr bool identity = true;

  template <class A> RINGATTN_HD constexpr A apply(A score, int64_t /*head*/, int64_t /*q*/, int64_t /*k*/) const {
    return score;
  }
  template <class A> RINGATTN_HD constexpr A slope(A, int64_t, int64_t, int64_t) const { return A(1); }
  constexpr std::uint64_t fingerprint() const { return fingerprint_of("plain"); }
};

static_assert(ScorePolicy<Plain>);

}  // namespace ringattn
