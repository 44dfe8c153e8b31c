// SPDX-License-Identifier: Apache-2.0
// exp2: error in ulp over its range, and the special values.
#include <ringattn/cpu/exp2.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace ringattn;

namespace {

template <class T, class Wide> double worst_ulp(T low, T high, int steps) {
  double worst = 0;
  for (int i = 0; i <= steps; ++i) {
    T const x = low + (high - low) * (T(i) / T(steps));
    Wide const exact = std::exp2(Wide(x));
    T const next = std::nextafter(T(exact), std::numeric_limits<T>::infinity());
    double const ulp = double(next - T(exact));
    worst = std::max(worst, double(std::abs(Wide(cpu::exp2(x)) - exact)) / ulp);
  }
  return worst;
}

}  // namespace

TEST_CASE("exp2 within 1.5 ulp") {
  CHECK(worst_ulp<float, double>(-126.f, 127.f, 2000003) < 1.5);
  CHECK(worst_ulp<float, double>(-1.f, 1.f, 2000003) < 1.5);
  CHECK(worst_ulp<double, long double>(-1022., 1023., 1000003) < 1.5);
  CHECK(worst_ulp<double, long double>(-1., 1., 1000003) < 1.5);
}

TEST_CASE_TEMPLATE("exp2 of special values", T, float, double) {
  T const inf = std::numeric_limits<T>::infinity();
  CHECK(cpu::exp2(-inf) == 0);
  CHECK_FALSE(std::signbit(cpu::exp2(-inf)));
  CHECK(cpu::exp2(inf) == inf);
  CHECK(std::isnan(cpu::exp2(std::numeric_limits<T>::quiet_NaN())));
  CHECK(cpu::exp2(T(0)) == 1);
  CHECK(cpu::exp2(T(-0.)) == 1);
  CHECK(cpu::exp2(T(-1e30)) == 0);
  CHECK(cpu::exp2(T(1e30)) == inf);
  for (int n = -126; n <= 127; ++n) CHECK(cpu::exp2(T(n)) == std::ldexp(T(1), n));
}
