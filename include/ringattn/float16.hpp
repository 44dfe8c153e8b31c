// SPDX-License-Identifier: Apache-2.0
// The two 16-bit floating-point formats as storage types: converted to fp32 to compute, rounded to nearest even.
#pragma once

#include <cstdint>
#include <type_traits>

#include "config.hpp"

#if defined(__F16C__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace ringattn::inline RINGATTN_ABI {

/// bfloat16: fp32 with 8 bits of mantissa. Layout-compatible with __nv_bfloat16.
struct BFloat16 {
  std::uint16_t bits = 0;

  BFloat16() = default;
  RINGATTN_HD constexpr explicit BFloat16(float x) {
    auto const u = __builtin_bit_cast(std::uint32_t, x);
    std::uint32_t const rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    bool const nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = std::uint16_t(nan ? (u >> 16) | 0x40u : rounded);
  }
  RINGATTN_HD constexpr explicit operator float() const { return __builtin_bit_cast(float, std::uint32_t(bits) << 16); }
  RINGATTN_HD constexpr explicit operator double() const { return double(float(*this)); }
};

/// IEEE binary16. Layout-compatible with __half.
struct Float16 {
  std::uint16_t bits = 0;

  Float16() = default;
  RINGATTN_HD constexpr explicit Float16(float x) : bits(encode(x)) {}
  RINGATTN_HD constexpr explicit operator float() const { return decode(bits); }
  RINGATTN_HD constexpr explicit operator double() const { return double(float(*this)); }

 private:
  RINGATTN_HD static constexpr std::uint16_t encode(float x) {
#if defined(__F16C__) && !defined(__CUDACC__)
    if (!std::is_constant_evaluated()) return std::uint16_t(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#endif
    auto const u = __builtin_bit_cast(std::uint32_t, x);
    std::uint32_t const sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return std::uint16_t(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return std::uint16_t(sign | 0x7c00u);  // rounds past 65504, or is infinite
    if (magnitude < 0x38800000u) {                                       // subnormal in fp16: add 0.5 to shift the bits
      std::uint32_t const half = 0x3f000000u;
      float const sum = __builtin_bit_cast(float, magnitude) + __builtin_bit_cast(float, half);
      return std::uint16_t(sign | (__builtin_bit_cast(std::uint32_t, sum) - half));
    }
    std::uint32_t const rebased = magnitude - 0x38000000u;
    return std::uint16_t(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
  }
  RINGATTN_HD static constexpr float decode(std::uint16_t h) {
#if defined(__F16C__) && !defined(__CUDACC__)
    if (!std::is_constant_evaluated()) return _cvtsh_ss(h);
#endif
    std::uint32_t const sign = std::uint32_t(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) return __builtin_bit_cast(float, sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    // 2^112 puts the fp16 exponent where fp32 has it, subnormals included.
    float const scaled = __builtin_bit_cast(float, magnitude << 13) * __builtin_bit_cast(float, 0x77800000u);
    return __builtin_bit_cast(float, sign | __builtin_bit_cast(std::uint32_t, scaled));
  }
};

/// Significant bits of a format, for "at least as wide as" in the precision contract; -1 if it is not a number to us.
template <class T> inline constexpr int mantissa_bits = -1;
template <> inline constexpr int mantissa_bits<BFloat16> = 8;
template <> inline constexpr int mantissa_bits<Float16> = 11;
template <> inline constexpr int mantissa_bits<float> = 24;
template <> inline constexpr int mantissa_bits<double> = 53;

}  // namespace ringattn
