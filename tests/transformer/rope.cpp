// SPDX-License-Identifier: Apache-2.0
// RoPE against rotation of complex numbers, back and forth, and under every shard equal to one device, bit for bit.
#include <ringattn/policy/shard.hpp>
#include <ringattn/transformer/rope.hpp>

#include <complex>

#include "gradients.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

template <class Shard> void same_as_one_device(int64_t seq, int ranks) {
  CAPTURE(seq);
  CAPTURE(ranks);
  Random random(31);
  Extents const whole{2, seq, 3, 6};
  Numbers const x = random_numbers(random, whole.count());
  Rows const all[] = {{0, 1, seq}};
  Numbers expected = x;
  Rope<double>(all, 6, 10000).forward({expected.data(), whole});
  for (int rank = 0; rank < ranks; ++rank) {
    auto const rows = Shard{}.rows(Ring{rank, ranks}, seq);
    std::vector<Rows> const runs(rows.begin(), rows.end());
    Extents const part{2, count_rows(runs), 3, 6};
    Tensor<double> mine(part);
    auto const each = [&](auto f) {
      int64_t local = 0;
      for (Rows const& run : runs)
        for (int64_t i = 0; i < run.count; ++i, ++local)
          for (int64_t b = 0; b < 2; ++b)
            for (int64_t h = 0; h < 3; ++h)
              for (int64_t d = 0; d < 6; ++d) f(mine(b, local, h, d), size_t(((b * seq + run.at(i)) * 3 + h) * 6 + d));
    };
    each([&](double& v, size_t at) { v = x[at]; });
    Rope<double> const rope(runs, 6, 10000);
    rope.forward(mine);
    bool same = true;
    each([&](double& v, size_t at) { same = same && v == expected[at]; });
    CHECK(same);
  }
}

}  // namespace

TEST_CASE("rope: rotates pairs by position times frequency, and back") {
  std::uint64_t const seed = 32;
  CAPTURE(seed);
  Random random(seed);
  for (double const base : {10000.0, 500000.0, 7.0})
    for (int64_t const dim : {2, 8, 34}) {
      Rows const rows[] = {{5, 1, 4}, {1000000007, 3, 2}};  // far positions: angles keep double's precision
      Extents const e{1, 6, 2, dim};
      Numbers const x = random_numbers(random, e.count());
      Numbers y = x;
      Rope<double> const rope(rows, dim, base);
      rope.forward({y.data(), e});
      Numbers expected(x.size());
      for (int64_t s = 0; s < 6; ++s)
        for (int64_t h = 0; h < 2; ++h)
          for (int64_t i = 0; i < dim / 2; ++i) {
            double const position = double(s < 4 ? 5 + s : 1000000007 + 3 * (s - 4));
            size_t const low = size_t((s * 2 + h) * dim + i), high = low + size_t(dim / 2);
            auto const z = std::complex(x[low], x[high]) *
                           std::polar(1.0, position * std::pow(base, -2.0 * double(i) / double(dim)));
            expected[low] = z.real();
            expected[high] = z.imag();
          }
      CHECK(difference(y, expected) < 1e-6);  // positions near 1e9 leave 1e-7 of an angle
      rope.backward({y.data(), e});
      CHECK(difference(y, x) < 1e-14);
    }
}

TEST_CASE("rope: the same bits under every shard") {
  for (int64_t const seq : {0, 1, 7, 24})
    for (int const ranks : {1, 2, 3, 4}) {
      same_as_one_device<Contiguous>(seq, ranks);
      same_as_one_device<ZigZag>(seq, ranks);
      same_as_one_device<Striped>(seq, ranks);
    }
}

TEST_CASE("rope: what is wrong is said") {
  Rows const rows[] = {{0, 1, 4}};
  CHECK_THROWS_AS(Rope<float>(rows, 7, 10000), Error);
  CHECK_THROWS_AS(Rope<float>(rows, 8, 0), Error);
  Tensor<float> x(Extents{1, 3, 1, 8});
  CHECK_THROWS_AS(Rope<float>(rows, 8, 10000).forward(x), Error);
}
