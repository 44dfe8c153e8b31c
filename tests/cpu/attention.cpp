// SPDX-License-Identifier: Apache-2.0
// Cpu against the dense oracle: precisions, masks, dimensions, strides, runs, scores and sizes that do not fit the
// tiles.
#include "cases.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

template <class K> void compare(Case<K> c, std::uint64_t seed, InputClass kind = InputClass::normal) {
  CAPTURE(seed);
  CAPTURE(K::head_dim);
  CAPTURE(K::value_dim);
  CAPTURE(c.q_count());
  CAPTURE(c.k_count());
  CAPTURE(c.heads);
  CAPTURE(c.kv_heads);
  CAPTURE(c.layout);
  c.fill(seed, kind);
  Cpu cpu;
  check_against_oracle(c, c.run(cpu));
}

/// Runs of random stride, start and length.
std::vector<Rows> random_runs(Random& r, int64_t most) {
  std::vector<Rows> runs;
  int64_t at = r.below(5);
  for (int64_t n = 1 + r.below(3); n > 0; --n) {
    Rows const x{at, 1 + r.below(3), 1 + r.below(most)};
    runs.push_back(x);
    at = x.last() + 1 + r.below(20);
  }
  return runs;
}

template <class Precision, class Mask, int head_dim, int value_dim, class Score = Plain, class Tiles = DefaultTiles>
void random_cases(std::uint64_t seed, int count, auto make_mask) {
  using K = Kernel<Precision, Mask, Score, Tiles, head_dim, value_dim>;
  Random r(seed);
  for (int i = 0; i < count; ++i) {
    Case<K> c;
    c.batch = 1 + r.below(2);
    c.kv_heads = 1 + r.below(2);
    c.heads = c.kv_heads * (1 + r.below(3));
    c.q_rows = random_runs(r, 90);
    c.k_rows = random_runs(r, 200);
    c.layout = int(r.below(4));
    c.mask = make_mask(r);
    compare(c, r.bits());
  }
}

Full full(Random&) { return {}; }
Causal causal(Random& r) { return {r.below(80) - 40}; }
SlidingWindow window(Random& r) { return {r.below(60), r.below(20), r.below(40) - 20}; }

}  // namespace

TEST_CASE_TEMPLATE("random shapes", P, Fp64, Fp32, Bf16, Fp16) {
  random_cases<P, Full, 16, 16>(101, 4, full);
  random_cases<P, Causal, 64, 64>(102, 4, causal);
  random_cases<P, SlidingWindow, 24, 40>(103, 4, window);
  random_cases<P, Causal, 1, 1>(104, 2, causal);
}

TEST_CASE("dimensions") {
  random_cases<Fp32, Causal, 8, 8>(201, 2, causal);
  random_cases<Fp32, Causal, 24, 24>(202, 2, causal);
  random_cases<Fp32, Causal, 80, 80>(203, 2, causal);
  random_cases<Fp32, Causal, 128, 128>(204, 2, causal);
  random_cases<Fp32, Causal, 192, 128>(205, 2, causal);
  random_cases<Fp64, Causal, 192, 128>(206, 1, causal);
  random_cases<Fp32, Causal, 256, 256>(207, 1, causal);
  random_cases<Fp32, Causal, 1, 7>(208, 2, causal);
  random_cases<Fp32, Causal, 13, 5>(209, 2, causal);
}

TEST_CASE("tiles") {
  random_cases<Fp32, Causal, 16, 16, Plain, FixedTiles<16, 16>>(301, 3, causal);
  random_cases<Fp32, SlidingWindow, 16, 16, Plain, FixedTiles<5, 7>>(302, 3, window);
  random_cases<Fp64, Causal, 16, 16, Plain, FixedTiles<1, 1>>(303, 1, causal);
  random_cases<Bf16, SlidingWindow, 16, 16, Plain, FixedTiles<100, 33>>(304, 3, window);
}

TEST_CASE("scores other than the plain one") {
  random_cases<Fp32, Causal, 32, 32, Soft>(401, 3, causal);
  random_cases<Fp64, SlidingWindow, 16, 24, Soft>(402, 3, window);
}

TEST_CASE("one query row") {
  using K = Kernel<Fp32, Causal, Plain, DefaultTiles, 64, 64>;
  compare(Case<K>{.heads = 8, .kv_heads = 2, .q_rows = {{300, 1, 1}}, .k_rows = {{0, 1, 301}}}, 501);
  compare(Case<K>{.q_rows = {{0, 1, 1}}, .k_rows = {{0, 1, 1}}}, 502);
}

