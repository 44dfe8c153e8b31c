// SPDX-License-Identifier: Apache-2.0
// The bitwise contract of Cpu: what a row's result may depend on (its key tiles in order) and what it may not.
#include "cases.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

using C32 = Kernel<Fp32, Causal, Plain, DefaultTiles, 24, 40>;
using C16 = Kernel<Bf16, SlidingWindow, Soft, FixedTiles<24, 20>, 16, 16>;
using C64 = Kernel<Fp64, Full, Plain, DefaultTiles, 16, 16>;
// Whole vectors of numbers, which few rows multiply where they lie.
using D32 = Kernel<Fp32, Causal, Soft, DefaultTiles, 32, 48>;
using D16 = Kernel<Bf16, Causal, Soft, FixedTiles<48, 40>, 64, 32>;

/// Enough heads and rows for several chunks of panels in every (batch, key/value head).
template <class K> Case<K> example(std::uint64_t seed) {
  Case<K> c;
  c.batch = 2;
  c.heads = 6;
  c.kv_heads = 2;
  c.q_rows = {{0, 1, 130}, {140, 2, 75}};
  c.k_rows = {{0, 1, 150}, {151, 2, 40}, {300, 1, 1}, {260, 1, 30}};
  if constexpr (std::is_same_v<typename K::Mask, SlidingWindow>) c.mask = {100, 30};
  c.fill(seed);
  return c;
}

template <class T> bool same_bytes(std::vector<T> const& x, std::vector<T> const& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0;
}

template <class T> std::vector<T> rows_of(std::vector<T> const& x, int64_t from, int64_t n, int64_t width) {
  return {x.begin() + from * width, x.begin() + (from + n) * width};
}

}  // namespace

TEST_CASE_TEMPLATE("any number of threads, own or the user's", K, C32, C16, C64) {
  auto const c = example<K>(11);
  Cpu one;
  auto const expected = c.run(one);
  check_against_oracle(c, expected);
  for (int threads : {2, 3, 8}) {
    CAPTURE(threads);
    Cpu cpu({.threads = threads});
    CHECK(c.run(cpu) == expected);
    CHECK(cpu.computed_pairs() == one.computed_pairs());
  }
  // A user's executor that runs the bodies one after the other, last first.
  Cpu reversed({.threads = 4, .run = [](int n, std::function<void(int)> const& body) {
                  while (n > 0) body(--n);
                }});
  CHECK(c.run(reversed) == expected);
  Cpu spawning({.threads = 3, .run = [](int n, std::function<void(int)> const& body) {
                  std::vector<std::thread> threads;
                  for (int i = 0; i < n; ++i) threads.emplace_back(body, i);
                  for (auto& t : threads) t.join();
                }});
  CHECK(c.run(spawning) == expected);
}

TEST_CASE_TEMPLATE("run to run, and any strides", K, C32, C16, C64) {
  auto c = example<K>(12);
  Cpu cpu;
  auto const expected = c.run(cpu);
  for (c.layout = 0; c.layout < 4; ++c.layout) CHECK(c.run(cpu) == expected);
}

TEST_CASE_TEMPLATE("one step with runs [a, b, ...] is step [a], step [b], ...", K, C32, C16, C64) {
  auto const c = example<K>(13);
  Cpu cpu;
  auto const expected = c.run(cpu);
  CHECK(c.run(cpu, {1, 1, 1, 1}) == expected);
  CHECK(c.run(cpu, {2, 2}) == expected);
  CHECK(c.run(cpu, {1, 3}) == expected);
  CHECK(c.run(cpu, {0, 4}) == expected);  // a step without keys does nothing
}

TEST_CASE_TEMPLATE("other rows do not matter", K, C32, C16, C64) {
  auto const all = example<K>(14);
  Cpu cpu;
  auto const expected = all.run(cpu);
  // The second run of queries alone, in other tiles: rows 10 .. 74 of it.
  Case<K> part = all;
  part.batch = 1;
  part.q_rows = {all.q_rows[1].slice(10, 65)};
  auto const rows = [&](auto const& x, int64_t width) { return rows_of(x, 140, 65, all.heads * width); };
  part.in.q = rows(all.in.q, K::head_dim);
  part.in.dout = rows(all.in.dout, K::value_dim);
  auto const keys = [&](auto const& x, int64_t width) { return rows_of(x, 0, all.k_count(), all.kv_heads * width); };
  part.in.k = keys(all.in.k, K::head_dim);
  part.in.v = keys(all.in.v, K::value_dim);
  auto const got = part.run(cpu);
  CHECK(same_bytes(got.out, rows(expected.out, K::value_dim)));
  CHECK(same_bytes(got.lse, rows(expected.lse, 1)));
  CHECK(same_bytes(got.dq, rows(expected.dq, K::head_dim)));
}

