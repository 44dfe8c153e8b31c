// SPDX-License-Identifier: Apache-2.0
// Blockwise cross-entropy against whole logits, gradients along random directions, any block sizes, ignored targets.
#include <ringattn/transformer/cross_entropy.hpp>

#include "gradients.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

constexpr int64_t tokens = 13, width = 5, vocabulary = 21;

struct Case {
  Numbers x, w;
  std::vector<std::int32_t> targets;
};
Case make_case(std::uint64_t seed) {
  Random random(seed);
  Case c{random_numbers(random, tokens * width), random_numbers(random, vocabulary * width), {}};
  for (int64_t t = 0; t < tokens; ++t) c.targets.push_back(t % 4 == 1 ? -1 : std::int32_t(random.below(vocabulary)));
  return c;
}

}  // namespace

TEST_CASE("cross_entropy: dense loss and gradients, for every pair of block sizes") {
  std::uint64_t const seed = 51;
  CAPTURE(seed);
  Random random(seed + 1);
  Case c = make_case(seed);
  double expected = 0;
  int64_t counted = 0;
  Numbers expected_lse;
  for (int64_t t = 0; t < tokens; ++t) {
    long double sum = 0;
    Numbers logits;
    for (int64_t v = 0; v < vocabulary; ++v) {
      logits.push_back(0);
      for (int64_t i = 0; i < width; ++i) logits.back() += c.x[size_t(t * width + i)] * c.w[size_t(v * width + i)];
      sum += std::exp((long double)logits.back());
    }
    expected_lse.push_back(double(std::log(sum)));
    if (c.targets[size_t(t)] < 0) continue;
    expected += expected_lse.back() - logits[size_t(c.targets[size_t(t)])];
    ++counted;
  }

  for (int64_t const token_block : {1, 4, 13, 64})
    for (int64_t const vocabulary_block : {1, 8, 20, 21, 100}) {
      CAPTURE(token_block);
      CAPTURE(vocabulary_block);
      CrossEntropy<double> ce(
          {.vocabulary = vocabulary, .token_block = token_block, .vocabulary_block = vocabulary_block});
      Numbers lse(tokens), dx(c.x.size(), 7.0), dw(c.w.size());
      auto const x = matrix(c.x, tokens, width), w = matrix(c.w, vocabulary, width);
      auto const loss = ce.forward(x, w, c.targets, lse);
      CHECK(loss.tokens == counted);
      CHECK(loss.sum == doctest::Approx(expected).epsilon(1e-13));
      CHECK(difference(lse, expected_lse) < 1e-14);
      double const scale = 0.25;
      ce.backward(x, w, c.targets, lse, scale, matrix(dx, tokens, width), matrix(dw, vocabulary, width));
      auto const f = [&] { return scale * ce.forward(x, w, c.targets, lse).sum; };
      CHECK(gradient_error(random, f, {{&c.x, &dx}, {&c.w, &dw}}) < 1e-8);
      for (int64_t t = 0; t < tokens; ++t)
        if (c.targets[size_t(t)] < 0)
          for (int64_t i = 0; i < width; ++i) CHECK(dx[size_t(t * width + i)] == 0.0);
    }
}

TEST_CASE("cross_entropy: float stays close to double, large logits do not overflow") {
  Case c = make_case(52);
  for (double& v : c.x) v *= 60;
  std::vector<float> const x(c.x.begin(), c.x.end()), w(c.w.begin(), c.w.end());
  Numbers const xd(x.begin(), x.end()), wd(w.begin(), w.end());
  std::vector<float> lse(tokens), dx(x.size()), dw(w.size());
  Numbers lse_d(tokens), dx_d(x.size()), dw_d(w.size());
  CrossEntropy<float> single({.vocabulary = vocabulary, .token_block = 4, .vocabulary_block = 8});
  CrossEntropy<double> exact({.vocabulary = vocabulary});
  auto const a = single.forward({x.data(), tokens, width}, {w.data(), vocabulary, width}, c.targets, lse);
  auto const b = exact.forward(matrix(xd, tokens, width), matrix(wd, vocabulary, width), c.targets, lse_d);
  CHECK(a.sum == doctest::Approx(b.sum).epsilon(1e-6));
  single.backward({x.data(), tokens, width}, {w.data(), vocabulary, width}, c.targets, lse, 1,
                  {dx.data(), tokens, width}, {dw.data(), vocabulary, width});
  exact.backward(matrix(xd, tokens, width), matrix(wd, vocabulary, width), c.targets, lse_d, 1,
                 matrix(dx_d, tokens, width), matrix(dw_d, vocabulary, width));
  CHECK(difference(dx, dx_d) < 1e-4);
  CHECK(difference(dw, dw_d) < 1e-4);
}

TEST_CASE("cross_entropy: NaN reaches the loss; impossible words count for nothing") {
  Case c = make_case(53);
  Numbers lse(tokens);
  CrossEntropy<double> ce({.vocabulary = vocabulary, .vocabulary_block = 4});
  auto const run = [&] {
    return ce.forward(matrix(c.x, tokens, width), matrix(c.w, vocabulary, width), c.targets, lse).sum;
  };
  c.x.assign(c.x.size(), 0.0);
  for (int64_t t = 0; t < tokens; ++t) c.x[size_t(t * width)] = 1;
  for (int64_t v = 0; v < 8; ++v) c.w[size_t(v * width)] = -INFINITY;  // two whole blocks of impossible words
  for (std::int32_t& t : c.targets) t = 9;
  CHECK(std::isfinite(run()));
  double sum = 0;
  for (int64_t v = 8; v < vocabulary; ++v) sum += std::exp(c.w[size_t(v * width)]);
  CHECK(lse[0] == doctest::Approx(std::log(sum)).epsilon(1e-14));
  c.x[0] = NAN;
  CHECK(std::isnan(run()));
}

TEST_CASE("cross_entropy: what is wrong is said") {
  Case c = make_case(54);
  Numbers lse(tokens);
  CrossEntropy<double> ce({.vocabulary = vocabulary});
  c.targets[2] = vocabulary;
  CHECK_THROWS_AS(ce.forward(matrix(c.x, tokens, width), matrix(c.w, vocabulary, width), c.targets, lse), Error);
  CHECK_THROWS_AS(CrossEntropy<double>({.vocabulary = 0}), Error);
}
