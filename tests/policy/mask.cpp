// SPDX-License-Identifier: Apache-2.0
// Masks against tables written by hand, and their block answers against their pair answers.
#include <ringattn/policy/mask.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

using namespace ringattn;

namespace {

using Table = std::vector<std::string>;  // one string per query, x: visible

template <class Mask> Table table_of(Mask const& mask, int64_t queries, int64_t keys) {
  Table t;
  for (int64_t q = 0; q < queries; ++q) {
    std::string row;
    for (int64_t k = 0; k < keys; ++k) row += mask.visible(q, k) ? 'x' : '.';
    t.push_back(row);
  }
  return t;
}

/// Every block of a few strided rows: none and full must be exact; returns how often none was missed.
template <class Mask> int64_t check_coverage(Mask const& mask, bool ring_strides) {
  int64_t missed = 0;
  auto const each = [](auto f) {
    for (int64_t stride = 1; stride <= 4; ++stride)
      for (int64_t first = 0; first < 7; ++first)
        for (int64_t count = 1; count <= 5; ++count) f(Rows{first, stride, count});
  };

  each([&](Rows q) {
    each([&](Rows k) {
      if (ring_strides && q.stride != k.stride && q.stride != 1 && k.stride != 1) return;
      int64_t seen = 0;
      for (int64_t i = 0; i < q.count; ++i)
        for (int64_t j = 0; j < k.count; ++j) seen += mask.visible(q.at(i), k.at(j));
      Coverage const c = mask.coverage(q, k);
      if (c == Coverage::none) CHECK(seen == 0);
      if (c == Coverage::full) CHECK(seen == q.count * k.count);
      missed += c != Coverage::none && seen == 0;
    });
  });
  return missed;
}

}  // namespace

TEST_CASE("mask: full") { CHECK(table_of(Full{}, 2, 3) == Table{"xxx", "xxx"}); }

TEST_CASE("mask: causal, top left and bottom right aligned") {
  CHECK(table_of(Causal{}, 4, 4) == Table{"x...", "xx..", "xxx.", "xxxx"});
  CHECK(table_of(Causal{}, 2, 4) == Table{"x...", "xx.."});
  CHECK(table_of(Causal{}, 4, 2) == Table{"x.", "xx", "xx", "xx"});
  CHECK(table_of(Causal::bottom_right({.seq = 2, .kv_seq = 4}), 2, 4) == Table{"xxx.", "xxxx"});
  CHECK(table_of(Causal::bottom_right({.seq = 4, .kv_seq = 2}), 4, 2) == Table{"..", "..", "x.", "xx"});
  CHECK(Causal::bottom_right({.seq = 5}).offset == 0);
}

TEST_CASE("mask: sliding window, both sides, both alignments") {
  CHECK(table_of(SlidingWindow{.left = 1, .right = 0}, 4, 4) == Table{"x...", "xx..", ".xx.", "..xx"});
  CHECK(table_of(SlidingWindow{.left = 0, .right = 0}, 3, 3) == Table{"x..", ".x.", "..x"});
  CHECK(table_of(SlidingWindow{.left = 1, .right = 2}, 5, 5) == Table{"xxx..", "xxxx.", ".xxxx", "..xxx", "...xx"});
  CHECK(table_of(SlidingWindow{.left = 0, .right = 1, .offset = 2}, 3, 5) == Table{"..xx.", "...xx", "....x"});
  CHECK(table_of(SlidingWindow{.left = 1, .right = 0, .offset = -2}, 5, 3) == Table{"...", "...", "x..", "xx.", ".xx"});
}

TEST_CASE("mask: coverage agrees with the pairs, for strided rows, too") {
  CHECK(check_coverage(Full{}, false) == 0);
  for (int64_t offset : {-3, 0, 2}) {
    CHECK(check_coverage(Causal{offset}, false) == 0);
    for (int64_t left : {0, 1, 4})
      for (int64_t right : {0, 2}) {
        // Equal strides, or one of them 1: what the shards here ask about. Otherwise a block without a visible pair
        // may pass as partial.
        CHECK(check_coverage(SlidingWindow{left, right, offset}, true) == 0);
        check_coverage(SlidingWindow{left, right, offset}, false);
      }
  }
}

TEST_CASE("mask: fingerprints tell masks and their members apart") {
  std::vector<std::uint64_t> const all = {Full{}.fingerprint(),
                                          Causal{}.fingerprint(),
                                          Causal{1}.fingerprint(),
                                          Causal{-1}.fingerprint(),
                                          SlidingWindow{1, 2, 0}.fingerprint(),
                                          SlidingWindow{2, 1, 0}.fingerprint(),
                                          SlidingWindow{1, 2, 3}.fingerprint()};
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t j = 0; j < i; ++j) CHECK(all[i] != all[j]);
}

TEST_CASE("mask: a window with a negative side is not valid") {
  CHECK(SlidingWindow{0, 0}.invalid() == nullptr);
  CHECK(SlidingWindow{-1, 0}.invalid() != nullptr);
  CHECK(SlidingWindow{0, -1}.invalid() != nullptr);
  int64_t const most = std::numeric_limits<int64_t>::max();
  CHECK(SlidingWindow{most / 16, most / 16, -most / 16}.invalid() == nullptr);
  CHECK(SlidingWindow{0, most}.invalid() != nullptr);
  CHECK(SlidingWindow{0, 0, most}.invalid() != nullptr);
  CHECK(Causal{-most}.invalid() != nullptr);
}
