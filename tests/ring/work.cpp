// SPDX-License-Identifier: Apache-2.0
// Who computes how much: causal about half of full, and under zigzag every rank the same in every step.
#include <ringattn/cpu/backend.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "../conformance.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

/// A Cpu that notes the pairs of every step.
class Counting : public Cpu {
 public:
  std::vector<int64_t> steps;

  template <class K> void step(AttendStep<K, HostSpace> const& s) {
    note([&] { Cpu::step<K>(s); });
  }
  template <class K> void step_backward(BackwardStep<K, HostSpace> const& s) {
    note([&] { Cpu::step_backward<K>(s); });
  }

 private:
  template <class F> void note(F f) {
    reset_computed_pairs();
    f();
    steps.push_back(computed_pairs());
  }
};

template <class Mask_, class Shard_> struct Pol : Policy {
  using Mask = Mask_;
  using Shard = Shard_;
  using Backend = Counting;
  using Tiles = FixedTiles<16, 16>;
  static constexpr int head_dim = 8;
};

/// [rank][step], forward then backward.
template <class P> std::vector<std::vector<int64_t>> pairs(int ranks, int64_t seq) {
  auto const setup = make_setup<P>({.problem = {.seq = seq}}, InputClass::normal, 1);
  std::vector<std::vector<int64_t>> all(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](InProcess& comm) {
    Counting backend;
    run_rank<P>(backend, comm, setup);
    all[size_t(comm.rank())] = backend.steps;
  });
  return all;
}

int64_t total(std::vector<std::vector<int64_t>> const& all) {
  int64_t n = 0;
  for (auto const& steps : all)
    for (int64_t s : steps) n += s;
  return n;
}

}  // namespace

TEST_CASE("work: zigzag gives every rank the same in every step, forward and backward") {
  for (int ranks : {2, 3, 4, 8}) {
    CAPTURE(ranks);
    auto const all = pairs<Pol<Causal, ZigZag>>(ranks, 64 * ranks);
    REQUIRE(all[0].size() == size_t(2 * ranks));
    for (size_t step = 0; step < all[0].size(); ++step)
      for (auto const& rank : all) CHECK(rank[step] == all[0][step]);
    // After the first step all blocks are either fully visible or not at all: n^2 / 2 pairs for n rows per rank.
    for (int step = 1; step < ranks; ++step) CHECK(all[0][size_t(step)] == 64 * 64 / 2);
  }
}

TEST_CASE("work: causal does about half of full; contiguous leaves it to the late ranks, zigzag and striped do not") {
  int64_t const seq = 512;
  int64_t const full = total(pairs<Pol<Full, Contiguous>>(4, seq));
  CHECK(full == 2 * seq * seq);  // forward and backward
  auto const busiest = [](std::vector<std::vector<int64_t>> const& all) {
    int64_t most = 0;
    for (auto const& steps : all) {
      int64_t n = 0;
      for (int64_t s : steps) n += s;
      most = std::max(most, n);
    }
    return double(most) * double(all.size()) / double(total(all));
  };
  auto const contiguous = pairs<Pol<Causal, Contiguous>>(4, seq), zigzag = pairs<Pol<Causal, ZigZag>>(4, seq),
             striped = pairs<Pol<Causal, Striped>>(4, seq);
  for (auto const* causal : {&contiguous, &zigzag}) {
    CHECK(total(*causal) >= full / 2);
    CHECK(double(total(*causal)) <= 0.54 * double(full));
  }
  CHECK(double(total(striped)) <= 0.60 * double(full));  // every block touches the diagonal
  CHECK(busiest(contiguous) > 1.5);
  CHECK(busiest(zigzag) == 1.0);
  CHECK(busiest(striped) < 1.05);
}

TEST_CASE("work: a window costs its width, not the sequence") {
  struct Window : Pol<SlidingWindow, Contiguous> {};
  auto const setup = make_setup<Window>({.problem = {.seq = 1024}, .mask = {.left = 32}}, InputClass::normal, 1);
  int64_t n = 0;
  std::vector<int64_t> all(4);
  run_ranks(4, [&](InProcess& comm) {
    Counting backend;
    run_rank<Window>(backend, comm, setup);
    for (int64_t s : backend.steps) all[size_t(comm.rank())] += s;
  });
  for (int64_t x : all) n += x;
  CHECK(n <= 2 * 1024 * (33 + 2 * 16));
}
