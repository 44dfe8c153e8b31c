// SPDX-License-Identifier: Apache-2.0
// A shard chosen at run time, so that one compiled policy tests all of them.
#pragma once

#include <ringattn/policy/shard.hpp>

#include <array>

namespace ringattn::test {

struct AnyShard {
  enum Kind { contiguous, zigzag, striped, reversed, lopsided };
  static constexpr std::array<char const*, 5> names = {"contiguous", "zigzag", "striped", "reversed", "lopsided"};

  int kind = contiguous;

  constexpr Runs<2> rows(Ring ring, int64_t seq) const {
    Runs<2> out;
    int64_t const size = ring.size, rank = ring.rank;
    switch (kind) {
      case zigzag:
        return ZigZag{}.rows(ring, seq);
      case striped:
        for (Rows const& r : Striped{}.rows(ring, seq)) out.add(r);
        break;
      case reversed:  // blocks in reverse rank order
        for (Rows const& r : Contiguous{}.rows(Ring{int(size - 1 - rank), ring.size}, seq)) out.add(r);
        break;
      case lopsided:  // rank 0 holds half, odd ranks nothing, the others share the rest
        if (rank == 0) {
          out.add({0, 1, size == 1 ? seq : seq / 2});
          if (size == 2) out.add({seq / 2, 1, seq - seq / 2});
        } else if (rank % 2 == 0) {
          for (Rows const& r : Contiguous{}.rows(Ring{int(rank / 2 - 1), int((size - 1) / 2)}, seq - seq / 2))
            out.add({seq / 2 + r.first, 1, r.count});
        }
        break;
      default:
        for (Rows const& r : Contiguous{}.rows(ring, seq)) out.add(r);
    }
    return out;
  }
  constexpr std::uint64_t fingerprint() const { return fingerprint_of("any shard", kind); }
};

}  // namespace ringattn::test
