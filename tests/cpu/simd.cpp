// SPDX-License-Identifier: Apache-2.0
// The SIMD façade: every operation against scalar code, lane by lane, and the special values that kernels rely on.
#include <ringattn/cpu/instruction_set.hpp>
#include <ringattn/cpu/pack.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

using namespace ringattn;
using simd::Vec;

namespace {

template <class A, class F> std::vector<A> lanes_of(F f) {
  std::vector<A> x(static_cast<size_t>(Vec<A>::lanes));
  f().store(x.data());
  return x;
}

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE_TEMPLATE("arithmetic, lane by lane", A, float, double) {
  unsigned const seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<A> uniform(-4, 4);
  size_t const n = size_t(Vec<A>::lanes);
  for (int round = 0; round < 100; ++round) {
    std::vector<A> a(n), b(n), c(n);
    for (size_t i = 0; i < n; ++i)
      a[i] = uniform(random), b[i] = i % 3 ? uniform(random) : a[i], c[i] = uniform(random);
    auto const x = Vec<A>::load(a.data()), y = Vec<A>::load(b.data()), z = Vec<A>::load(c.data());
    auto const sum = lanes_of<A>([&] { return x + y; }), difference = lanes_of<A>([&] { return x - y; }),
               product = lanes_of<A>([&] { return x * y; }), fma = lanes_of<A>([&] { return simd::fma(x, y, z); }),
               fms = lanes_of<A>([&] { return simd::fms(x, y, z); }),
               max = lanes_of<A>([&] { return simd::max(x, y); }),
               chosen = lanes_of<A>([&] { return simd::where_equal(x, y, z, x); }),
               constant = lanes_of<A>([&] { return Vec<A>::broadcast(a[0]); });
    for (size_t i = 0; i < n; ++i) {
      CHECK(sum[i] == a[i] + b[i]);
      CHECK(difference[i] == a[i] - b[i]);
      CHECK(product[i] == a[i] * b[i]);
      CHECK(fma[i] == cpu::fma(a[i], b[i], c[i]));
      CHECK(fms[i] == cpu::fma(a[i], b[i], -c[i]));
      CHECK(max[i] == std::max(a[i], b[i]));
      CHECK(chosen[i] == (a[i] == b[i] ? c[i] : a[i]));
      CHECK(constant[i] == a[0]);
    }
    CHECK(simd::any_different(x, y));
    CHECK_FALSE(simd::any_different(x, x));
    for (size_t i = 0; i < n; ++i) {
      std::vector<A> d(a);
      d[i] = A(not_a_number);
      CHECK(simd::any_different(x, Vec<A>::load(d.data())));
      CHECK(lanes_of<A>([&] { return simd::max(Vec<A>::load(d.data()), y); })[i] == b[i]);
    }
  }
}

TEST_CASE_TEMPLATE("exp2 of vectors within 2.5 ulp, and of special values", A, float, double) {
  int const n = Vec<A>::lanes;
  A const low = std::is_same_v<A, float> ? A(-125) : A(-1021), high = std::is_same_v<A, float> ? A(126) : A(1022);
  double worst = 0;
  for (int i = 0; i < 200000; ++i) {
    A const x = low + (high - low) * A(i) / A(200000);
    Vec<A> v[3] = {Vec<A>::broadcast(x), Vec<A>::broadcast(x / 64), Vec<A>::zero()};
    simd::exp2<cpu::WeightPolynomial<A>>(v);
    long double const exact = std::exp2((long double)(x));
    double const ulp = double(std::nextafter(A(exact), A(inf)) - A(exact));
    worst = std::max(worst, double(std::abs((long double)(lanes_of<A>([&] { return v[0]; })[0]) - exact)) / ulp);
    CHECK(lanes_of<A>([&] { return v[2]; })[size_t(n - 1)] == 1);
  }
  CHECK(worst < 2.5);
  auto const of = [](double x) {
    Vec<A> v[1] = {Vec<A>::broadcast(A(x))};
    simd::exp2<cpu::WeightPolynomial<A>>(v);
    return double(lanes_of<A>([&] { return v[0]; })[0]);
  };
  CHECK(of(-inf) == 0);
  CHECK_FALSE(std::signbit(of(-inf)));
  CHECK(of(double(std::numeric_limits<A>::lowest())) == 0);
  CHECK(of(inf) == inf);
  CHECK(std::isnan(of(not_a_number)));
}

#if defined(__AVX512BF16__)
TEST_CASE("pairs of bfloat16: products, and both ways of making them") {
  using simd::BFloat16Pair;
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-4, 4);
  float first[16], second[16];
  for (int i = 0; i < 16; ++i) first[i] = uniform(random), second[i] = uniform(random);
  auto const a = Vec<float>::load(first), b = Vec<float>::load(second);
  BFloat16Pair lanes[16], neighbours[16];
  simd::pair_lanes(a, b).store(lanes);
  simd::pair_neighbours(a, b).store(neighbours);
  float sums[16];
  simd::fma(simd::Pairs::load(lanes), simd::Pairs::broadcast(lanes[3]), a).store(sums);
  for (int i = 0; i < 16; ++i) {
    CHECK(lanes[i].first() == float(BFloat16(first[i])));
    CHECK(lanes[i].second() == float(BFloat16(second[i])));
    float const* const from = i < 8 ? first + 2 * i : second + 2 * (i - 8);
    CHECK(neighbours[i].first() == float(BFloat16(from[0])));
    CHECK(neighbours[i].second() == float(BFloat16(from[1])));
    double const exact =
        double(first[i]) + double(lanes[i].first()) * lanes[3].first() + double(lanes[i].second()) * lanes[3].second();
    CHECK(sums[i] == doctest::Approx(exact).epsilon(1e-6));
  }
}
#endif

