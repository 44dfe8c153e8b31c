// SPDX-License-Identifier: Apache-2.0
// Schedules against brute force from single pairs, and against the message counts one can write down.
#include <ringattn/policy/mask.hpp>
#include <ringattn/ring/schedule.hpp>

#include <doctest/doctest.h>

#include <vector>

#include "../any_shard.hpp"
#include "../traffic.hpp"

using namespace ringattn;
using test::AnyShard;

namespace {

/// Every visible pair is computed once; no block goes further than its last use.
template <class Mask> void check(int size, Mask const& mask, int shard, int kv_shard, Problem const& p) {
  CAPTURE(size);
  CAPTURE(AnyShard::names[size_t(shard)]);
  CAPTURE(AnyShard::names[size_t(kv_shard)]);
  CAPTURE(p.seq);
  CAPTURE(p.kv_seq);
  AnyShard const q{shard}, kv{kv_shard};
  Schedule const s = make_schedule(size, mask, q, kv, p);
  test::BruteForce const brute(size, mask, q, kv, p);
  REQUIRE(s.size == size);
  CHECK(s.need == brute.need);
  CHECK(s.travel == (s.direction > 0 ? brute.travel_up : brute.travel_down));
  CHECK(test::BruteForce::sum(s.travel) == brute.fewest_hops());
  for (int r = 0; r < size; ++r) {
    std::vector<int> visits(static_cast<size_t>(size), 0);
    for (int step = 0; step < s.steps; ++step) {
      int const c = s.owner(r, step);
      if (!s.holds(r, step)) continue;
      ++visits[size_t(c)];
      // What a rank holds after the first step came from the rank before, which held it in the step before.
      if (step > 0) CHECK(s.owner(s.previous(r), step - 1) == c);
      if (step > 0) CHECK(s.holds(s.previous(r), step - 1));
    }
    for (int c = 0; c < size; ++c) {
      CHECK(visits[size_t(c)] <= 1);
      if (s.needs(r, c)) CHECK(visits[size_t(c)] == 1);
    }
  }
  for (int c = 0; c < size; ++c) {
    int const last = s.last_stop(c);
    CHECK(s.owner(last, s.travel[size_t(c)]) == c);
    if (s.travel[size_t(c)] > 0) CHECK(s.needs(last, c));
  }
}

template <class Mask> test::TrafficOf traffic(int size, Mask const& mask, int shard, int64_t seq, bool backward) {
  AnyShard const kind{shard};
  Schedule const s = make_schedule(size, mask, kind, kind, {.seq = seq});
  return test::expected_traffic(s, s.travel, 1, 1, 1, backward);
}

}  // namespace

TEST_CASE("schedule: brute force, every mask, shard, ring size and kind of length") {
  for (int size : {1, 2, 3, 4, 5, 7, 8, 16})
    for (int shard = 0; shard < 5; ++shard)
      for (int kv_shard = 0; kv_shard < 5; ++kv_shard)
        for (Problem const& p :
             {Problem{.seq = 0}.resolved(), Problem{.seq = 1}.resolved(), Problem{.seq = 31}.resolved(),
              Problem{.seq = 32}.resolved(), Problem{.seq = 1, .kv_seq = 29}.resolved(),
              Problem{.seq = 13, .kv_seq = 30}.resolved(), Problem{.seq = 30, .kv_seq = 11}.resolved()}) {
          check(size, Full{}, shard, kv_shard, p);
          check(size, Causal{}, shard, kv_shard, p);
          check(size, Causal::bottom_right(p), shard, kv_shard, p);
          for (int64_t w : {0, 1, 5, 12}) {
            check(size, SlidingWindow{.left = w}, shard, kv_shard, p);
            check(size, SlidingWindow{.left = w, .right = w, .offset = p.kv_seq - p.seq}, shard, kv_shard, p);
          }
        }
}

TEST_CASE("schedule: a full mask sends P(P-1) blocks and, in the backward pass, P^2 gradients more") {
  for (int64_t size : {1, 2, 3, 4, 5, 7, 8, 16}) {
    auto const forward = traffic(int(size), Full{}, AnyShard::contiguous, 3 * size, false);
    CHECK(forward.messages == size * (size - 1));
    CHECK(forward.bytes == 3 * size * (size - 1));
    auto const backward = traffic(int(size), Full{}, AnyShard::contiguous, 3 * size, true);
    CHECK(backward.messages == (size == 1 ? 0 : size * (size - 1) + size * size));
  }
}

TEST_CASE("schedule: contiguous causal sends half, windows less, and empty shards nothing") {
  for (int64_t size : {2, 3, 4, 5, 7, 8, 16}) {
    CHECK(traffic(int(size), Causal{}, AnyShard::contiguous, 4 * size, false).messages == size * (size - 1) / 2);
    // Keys up to a shard to the left: the neighbour needs them, and for all but the first row of a shard nobody else.
    CHECK(traffic(int(size), SlidingWindow{.left = 4}, AnyShard::contiguous, 4 * size, false).messages == size - 1);
    CHECK(traffic(int(size), SlidingWindow{.left = 0}, AnyShard::contiguous, 4 * size, false).messages == 0);
    // Keys to the right only: the ring turns the other way round.
    AnyShard const shard;
    CHECK(make_schedule(int(size), SlidingWindow{.right = 4}, shard, shard, {.seq = 4 * size}).direction ==
          (size == 2 ? 1 : -1));
    CHECK(traffic(int(size), SlidingWindow{.right = 4}, AnyShard::contiguous, 4 * size, false).messages == size - 1);
    // size - 1 rows: one rank has none, and sends none.
    CHECK(traffic(int(size), Full{}, AnyShard::striped, size - 1, false).bytes <= (size - 1) * (size - 1));
  }
}

TEST_CASE("schedule: a ring of three, written out") {
  Contiguous const shard;
  Schedule const s = make_schedule(3, Causal{}, shard, shard, {.seq = 6});
  CHECK(s.direction == 1);
  CHECK(s.steps == 3);
  CHECK(s.travel == std::vector<int>{2, 1, 0});
  CHECK(s.need == std::vector<char>{1, 0, 0, 1, 1, 0, 1, 1, 1});
  CHECK(s.owner(0, 1) == 2);
  CHECK(s.owner(2, 1) == 1);
  CHECK(s.last_stop(0) == 2);
  CHECK(s.last_stop(1) == 2);
}
