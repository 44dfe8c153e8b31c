// SPDX-License-Identifier: Apache-2.0
// Counted pairs against brute force: our masks' closed forms and the counting for a user's mask.
#include <ringattn/plan/pairs.hpp>
#include <ringattn/policy/shard.hpp>

#include <doctest/doctest.h>

#include "inputs.hpp"

using namespace ringattn;

namespace {

template <class Mask> int64_t brute(Mask const& mask, Rows q, Rows k) {
  int64_t n = 0;
  for (int64_t i = 0; i < q.count; ++i)
    for (int64_t j = 0; j < k.count; ++j) n += mask.visible(q.at(i), k.at(j));
  return n;
}

/// Hides the type, so that the general counting is taken.
template <class Mask> struct Mine : Mask {};

template <class Mask> void same(Mask const& mask, Rows q, Rows k) {
  CAPTURE(q.first);
  CAPTURE(q.stride);
  CAPTURE(q.count);
  CAPTURE(k.first);
  CAPTURE(k.stride);
  CAPTURE(k.count);
  int64_t const expected = brute(mask, q, k);
  CHECK(plan::visible_pairs(mask, q, k) == expected);
  CHECK(plan::visible_pairs(Mine<Mask>{mask}, q, k) == expected);
}

}  // namespace

TEST_CASE("pairs of random blocks") {
  std::uint64_t const seed = 20240611;
  MESSAGE("seed " << seed);
  test::Random random(seed);
  for (int n = 0; n < 3000; ++n) {
    auto const rows = [&] { return Rows{random.below(40), 1 + random.below(7), random.below(30)}; };
    Rows const q = rows(), k = rows();
    int64_t const offset = random.below(81) - 40;
    same(Full{}, q, k);
    same(Causal{offset}, q, k);
    same(SlidingWindow{random.below(20), random.below(20), offset}, q, k);
  }
}

TEST_CASE("pairs of a problem") {
  CHECK(plan::visible_pairs(Full{}, Problem{.seq = 5, .kv_seq = 7}) == 35);
  CHECK(plan::visible_pairs(Causal{}, Problem{.seq = 5}) == 15);
  CHECK(plan::visible_pairs(Causal{.offset = 2}, Problem{.seq = 3, .kv_seq = 5}) == 3 + 4 + 5);
  CHECK(plan::visible_pairs(SlidingWindow{.left = 1, .right = 0}, Problem{.seq = 5}) == 9);
  CHECK(plan::visible_pairs(Causal{}, Problem{.seq = 0}) == 0);
  // 64-bit: a hundred million tokens.
  CHECK(plan::visible_pairs(Causal{}, Problem{.seq = 100'000'000}) == 5'000'000'050'000'000);
}

TEST_CASE("zigzag and striped share causal pairs evenly, contiguous does not") {
  auto const pairs = [](auto shard, int rank, int owner) {
    return plan::visible_pairs(Causal{}, shard.rows(Ring{rank, 4}, 64), shard.rows(Ring{owner, 4}, 64));
  };
  for (int rank = 0; rank < 4; ++rank)
    for (int owner = 0; owner < 4; ++owner) {
      int64_t const diagonal = 16 * 8 + 8;
      CHECK(pairs(ZigZag{}, rank, owner) == (rank == owner ? diagonal : 128));
      CHECK(pairs(Striped{}, rank, owner) == (rank >= owner ? 136 : 120));
      CHECK(pairs(Contiguous{}, rank, owner) == (rank > owner ? 256 : rank == owner ? 136 : 0));
    }
}

static_assert(plan::visible_pairs(Causal{}, Problem{.seq = 1'000'000}) == 500'000'500'000, "constexpr at full length");