#if RINGATTN_AMX
namespace {

/// What one product of matrix registers adds to c, bit for bit: `steps` pairs at a time.
template <class A, class B> float multiply(A a, B b, int n, float c) {
  for (int k0 = 0; k0 < n; k0 += simd::tile_steps) {
    float first = 0, second = 0;
    for (int k = k0; k < k0 + simd::tile_steps; ++k) {
      first = cpu::fma(a(k).first(), b(k).first(), first);
      second = cpu::fma(a(k).second(), b(k).second(), second);
    }
    c += first + second;
  }
  return c;
}

template <cpu::Into into, int vectors> void check_products(std::mt19937& random) {
  using simd::BFloat16Pair;
  constexpr int lanes = vectors * simd::tile_side, row = 3 * simd::tile_steps, c_row = 2 * lanes;
  int const rows = 32 * int(1 + random() % 3), n = 16 * int(1 + random() % 3);
  cpu::Stretch const stretch{.count = int(1 + random() % 3), .a = rows * row, .b = row * lanes};
  std::normal_distribution<float> normal;
  auto const some = [&](std::int64_t count) {
    std::vector<BFloat16Pair> x(static_cast<size_t>(count));
    for (auto& p : x) p = BFloat16Pair::of(BFloat16(normal(random)), BFloat16(normal(random)));
    return x;
  };
  auto const a = some(stretch.count * stretch.a), b = some(stretch.count * stretch.b);
  std::vector<float> c(static_cast<size_t>(rows * c_row)), alpha(lanes);
  for (auto* x : {&c, &alpha})
    for (float& y : *x) y = normal(random);
  auto const before = c;
  cpu::tall_product<into, 2, row, 1>(vectors, rows, a.data(), 32 * row, b.data(), n, c.data(), c_row, alpha.data(),
                                     stretch);
  bool same = true;
  for (int i = 0; i < rows; ++i)
    for (int w = 0; w < c_row; ++w) {
      float expected = before[size_t(i * c_row + w)];
      if (w < lanes) {
        if (into == cpu::Into::replace) expected = 0;
        if (into == cpu::Into::rescale_add) expected *= alpha[size_t(w)];
        for (std::int64_t s = 0; s < stretch.count; ++s)
          expected = multiply([&](int k) { return a[size_t(s * stretch.a + i * row + k)]; },
                              [&](int k) { return b[size_t(s * stretch.b + k * lanes + w)]; }, n, expected);
      }
      same = same && c[size_t(i * c_row + w)] == expected;
    }
  CHECK(same);
}

}  // namespace

