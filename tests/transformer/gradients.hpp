// SPDX-License-Identifier: Apache-2.0
// Random matrices, comparison, and gradients checked along random directions.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "inputs.hpp"
#include "ringattn/transformer/matrix.hpp"

namespace ringattn::test {

using Numbers = std::vector<double>;

inline Numbers random_numbers(Random& random, int64_t n, double scale = 1) {
  Numbers x(static_cast<size_t>(n));
  for (double& v : x) v = scale * random.normal();
  return x;
}

inline Matrix<double> matrix(Numbers& x, int64_t rows, int64_t cols) { return {x.data(), rows, cols}; }
inline Matrix<double const> matrix(Numbers const& x, int64_t rows, int64_t cols) { return {x.data(), rows, cols}; }

inline double inner(Numbers const& a, Numbers const& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// Largest difference, relative to the largest magnitude of `b`.
template <class A, class B> double difference(std::vector<A> const& a, std::vector<B> const& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0, size = 1e-300;
  for (size_t i = 0; i < a.size(); ++i) {
    double const d = std::abs(double(a[i]) - double(b[i]));
    worst = d == d ? std::max(worst, d) : INFINITY;
    size = std::max(size, std::abs(double(b[i])));
  }
  return worst / size;
}

/// One variable of a function and its gradient as the code under test gives it.
struct Variable {
  Numbers* value;
  Numbers const* gradient;
};

/// Relative difference between the slope of f along random directions and what the gradients say. f reads the
/// variables where they are. Central differences of fourth order.
inline double gradient_error(Random& random, std::function<double()> const& f, std::vector<Variable> const& variables,
                             int directions = 3, double step = 1e-3) {
  double worst = 0;
  for (int trial = 0; trial < directions; ++trial) {
    std::vector<Numbers> direction, saved;
    double expected = 0, size = 0;
    for (Variable const& v : variables) {
      direction.push_back(random_numbers(random, int64_t(v.value->size())));
      saved.push_back(*v.value);
      double const part = inner(*v.gradient, direction.back());
      expected += part;
      size += std::abs(part);
    }
    auto const at = [&](double t) {
      for (size_t i = 0; i < variables.size(); ++i)
        for (size_t j = 0; j < saved[i].size(); ++j) (*variables[i].value)[j] = saved[i][j] + t * direction[i][j];
      return f();
    };
    double const slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
    for (size_t i = 0; i < variables.size(); ++i) *variables[i].value = saved[i];
    worst = std::max(worst, std::abs(slope - expected) / std::max(size, 1e-300));
  }
  return worst;
}

}  // namespace ringattn::test
