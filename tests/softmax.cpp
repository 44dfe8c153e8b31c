// SPDX-License-Identifier: Apache-2.0
// The online-softmax algebra: empty states, invisible scores, NaN, and maxima further apart than exp can hold.
#include <ringattn/softmax.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "inputs.hpp"

using namespace ringattn;

namespace {

double const infinity = std::numeric_limits<double>::infinity();
double const nan_value = std::numeric_limits<double>::quiet_NaN();

/// A row of one-dimensional values, taken score by score.
struct State {
  double o = 0, max = -infinity, sum = 0;

  void see(double score, double value) {
    double const m = softmax::max(max, score), r = softmax::rescale(max, m), w = softmax::weight(score, m);
    o = r * o + w * value;
    sum = r * sum + w;
    max = m;
  }
  double out() const { return o * softmax::normaliser(sum); }
  double lse() const { return softmax::lse(max, sum); }
};

State merged(State const& a, State const& b) {
  auto const m = softmax::merge(a.max, a.sum, b.max, b.sum);
  return {m.left * a.o + m.right * b.o, m.max, m.sum};
}

}  // namespace

TEST_CASE("softmax: a row that saw nothing, or only what is invisible") {
  State s;
  CHECK(s.out() == 0);
  CHECK(s.lse() == -infinity);
  s.see(-infinity, 5);
  CHECK(s.out() == 0);
  CHECK(s.lse() == -infinity);
  s.see(1, 7);
  CHECK(s.out() == 7);
  CHECK(s.lse() == doctest::Approx(softmax::ln_2));
  s.see(-infinity, 1e300);
  CHECK(s.out() == 7);
}

TEST_CASE("softmax: merging with the empty state changes no bit; two empty states are empty") {
  State a;
  a.see(0.3, 1.7);
  a.see(-2.9, 0.2);
  State const empty;
  for (State const& m : {merged(a, empty), merged(empty, a)}) {
    CHECK(m.o == a.o);
    CHECK(m.max == a.max);
    CHECK(m.sum == a.sum);
  }
  State const none = merged(empty, empty);
  CHECK(none.out() == 0);
  CHECK(none.lse() == -infinity);
}

TEST_CASE("softmax: maxima further apart than exp can hold do not overflow") {
  // log(1 + exp(difference)) is infinite here, in either order.
  for (double far : {200.0, 5000.0, 1e30})
    for (double sign : {1.0, -1.0}) {
      State low, high;
      low.see(-sign * far / 2, 3);
      high.see(sign * far / 2, 4);
      for (State const& m : {merged(low, high), merged(high, low)}) {
        CHECK(m.out() == (sign > 0 ? 4 : 3));
        CHECK(m.lse() == doctest::Approx(far / 2 * softmax::ln_2).epsilon(1e-14));
      }
    }
}

TEST_CASE("softmax: NaN reaches its row, from any place in it") {
  for (int place = 0; place < 4; ++place) {
    State s;
    for (int i = 0; i < 4; ++i) s.see(i == place ? nan_value : double(i), 1);
    CHECK(std::isnan(s.out()));
    CHECK(std::isnan(s.lse()));
  }
  CHECK(std::isnan(softmax::max(nan_value, 1.0)));
  CHECK(std::isnan(softmax::max(1.0, nan_value)));
}

TEST_CASE("softmax: an infinite score makes its row NaN, as inf - inf does in a dense computation") {
  State s;
  s.see(1, 1);
  s.see(infinity, 1);
  CHECK(std::isnan(s.out()));
}

TEST_CASE("softmax: in pieces or whole, against the definition") {
  test::Random random(11);
  for (int round = 0; round < 50; ++round) {
    int const n = 1 + int(random.below(40)), cut = int(random.below(n + 1));
    double const amplitude = round % 5 == 0 ? 900 : 3;
    std::vector<double> score, value;
    for (int i = 0; i < n; ++i) {
      score.push_back(amplitude * random.normal());
      value.push_back(random.normal());
    }
    State left, right;
    for (int i = 0; i < n; ++i) (i < cut ? left : right).see(score[size_t(i)], value[size_t(i)]);
    State const m = merged(left, right);
    long double largest = -infinity, sum = 0, out = 0;
    for (double s : score) largest = std::max(largest, static_cast<long double>(s));
    for (int i = 0; i < n; ++i) {
      long double const w = exp2l(score[size_t(i)] - largest);
      sum += w;
      out += w * value[size_t(i)];
    }
    CHECK(std::abs(m.out() - double(out / sum)) < 1e-14);
    CHECK(m.lse() ==
          doctest::Approx(double((largest + log2l(sum)) * static_cast<long double>(softmax::ln_2))).epsilon(1e-14));
  }
}