TEST_CASE("products in matrix registers, bit for bit") {
  REQUIRE(simd::tiles_granted());
  simd::TileScope const registers;
  unsigned const seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    check_products<cpu::Into::replace, 1>(random);
    check_products<cpu::Into::replace, 2>(random);
    check_products<cpu::Into::add, 1>(random);
    check_products<cpu::Into::add, 2>(random);
    check_products<cpu::Into::rescale_add, 1>(random);
    check_products<cpu::Into::rescale_add, 2>(random);
  }
}

// Other libraries of the process keep the shape that they chose.
TEST_CASE("a scope leaves the shape of the matrix registers as it was") {
  REQUIRE(simd::tiles_granted());
  struct alignas(64) Shape {
    std::uint8_t bytes[64] = {1};
  } theirs, after, none;
  for (int t = 0; t < 3; ++t) theirs.bytes[16 + 2 * t] = 48, theirs.bytes[48 + t] = std::uint8_t(5 + t);
  asm volatile("ldtilecfg %0" : : "m"(theirs));
  { simd::TileScope const registers; }
  asm volatile("sttilecfg %0" : "=m"(after));
  CHECK(std::memcmp(&after, &theirs, sizeof after) == 0);
  asm volatile("tilerelease");
  { simd::TileScope const registers; }
  asm volatile("sttilecfg %0" : "=m"(after));
  none.bytes[0] = 0;
  CHECK(std::memcmp(&after, &none, sizeof after) == 0);
}
#endif

TEST_CASE_TEMPLATE("numbers of 16 bits, a vector at a time", E, BFloat16, Float16) {
  constexpr int n = Vec<float>::lanes;
  auto const bits = [](float x) { return __builtin_bit_cast(std::uint32_t, x); };
  std::mt19937 random(std::random_device{}());
  bool wide = true, narrow = true;
  for (std::uint32_t first = 0; first < 65536; first += n) {
    E x[n], back[n];
    float y[n], near[n];
    for (int i = 0; i < n; ++i) x[i].bits = std::uint16_t(first + std::uint32_t(i));
    cpu::load_as<float>(x).store(y);
    for (int i = 0; i < n; ++i) wide = wide && bits(y[i]) == bits(float(x[i]));
    // Every number of 16 bits, halfway to the next one, beside it, and any bits at all.
    int const round = int(first / n % 4);
    for (int i = 0; i < n; ++i) {
      std::uint32_t const near_by = bits(y[i]) + (std::is_same_v<E, BFloat16> ? 0x8000u : 0x1000u) + (round == 2);
      near[i] = __builtin_bit_cast(float, round == 0 ? bits(y[i]) : round == 3 ? std::uint32_t(random()) : near_by);
    }
    cpu::store_as(Vec<float>::load(near), back);
    for (int i = 0; i < n; ++i) narrow = narrow && back[i].bits == E(near[i]).bits;
  }
  CHECK(wide);
  CHECK(narrow);
}

TEST_CASE_TEMPLATE("rows become columns", A, float, double) {
  constexpr int n = Vec<A>::lanes;
  A numbers[n][n];
  Vec<A> x[n];
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) numbers[i][j] = A(100 * i + j);
    x[i] = Vec<A>::load(numbers[i]);
  }
  simd::transpose(x);
  for (int i = 0; i < n; ++i) {
    A row[n];
    x[i].store(row);
    for (int j = 0; j < n; ++j) CHECK(row[j] == numbers[j][i]);
  }
}

TEST_CASE("this CPU has what the tests were compiled for") {
  CHECK(simd::missing_feature(simd::used_features) == nullptr);
}

TEST_CASE("a CPU that lacks a feature is refused by its name, and so are files for different sets") {
  CHECK_NOTHROW(cpu::check_instruction_set(nullptr, 1u << 3));
  CHECK_THROWS_AS(cpu::check_instruction_set(nullptr, 1u << 3 | 1u), Error);
  CHECK_THROWS_WITH_AS(cpu::check_instruction_set("avx9", 1), doctest::Contains("avx9, which the program was compiled"),
                       Error);
#if defined(__x86_64__)
  int lacking = 0;  // some are in no CPU that has the others
  for (int f = 0; f < simd::feature::count; ++f) {
    char const* const missing = simd::missing_feature(std::uint64_t(1) << f);
    CHECK((missing == nullptr || !(simd::used_features >> f & 1u)));
    lacking += missing != nullptr;
  }
  MESSAGE("this CPU lacks ", lacking, " of ", int(simd::feature::count), " features");
#endif
}
