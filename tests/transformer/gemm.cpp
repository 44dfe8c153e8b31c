// SPDX-License-Identifier: Apache-2.0
// Matrix products against the definition, for every operand order, with strides and beta.
#include <ringattn/transformer/gemm.hpp>

#include "gradients.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

template <class G, class T> void check_products(std::uint64_t seed, double tolerance) {
  CAPTURE(seed);
  Random random(seed);
  for (int trial = 0; trial < 60; ++trial) {
    int64_t const m = random.below(9), n = 1 + random.below(40), k = 1 + random.below(40), pad = random.below(4);
    Op const op_a = random.below(2) ? Op::plain : Op::transposed, op_b = random.below(2) ? Op::plain : Op::transposed;
    T const beta = T(random.below(3)) / 2;
    auto const make = [&](int64_t rows, int64_t cols) {
      std::vector<T> x(static_cast<size_t>((rows + 1) * (cols + pad)));
      for (T& v : x) v = T(random.normal());
      return x;
    };
    int64_t const a_cols = op_a == Op::plain ? k : m, a_rows = op_a == Op::plain ? m : k;
    int64_t const b_cols = op_b == Op::plain ? n : k, b_rows = op_b == Op::plain ? k : n;
    auto const a_memory = make(a_rows, a_cols), b_memory = make(b_rows, b_cols);
    auto c_memory = make(m, n);
    Matrix<T const> const a(a_memory.data(), a_rows, a_cols, a_cols + pad),
        b(b_memory.data(), b_rows, b_cols, b_cols + pad);
    Matrix<T> const c(c_memory.data(), m, n, n + pad);
    std::vector<T> expected = c_memory;
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = beta == T(0) ? 0 : double(beta) * double(c(i, j));
        for (int64_t l = 0; l < k; ++l)
          sum += double(op_a == Op::plain ? a(i, l) : a(l, i)) * double(op_b == Op::plain ? b(l, j) : b(j, l));
        expected[size_t(i * (n + pad) + j)] = T(sum);
      }
    if (beta == T(0))
      for (int64_t i = 0; i < m; ++i) c(i, 0) = T(NAN);  // must not be read
    G{}(op_a, a, op_b, b, beta, c);
    CHECK(difference(c_memory, expected) < tolerance);
  }
}

}  // namespace

TEST_CASE("gemm: plain loops") {
  check_products<PlainGemm, float>(11, 1e-5);
  check_products<PlainGemm, double>(12, 1e-14);
}

TEST_CASE("gemm: the default, BLAS where there is one") {
  check_products<DefaultGemm, float>(13, 1e-5);
  check_products<DefaultGemm, double>(14, 1e-14);
}