// So few rows are computed with other register tiles, those of heads that share keys together, and many keys by several
// threads at once.
TEST_CASE_TEMPLATE("few rows against many keys", K, C32, C16, C64, D32, D16) {
  Case<K> all;
  all.heads = 5;
  all.kv_heads = 1;
  all.q_rows = {{1100, 1, 131}};
  all.k_rows = {{0, 1, 1300}, {1300, 2, 300}, {5, 3, 17}};
  if constexpr (std::is_same_v<typename K::Mask, SlidingWindow>) all.mask = {700, 300};
  all.fill(16);
  Cpu one;
  auto const expected = all.run(one);
  check_against_oracle(all, expected);
  CHECK(all.run(one, {1, 1, 1}) == expected);
  for (int64_t n : {1, 2, 3, 8, 9, 16, 20, 47}) {
    int64_t const first = 131 - n - n % 5;
    Case<K> part = all;
    part.layout = int(n % 5) % 4;
    part.q_rows = {all.q_rows[0].slice(first, n)};
    auto const rows = [&](auto const& x, int64_t width) { return rows_of(x, first, n, all.heads * width); };
    part.in.q = rows(all.in.q, K::head_dim);
    part.in.dout = rows(all.in.dout, K::value_dim);
    for (int threads : {1, 2, 7}) {
      CAPTURE(n);
      CAPTURE(threads);
      Cpu cpu({.threads = threads});
      auto const got = part.run(cpu);
      CHECK(part.run(cpu, {2, 1}) == got);
      CHECK(same_bytes(got.out, rows(expected.out, K::value_dim)));
      CHECK(same_bytes(got.lse, rows(expected.lse, 1)));
      CHECK(same_bytes(got.dq, rows(expected.dq, K::head_dim)));
    }
  }
}

// More heads to one key head than a chunk has room for panels of 48 rows, and runs of different lengths in one chunk.
TEST_CASE_TEMPLATE("few rows of many heads", K, C32, C16, D32, D16) {
  Case<K> all;
  all.heads = 140;
  all.kv_heads = 1;
  all.q_rows = {{700, 1, 12}};
  all.k_rows = {{0, 1, 430}, {430, 2, 150}};
  if constexpr (std::is_same_v<typename K::Mask, SlidingWindow>) all.mask = {400, 100};
  all.fill(17);
  Cpu one;
  auto const expected = all.run(one);
  check_against_oracle(all, expected);
  for (std::vector<Rows> const& runs : {std::vector<Rows>{{700, 1, 1}}, {{702, 1, 2}, {705, 1, 1}, {706, 2, 3}}}) {
    Case<K> part = all;
    part.q_rows = runs;
    auto const rows = [&](auto const& x, int64_t width) {
      std::remove_cvref_t<decltype(x)> some;
      for (Rows const& r : runs)
        for (int64_t i = 0; i < r.count; ++i) {
          auto const row = rows_of(x, r.at(i) - 700, 1, all.heads * width);
          some.insert(some.end(), row.begin(), row.end());
        }
      return some;
    };
    part.in.q = rows(all.in.q, K::head_dim);
    part.in.dout = rows(all.in.dout, K::value_dim);
    for (int threads : {1, 2, 7}) {
      CAPTURE(runs.size());
      CAPTURE(threads);
      Cpu cpu({.threads = threads});
      auto const got = part.run(cpu);
      CHECK(same_bytes(got.out, rows(expected.out, K::value_dim)));
      CHECK(same_bytes(got.lse, rows(expected.lse, 1)));
      CHECK(same_bytes(got.dq, rows(expected.dq, K::head_dim)));
    }
  }
}

TEST_CASE("accumulate and copy") {
  for (int threads : {1, 3}) {
    Cpu cpu({.threads = threads});
    int64_t const n = 100001;
    std::vector<float> mine(static_cast<size_t>(n));
    std::vector<BFloat16> arriving(static_cast<size_t>(n)), sum(static_cast<size_t>(n));
    Random r(15);
    for (auto& x : mine) x = float(r.normal());
    for (auto& x : arriving) x = BFloat16(float(r.normal()));
    bool same = true;
    cpu.accumulate(mine.data(), static_cast<BFloat16 const*>(arriving.data()), sum.data(), n);
    for (size_t i = 0; i < mine.size(); ++i) same = same && sum[i].bits == BFloat16(mine[i] + float(arriving[i])).bits;
    CHECK(same);
    cpu.accumulate(mine.data(), static_cast<BFloat16 const*>(arriving.data()), arriving.data(), n);  // in place
    CHECK(same_bytes(arriving, sum));
    cpu.accumulate(mine.data(), static_cast<BFloat16 const*>(nullptr), sum.data(), n);
    for (size_t i = 0; i < mine.size(); ++i) same = same && sum[i].bits == BFloat16(mine[i]).bits;
    CHECK(same);
    cpu.accumulate(mine.data(), static_cast<float const*>(nullptr), mine.data(), 0);

    Extents const e{2, 300, 5, 24};
    for (int from = 0; from < 4; ++from)
      for (int to = 0; to < 4; ++to) {
        Strided<float> x(e, from), y(e, to);
        Strided<Float16> z(e, to);
        x.set(std::vector<float>(mine.begin(), mine.begin() + e.count()));
        cpu.copy(std::as_const(x).view(), y.view());
        CHECK(y.get() == x.get());
        cpu.copy(x.view(), z.view());
        auto const half = z.get();
        for (size_t i = 0; i < half.size(); ++i) same = same && half[i].bits == Float16(mine[i]).bits;
        CHECK(same);
      }
    CHECK_THROWS_AS(cpu.copy(View<float>(mine.data(), {1, 2, 3, 4}), View<float>(mine.data(), {1, 2, 3, 5})), Error);
  }
}
