// SPDX-License-Identifier: Apache-2.0
// RMSNorm against its formula, its gradient along random directions, and independence of blocking.
#include <ringattn/transformer/rms_norm.hpp>

#include "gradients.hpp"

using namespace ringattn;
using namespace ringattn::test;

TEST_CASE("rms_norm: formula and gradient") {
  std::uint64_t const seed = 21;
  CAPTURE(seed);
  Random random(seed);
  double const epsilon = 1e-3;
  for (int64_t const width : {1, 5, 16, 63, 64, 130}) {
    CAPTURE(width);
    int64_t const rows = 7;
    Numbers x = random_numbers(random, rows * width), gain = random_numbers(random, width);
    Numbers const dy = random_numbers(random, rows * width);
    Numbers y(x.size()), expected(x.size());
    auto const run = [&] { rms_norm(matrix(x, rows, width), matrix(gain, 1, width), epsilon, matrix(y, rows, width)); };
    run();
    for (int64_t i = 0; i < rows; ++i) {
      double square = 0;
      for (int64_t j = 0; j < width; ++j) square += x[size_t(i * width + j)] * x[size_t(i * width + j)];
      for (int64_t j = 0; j < width; ++j)
        expected[size_t(i * width + j)] =
            gain[size_t(j)] * x[size_t(i * width + j)] / std::sqrt(square / double(width) + epsilon);
    }
    CHECK(difference(y, expected) < 1e-14);

    Numbers dx(x.size()), dgain(gain.size());
    rms_norm_backward(matrix(x, rows, width), matrix(gain, 1, width), epsilon, matrix(dy, rows, width),
                      matrix(dx, rows, width), matrix(dgain, 1, width));
    auto const f = [&] {
      run();
      return inner(y, dy);
    };
    CHECK(gradient_error(random, f, {{&x, &dx}, {&gain, &dgain}}) < 1e-8);

    Numbers dx_blocks(x.size()), dgain_blocks(gain.size());  // two calls add up, bit for bit
    for (auto [i, n] : {std::pair<int64_t, int64_t>{0, 3}, {3, 4}})
      rms_norm_backward(matrix(x, rows, width).middle_rows(i, n), matrix(gain, 1, width), epsilon,
                        matrix(dy, rows, width).middle_rows(i, n), matrix(dx_blocks, rows, width).middle_rows(i, n),
                        matrix(dgain_blocks, 1, width));
    CHECK(dx_blocks == dx);
    CHECK(dgain_blocks == dgain);
  }
}
