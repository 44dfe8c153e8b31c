// SPDX-License-Identifier: Apache-2.0
// How a sequence is cut over the ranks of a ring: any length, any ring size, uneven and empty shards included.
#pragma once

#include "../concepts.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// One block per rank, in rank order. With a causal mask later ranks do more work.
struct Contiguous {
  RINGATTN_HD constexpr Runs<1> rows(Ring ring, int64_t seq) const {
    Runs<1> out;
    int64_t const begin = seq * ring.rank / ring.size, end = seq * (ring.rank + 1) / ring.size;
    out.add({begin, 1, end - begin});
    return out;
  }
  constexpr std::uint64_t fingerprint() const { return fingerprint_of("contiguous"); }
};

/// 2P chunks, rank r holds chunks r and 2P - 1 - r: the same causal work on every rank in every step.
struct ZigZag {
  RINGATTN_HD constexpr Runs<2> rows(Ring ring, int64_t seq) const {
    Runs<2> out;
    int64_t const chunks = 2 * int64_t(ring.size);
    int64_t const mine[2] = {ring.rank, chunks - 1 - ring.rank};
    for (int64_t c : mine) {
      int64_t const begin = seq * c / chunks, end = seq * (c + 1) / chunks;
      out.add({begin, 1, end - begin});
    }
    return out;
  }
  constexpr std::uint64_t fingerprint() const { return fingerprint_of("zigzag"); }
};

/// Rank r holds positions r, r + P, r + 2P, ... (Brandon et al. 2023).
struct Striped {
  RINGATTN_HD constexpr Runs<1> rows(Ring ring, int64_t seq) const {
    Runs<1> out;
    out.add({ring.rank, ring.size, seq > ring.rank ? (seq - ring.rank + ring.size - 1) / ring.size : 0});
    return out;
  }
  constexpr std::uint64_t fingerprint() const { return fingerprint_of("striped"); }
};

static_assert(ShardPolicy<Contiguous> && ShardPolicy<ZigZag> && ShardPolicy<Striped>);

}  // namespace ringattn
