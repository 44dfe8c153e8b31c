// SPDX-License-Identifier: Apache-2.0
// The feed-forward block against its formula, gradients along random directions, any block size.
#include <ringattn/transformer/feed_forward.hpp>

#include "gradients.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double silu(double x) { return x / (1 + std::exp(-x)); }

template <class Activation> void check_block(double (*formula)(double, double)) {
  std::uint64_t const seed = 41;
  CAPTURE(seed);
  Random random(seed);
  int64_t const tokens = 11, width = 6, hidden = 10, inputs = Activation::inputs;
  Numbers x = random_numbers(random, tokens * width), up = random_numbers(random, width * inputs * hidden, 0.5),
          down = random_numbers(random, hidden * width);
  Numbers const dy = random_numbers(random, tokens * width);
  using FFN = FeedForward<double, Activation>;
  FeedForwardWeights<double> const w{matrix(up, width, inputs * hidden), matrix(down, hidden, width)};

  Numbers first_dx, first_dup;
  for (int64_t const block : {1, 4, 11, 100}) {
    CAPTURE(block);
    FFN ffn({.width = width, .hidden = hidden, .block = block});
    Numbers y(x.size());
    auto const run = [&] {
      std::fill(y.begin(), y.end(), 0.0);
      ffn.forward(w, matrix(x, tokens, width), matrix(y, tokens, width));
    };
    run();
    Numbers expected(x.size());
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t j = 0; j < hidden; ++j) {
        double u[2] = {0, 0};
        for (int64_t c = 0; c < inputs; ++c)
          for (int64_t i = 0; i < width; ++i)
            u[c] += x[size_t(t * width + i)] * up[size_t(i * inputs * hidden + c * hidden + j)];
        for (int64_t i = 0; i < width; ++i)
          expected[size_t(t * width + i)] += formula(u[0], u[1]) * down[size_t(j * width + i)];
      }
    CHECK(difference(y, expected) < 1e-13);

    Numbers dx(x.size()), dup(up.size()), ddown(down.size());
    ffn.backward(w, {matrix(dup, width, inputs * hidden), matrix(ddown, hidden, width)}, matrix(x, tokens, width),
                 matrix(dy, tokens, width), matrix(dx, tokens, width));
    auto const f = [&] {
      run();
      return inner(y, dy);
    };
    CHECK(gradient_error(random, f, {{&x, &dx}, {&up, &dup}, {&down, &ddown}}) < 1e-8);
    if (first_dx.empty()) {
      first_dx = dx;
      first_dup = dup;
    }
    CHECK(difference(dx, first_dx) < 1e-14);
    CHECK(difference(dup, first_dup) < 1e-13);
  }
}

}  // namespace

TEST_CASE("feed_forward: GELU") {
  check_block<Gelu>([](double u, double) { return gelu(u); });
}
TEST_CASE("feed_forward: SwiGLU") {
  check_block<SwiGlu>([](double gate, double value) { return silu(gate) * value; });
}

TEST_CASE("feed_forward: with a matrix product of the user's") {
  Random random(42);
  Numbers const x = random_numbers(random, 5 * 4), up = random_numbers(random, 4 * 6),
                down = random_numbers(random, 3 * 4);
  FeedForwardWeights<double const> const w{matrix(up, 4, 6), matrix(down, 3, 4)};
  Numbers a(x.size()), b(x.size());
  FeedForward<double, SwiGlu, PlainGemm>({.width = 4, .hidden = 3}).forward(w, matrix(x, 5, 4), matrix(a, 5, 4));
  FeedForward<double, SwiGlu>({.width = 4, .hidden = 3}).forward(w, matrix(x, 5, 4), matrix(b, 5, 4));
  CHECK(difference(a, b) < 1e-14);
}

TEST_CASE("feed_forward: float activations keep float's precision") {
  for (float x = -90; x <= 90; x += 0.37f) {
    CAPTURE(x);
    double const exact = std::exp(double(x)), error = (2 + std::abs(double(x))) * 1.2e-7 * exact;
    if (x > -86 && x < 88) CHECK(std::abs(double(detail::vector_exp(x)) - exact) <= error);
    float const in[2] = {x, 1};
    float out = 0;
    SwiGlu::forward(in, &out, 1);
    CHECK(std::abs(double(out) - silu(x)) <= 1e-5 * std::abs(silu(x)) + 1e-30);
    Gelu::forward(in, &out, 1);
    CHECK(std::abs(double(out) - gelu(x)) <= 4e-6 * std::abs(double(x)));
  }
  CHECK(std::isnan(detail::vector_exp(NAN)));
}

TEST_CASE("feed_forward: what is wrong is said") {
  CHECK_THROWS_AS((FeedForward<float>({.width = 0, .hidden = 4})), Error);
  CHECK_THROWS_AS((FeedForward<float>({.width = 4, .hidden = 4, .block = 0})), Error);
}
