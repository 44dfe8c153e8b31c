// SPDX-License-Identifier: Apache-2.0
// Random numbers by counter: number i of a seed does not depend on who asks, in which order, or on how many ranks.
#pragma once

#include <cmath>
#include <cstdint>

namespace example {

/// The output function of SplitMix64 (Steele, Lea and Flood 2014) applied to seed and counter.
inline std::uint64_t random_bits(std::uint64_t seed, std::uint64_t counter) {
  std::uint64_t z = seed * 0xd1342543de82ef95u + (counter + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// U(0, 1]
inline double random_uniform(std::uint64_t seed, std::uint64_t counter) {
  return double((random_bits(seed, counter) >> 11) + 1) * 0x1p-53;
}

/// N(0, 1), Box and Muller 1958
inline double random_normal(std::uint64_t seed, std::uint64_t counter) {
  double const radius = std::sqrt(-2 * std::log(random_uniform(seed, 2 * counter)));
  return radius * std::cos(6.283185307179586 * random_uniform(seed, 2 * counter + 1));
}

}  // namespace example