TEST_CASE("inputs that strain the softmax") {
  using K = Kernel<Fp32, Causal, Plain, DefaultTiles, 64, 64>;
  using W = Kernel<Fp64, SlidingWindow, Plain, DefaultTiles, 32, 32>;
  for (int kind = 0; kind < int(input_class_names.size()); ++kind) {
    CAPTURE(input_class_names[size_t(kind)]);
    compare(Case<K>{.heads = 2, .q_rows = {{0, 1, 150}}, .k_rows = {{0, 1, 150}}}, 600 + kind, InputClass(kind));
    compare(Case<W>{.q_rows = {{0, 1, 100}}, .k_rows = {{0, 1, 100}}, .mask = {30, 5}}, 700 + kind, InputClass(kind));
  }
}

TEST_CASE("scores of 1e4 do not overflow") {
  using K = Kernel<Fp32, Full, Plain, DefaultTiles, 16, 16>;
  Case<K> c{.q_rows = {{0, 1, 70}}, .k_rows = {{0, 1, 150}}};
  c.fill(801);
  for (auto& x : c.in.q) x = float(x * 100);
  for (auto& x : c.in.k) x = float(x * 40);
  Cpu cpu;
  auto const got = c.run(cpu);
  check_against_oracle(c, got);
  CHECK(c.oracle().largest_score > 1e4);
}

TEST_CASE("rows that see no key are zero") {
  using K = Kernel<Fp32, Causal, Plain, DefaultTiles, 16, 16>;
  Case<K> c{.heads = 2, .kv_heads = 1, .q_rows = {{0, 1, 80}}, .k_rows = {{40, 1, 80}}};
  c.fill(901);
  Cpu cpu;
  auto const got = c.run(cpu);
  check_against_oracle(c, got);
  for (size_t i = 0; i < 40 * 2 * 16; ++i) CHECK((got.out[i] == 0 && got.dq[i] == 0));
  for (size_t i = 0; i < 40 * 2; ++i) CHECK(got.lse[i] == -std::numeric_limits<double>::infinity());
  for (size_t i = 40 * 16; i < got.dk.size(); ++i) CHECK((got.dk[i] == 0 && got.dv[i] == 0));  // seen by nobody
}

TEST_CASE_TEMPLATE("rows that see one key only have gradients of exactly 0", P, Fp64, Fp32, Bf16, Fp16) {
  using K = Kernel<P, SlidingWindow, Plain, DefaultTiles, 24, 37>;
  if (cpu::RegisterTile<typename cpu::Sizes<K>::T>::matrix) return;  // they add in an order of their own
  Case<K> c{.heads = 2, .kv_heads = 1, .q_rows = {{0, 1, 101}}, .k_rows = {{0, 1, 101}}, .mask = {0, 0}};
  c.fill(904);
  Cpu cpu;
  auto const got = c.run(cpu);
  CHECK(std::all_of(got.dq.begin(), got.dq.end(), [](auto x) { return double(cpu::convert<float>(x)) == 0; }));
  CHECK(std::all_of(got.dk.begin(), got.dk.end(), [](auto x) { return x == 0; }));
}

TEST_CASE("no query rows, no key rows, no keys in the mask") {
  using K = Kernel<Fp32, Causal, Plain, DefaultTiles, 16, 16>;
  Cpu cpu;
  Case<K> c{.k_rows = {{0, 1, 20}}};
  c.fill(1001);
  auto got = c.run(cpu);
  CHECK(got.dk == std::vector<double>(20 * 16));
  CHECK(got.dv == std::vector<double>(20 * 16));
  c = {.q_rows = {{0, 1, 20}}};
  c.fill(1002);
  got = c.run(cpu);
  CHECK(got.out == std::vector<float>(20 * 16));
  CHECK(got.dq == std::vector<float>(20 * 16));
  c = {.q_rows = {{0, 1, 20}}, .k_rows = {{100, 1, 20}}};
  c.fill(1003);
  got = c.run(cpu);
  CHECK(got.out == std::vector<float>(20 * 16));
  CHECK(got.dk == std::vector<double>(20 * 16));
}

TEST_CASE("a causal mask costs half") {
  using F = Kernel<Fp32, Full, Plain, DefaultTiles, 16, 16>;
  using C = Kernel<Fp32, Causal, Plain, DefaultTiles, 16, 16>;
  Cpu cpu;
  Case<F> f{.q_rows = {{0, 1, 2048}}, .k_rows = {{0, 1, 2048}}};
  f.fill(1101);
  f.run(cpu);
  CHECK(cpu.computed_pairs() == 2 * 2048 * 2048);  // forward and backward
  cpu.reset_computed_pairs();
  Case<C> c{.q_rows = {{0, 1, 2048}}, .k_rows = {{0, 1, 2048}}};
  c.fill(1102);
  c.run(cpu);
  CHECK(cpu.computed_pairs() >= 2048 * 2049);
  CHECK(cpu.computed_pairs() < 1.05 * 2048 * 2048);
}
