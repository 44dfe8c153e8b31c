// SPDX-License-Identifier: Apache-2.0
// Packed values lie where the tile products look for them, and no NaN or infinity among them goes unseen.
#include <ringattn/ringattn.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

using namespace ringattn;
using namespace ringattn::cpu;

namespace {

/// n rows of `width` numbers at any strides.
template <class E> struct Source {
  std::vector<E> numbers;
  Slab<E const> slab;
  std::int64_t n;

  Source(std::int64_t n_, int width, std::int64_t dim, std::mt19937& random) : slab(View<E const>{}, 0, 0, 0), n(n_) {
    slab.dim = dim;
    slab.row = width * dim + std::int64_t(random() % 40);
    numbers.resize(size_t(n * slab.row + 64));
    std::normal_distribution<float> normal;
    for (E& x : numbers) x = E(normal(random));
    slab.data = numbers.data();
  }
  E& at(std::int64_t r, int c) { return numbers[size_t(r * slab.row + c * slab.dim)]; }
};

template <class T, class E, int width, int columns, int group> void check_columns(std::mt19937& random) {
  using N = Number<T>;
  constexpr int step = terms_of<T>;
  for (std::int64_t const dim : {1, 1, 3})
    for (int round = 0; round < 8; ++round) {
      std::int64_t const n = 1 + std::int64_t(random() % 40), rows = round_up(n, 2) + 2 * std::int64_t(random() % 5);
      Source<E> source(n, width, dim, random);
      bool const special = round % 2 == 1;
      if (special)
        source.at(std::int64_t(random()) % n, int(random() % width)) =
            E(round % 4 == 1 ? std::numeric_limits<float>::quiet_NaN() : -std::numeric_limits<float>::infinity());
      std::int64_t const depth = rows / step;
      std::vector<T> packed(size_t(columns * depth + 1), operand<T>([](int) { return N(-7.f); }));
      CHECK((pack_columns<width, columns, group>(source.slab, n, rows, packed.data())) == special);
      bool same = true;
      for (int c = 0; c < columns; ++c)
        for (std::int64_t r = 0; r < rows; ++r) {
          int const first = c / group * group, block = std::min(group, columns - first);
          N const expected = c < width && r < n ? convert<N>(source.at(r, c)) : N(0.f);
          N const got = N(number(packed[size_t(first * depth + r / step * block + (c - first))], int(r % step)));
          same = same && std::memcmp(&got, &expected, sizeof got) == 0;
        }
      CHECK(same);
      CHECK(float(number(packed.back(), 0)) == -7);
    }
}

template <class T, class E> void check_all(std::mt19937& random) {
  constexpr int rows = simd::tile_rows, vector = int(64 / sizeof(T));
  check_columns<T, E, 64, 64, rows>(random);
  check_columns<T, E, 80, 80, rows>(random);
  check_columns<T, E, 40, int(round_up(40, rows)), rows>(random);
  check_columns<T, E, 21, int(round_up(21, rows)), rows>(random);
  check_columns<T, E, 72, int(round_up(72, vector)), 2 * vector>(random);
  check_columns<T, E, 128, 128, 2 * vector>(random);
}

}  // namespace

TEST_CASE("columns, block by block") {
  unsigned const seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  check_all<float, float>(random);
  check_all<float, Float16>(random);
  check_all<float, BFloat16>(random);
  check_all<double, double>(random);
#if defined(__AVX512BF16__) && defined(__AVX512F__)
  check_all<simd::BFloat16Pair, BFloat16>(random);
#endif
}

TEST_CASE("16-bit numbers that are special, bit by bit") {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    Float16 half;
    half.bits = std::uint16_t(bits);
    BFloat16 brain;
    brain.bits = std::uint16_t(bits);
    REQUIRE(bool(is_special(half)) == !std::isfinite(float(half)));
    REQUIRE(bool(is_special(brain)) == !std::isfinite(float(brain)));
  }
}
