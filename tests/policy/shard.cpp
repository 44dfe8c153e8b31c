// SPDX-License-Identifier: Apache-2.0
// Shards against tables written by hand, and against their promise: every row once, for any length and ring size.
#include <ringattn/policy/shard.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

using namespace ringattn;

namespace {

template <class Shard> std::vector<int64_t> rows_of(int rank, int size, int64_t seq) {
  std::vector<int64_t> all;
  for (Rows const& r : Shard{}.rows(Ring{rank, size}, seq))
    for (int64_t i = 0; i < r.count; ++i) all.push_back(r.at(i));
  return all;
}

template <class Shard> void every_row_once() {
  for (int size : {1, 2, 3, 4, 5, 7, 8, 16})
    for (int64_t seq : {0, 1, 2, 3, 5, 7, 15, 16, 17, 31, 62, 100, 840, 900, 1050}) {
      std::vector<int> seen(static_cast<size_t>(seq), 0);
      int64_t least = seq, most = 0;
      for (int rank = 0; rank < size; ++rank) {
        auto const rows = rows_of<Shard>(rank, size, seq);
        for (int64_t row : rows) {
          REQUIRE(row >= 0);
          REQUIRE(row < seq);
          ++seen[size_t(row)];
        }
        for (Rows const& r : Shard{}.rows(Ring{rank, size}, seq)) {
          CHECK(r.count > 0);
          CHECK(r.stride >= 1);
        }
        least = std::min(least, int64_t(rows.size()));
        most = std::max(most, int64_t(rows.size()));
      }
      CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
      CHECK(most - least <= 2);  // two chunks of zigzag may each be one row longer
    }
}

using List = std::vector<int64_t>;

}  // namespace

TEST_CASE("shard: contiguous") {
  CHECK(rows_of<Contiguous>(0, 2, 6) == List{0, 1, 2});
  CHECK(rows_of<Contiguous>(1, 2, 6) == List{3, 4, 5});
  CHECK(rows_of<Contiguous>(0, 3, 7) == List{0, 1});
  CHECK(rows_of<Contiguous>(1, 3, 7) == List{2, 3});
  CHECK(rows_of<Contiguous>(2, 3, 7) == List{4, 5, 6});
  CHECK(rows_of<Contiguous>(0, 4, 1) == List{});
  CHECK(rows_of<Contiguous>(3, 4, 1) == List{0});
  every_row_once<Contiguous>();
}

TEST_CASE("shard: zigzag") {
  CHECK(rows_of<ZigZag>(0, 2, 8) == List{0, 1, 6, 7});
  CHECK(rows_of<ZigZag>(1, 2, 8) == List{2, 3, 4, 5});
  CHECK(rows_of<ZigZag>(0, 3, 6) == List{0, 5});
  CHECK(rows_of<ZigZag>(1, 3, 6) == List{1, 4});
  CHECK(rows_of<ZigZag>(2, 3, 6) == List{2, 3});
  CHECK(rows_of<ZigZag>(0, 1, 4) == List{0, 1, 2, 3});
  CHECK(ZigZag{}.rows(Ring{0, 1}, 4).size() == 2);  // runs are never merged: tiles do not cross them
  every_row_once<ZigZag>();
}

TEST_CASE("shard: striped") {
  CHECK(rows_of<Striped>(0, 3, 7) == List{0, 3, 6});
  CHECK(rows_of<Striped>(1, 3, 7) == List{1, 4});
  CHECK(rows_of<Striped>(2, 3, 7) == List{2, 5});
  CHECK(rows_of<Striped>(2, 3, 2) == List{});
  every_row_once<Striped>();
}

TEST_CASE("shard: fingerprints differ") {
  CHECK(Contiguous{}.fingerprint() != ZigZag{}.fingerprint());
  CHECK(Contiguous{}.fingerprint() != Striped{}.fingerprint());
  CHECK(ZigZag{}.fingerprint() != Striped{}.fingerprint());
}

TEST_CASE("rows: affine runs, slices and counts") {
  constexpr Rows r{3, 4, 5};  // 3 7 11 15 19
  CHECK(r.at(2) == 11);
  CHECK(r.last() == 19);
  CHECK(r.slice(1, 3) == Rows{7, 4, 3});
  Runs<2> runs;
  runs.add({0, 1, 0});
  CHECK(runs.size() == 0);
  runs.add(r);
  CHECK(count_rows(runs) == 5);
}
