// SPDX-License-Identifier: Apache-2.0
// exp for loops over many numbers: std::exp in double; in float a branch-free version that compilers vectorise.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "../config.hpp"

namespace ringattn::inline RINGATTN_ABI::detail {

inline double vector_exp(double x) { return std::exp(x); }

/// e^x to 1.5 ulp; below -87 it stays at e^-87 (1.6e-38), above 88 at e^88, so that no exponent overflows. NaN gives
/// NaN. x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts (Cody and Waite); e^r by its series.
RINGATTN_INLINE float vector_exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  float const shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer part lands in the low mantissa bits
  float const n = shifted - 12582912.0f;
  float const r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  auto const exponent = (std::bit_cast<std::uint32_t>(shifted) - 0x4b400000u + 127u) << 23;
  return p * std::bit_cast<float>(exponent);
}

}  // namespace ringattn::detail
