// SPDX-License-Identifier: Apache-2.0
// Narrow floating-point formats as bit patterns, with every rounding that cvt knows.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace emulator {

enum Round : uint8_t { nearest_even, toward_zero, down, up, nearest_away };

inline float flush(float a) { return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0f, a) : a; }

/// Rounds to a format with `mantissa` stored bits and `exponent` exponent bits; the pattern is sign, exponent,
/// mantissa.
inline uint32_t narrow(double value, int exponent, int mantissa, Round round) {
  uint32_t const sign = std::signbit(value) ? 1u << (exponent + mantissa) : 0;
  uint32_t const infinity = ((1u << exponent) - 1) << mantissa;
  if (std::isnan(value)) return infinity | ((1u << mantissa) - 1);  // the hardware's NaN: all ones
  if (std::isinf(value)) return sign | infinity;
  double const magnitude = std::fabs(value);
  if (magnitude == 0) return sign;
  int const bias = (1 << (exponent - 1)) - 1, smallest = 1 - bias;
  int const e = std::max(std::ilogb(magnitude), smallest);
  double const scaled = std::ldexp(magnitude, mantissa - e);  // one unit is one step of the format
  double whole = std::floor(scaled);
  double const rest = scaled - whole;
  bool const negative = sign != 0;
  if (round == nearest_even   ? rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2) == 1)
      : round == nearest_away ? rest >= 0.5
      : round == up           ? rest > 0 && !negative
      : round == down         ? rest > 0 && negative
                              : false) {
    whole += 1;
  }
  // A carry into the exponent comes out right by adding.
  int64_t const pattern = (int64_t{e - smallest} << mantissa) + static_cast<int64_t>(whole);
  if (pattern >= infinity) {
    bool const to_largest = round == toward_zero || (round == up && negative) || (round == down && !negative);
    return sign | (to_largest ? infinity - 1 : infinity);
  }
  return sign | static_cast<uint32_t>(pattern);
}

inline float f16_to_float(uint16_t bits) {
  uint32_t const magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
  if (magnitude >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
  float const scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;  // subnormals come out right as well
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(scaled));
}
inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

inline uint16_t to_f16(double value, Round round = nearest_even) {
  return static_cast<uint16_t>(narrow(value, 5, 10, round));
}
inline uint16_t to_bf16(double value, Round round = nearest_even) {
  return static_cast<uint16_t>(narrow(value, 8, 7, round));
}
inline uint16_t float_to_bf16(float value) {  // nearest even, the common case
  uint32_t const bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
/// tf32 occupies an f32's upper 19 bits; only nearest-even and nearest-away exist.
inline uint32_t to_tf32(float value, Round round) {
  if (std::isnan(value)) return 0x7fffffff;
  return narrow(value, 8, 10, round) << 13;
}
inline float tf32_operand(uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); }  // what mma reads

}  // namespace emulator
