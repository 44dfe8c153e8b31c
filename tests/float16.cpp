// SPDX-License-Identifier: Apache-2.0
// The 16-bit formats: every bit pattern, rounding to nearest even, and the compile-time path against the run-time one.
#include <ringattn/float16.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "inputs.hpp"

using namespace ringattn;

namespace {

template <class T> T from_bits(int bits) {
  T x;
  x.bits = std::uint16_t(bits);
  return x;
}

/// The value of a bit pattern, from the definition of the format.
template <class T> double meaning(int bits, int exponent_bits, int mantissa) {
  int const bias = (1 << (exponent_bits - 1)) - 1, e = (bits >> mantissa) & ((1 << exponent_bits) - 1);
  int const m = bits & ((1 << mantissa) - 1);
  double const sign = bits & 0x8000 ? -1 : 1;
  if (e == (1 << exponent_bits) - 1) return m ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (e == 0) return sign * std::ldexp(double(m), 1 - bias - mantissa);
  return sign * std::ldexp(double((1 << mantissa) + m), e - bias - mantissa);
}

template <class T> void every_pattern(int exponent_bits, int mantissa) {
  int wrong = 0;
  for (int bits = 0; bits < 0x10000; ++bits) {
    T const x = from_bits<T>(bits);
    double const value = meaning<T>(bits, exponent_bits, mantissa);
    if (std::isnan(value)) {
      wrong += !std::isnan(float(x)) || !std::isnan(float(T(float(x))));
      continue;
    }
    wrong += double(x) != value || std::signbit(float(x)) != ((bits & 0x8000) != 0);
    wrong += T(float(x)).bits != bits;
    // Between two neighbours: the nearer one, and the even one half way.
    if ((bits & 0x7fff) == ((1 << exponent_bits) - 1) << mantissa) continue;
    double const next = meaning<T>(bits + 1, exponent_bits, mantissa);
    if (!std::isfinite(next)) continue;
    float const middle = float((value + next) / 2), less = std::nextafter(middle, float(value)),
                more = std::nextafter(middle, float(next));
    wrong += T(middle).bits != (bits & 1 ? bits + 1 : bits);
    wrong += T(less).bits != bits;
    wrong += T(more).bits != bits + 1;
  }
  CHECK(wrong == 0);
}

// What the compiler computes must be what the processor computes.
constexpr float samples[] = {0.f,   -0.f,  1.f,      1.0001f,  -3.14159f, 65504.f, 65519.9f, 65520.f,
                             1e-8f, 6e-8f, 5.96e-8f, 2.98e-8f, 6.1e-5f,   1e38f,   3.4e38f,  -1e-40f};
constexpr auto encoded = [] {
  std::array<std::uint16_t, std::size(samples)> out{};
  for (size_t i = 0; i < std::size(samples); ++i) out[i] = Float16(samples[i]).bits;
  return out;
}();
constexpr auto decoded = [] {
  std::array<float, std::size(samples)> out{};
  for (size_t i = 0; i < std::size(samples); ++i) out[i] = float(Float16(samples[i]));
  return out;
}();

}  // namespace

TEST_CASE("float16: every bit pattern") { every_pattern<Float16>(5, 10); }
TEST_CASE("bfloat16: every bit pattern") { every_pattern<BFloat16>(8, 7); }

TEST_CASE("float16: compile time equals run time") {
  for (size_t i = 0; i < std::size(samples); ++i) {
    float volatile x = samples[i];
    Float16 const h(x);
    CHECK(h.bits == encoded[i]);
    CHECK(float(h) == decoded[i]);
  }
}

TEST_CASE("float16: out of range is infinite, and bfloat16 keeps NaN") {
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(float(Float16(1e6f)) == inf);
  CHECK(float(Float16(-inf)) == -inf);
  CHECK(std::isnan(float(Float16(nan))));
  CHECK(std::isnan(float(BFloat16(nan))));
  CHECK(float(BFloat16(3.4e38f)) == inf);  // rounds past the largest finite value
  float payload;                           // a NaN whose upper bits alone would read as infinity
  std::uint32_t const bits = 0x7f800001u;
  std::memcpy(&payload, &bits, 4);
  CHECK(std::isnan(float(BFloat16(payload))));
}

TEST_CASE("float16: relative error of normal numbers is at most one unit roundoff") {
  test::Random random(5);
  for (int i = 0; i < 20000; ++i) {
    float const x = float(random.normal()) + 3.f * (random.uniform() < 0.5 ? -1.f : 1.f);
    if (std::abs(x) < 1e-3f) continue;
    REQUIRE(std::abs(float(Float16(x)) - x) <= std::abs(x) * 0x1p-11f);
    REQUIRE(std::abs(float(BFloat16(x)) - x) <= std::abs(x) * 0x1p-8f);
  }
}
