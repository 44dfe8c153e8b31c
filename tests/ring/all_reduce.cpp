// SPDX-License-Identifier: Apache-2.0
// The sum over ranks is made in rank order: the same bits on every rank, whatever the count and the arrivals.
#include <ringattn/comm/in_process.hpp>
#include <ringattn/comm/solo.hpp>
#include <ringattn/ring/all_reduce.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "../inputs.hpp"

using namespace ringattn;

TEST_CASE("all-reduce: the bits of a plain loop over ranks") {
  for (int size : {1, 2, 3, 4, 5, 8})
    for (int64_t count : {0, 1, 2, 7, 8, 100}) {
      CAPTURE(size);
      CAPTURE(count);
      std::vector<std::vector<float>> values(static_cast<size_t>(size));
      test::Random random(std::uint64_t(100 * size + count));
      for (auto& v : values)
        for (int64_t i = 0; i < count; ++i) v.push_back(float(random.normal() * std::exp2(10 * random.normal())));
      std::vector<float> expected = values[0];
      for (int r = 1; r < size; ++r)
        for (size_t i = 0; i < expected.size(); ++i) expected[i] += values[size_t(r)][i];
      for (bool chaos : {false, true}) {
        auto mine = values;
        RunOptions options{.deadline = std::chrono::seconds(10)};
        if (chaos) options.chaos = {.seed = 3, .delay = std::chrono::microseconds(200), .poison = true};
        run_ranks(
            size,
            [&](InProcess& comm) {
              AllReduce<float, InProcess> sum(comm, 100);
              sum(mine[size_t(comm.rank())]);
            },
            options);
        for (auto const& v : mine)
          CHECK((v.empty() || std::memcmp(v.data(), expected.data(), v.size() * sizeof(float)) == 0));
      }
    }
}

TEST_CASE("all-reduce: more than planned is an error") {
  Solo solo;
  AllReduce<double, Solo> sum(solo, 3);
  std::vector<double> four(4);
  CHECK_THROWS_AS(sum(four), Error);
  std::vector<double> three = {1, 2, 3};
  sum(three);
  CHECK(three == std::vector<double>{1, 2, 3});
  // The other rank does not wait for the deadline.
  std::atomic<int> aborted{0};
  run_ranks(2, [&](InProcess& comm) {
    AllReduce<double, InProcess> pair(comm, 3);
    std::vector<double> values(comm.rank() == 0 ? 4 : 3);
    try {
      pair(values);
    } catch (Error const& e) {
      aborted += e.code() == (comm.rank() == 0 ? ErrorCode::invalid_argument : ErrorCode::aborted);
    }
  });
  CHECK(aborted == 2);
}
