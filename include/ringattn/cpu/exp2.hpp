// SPDX-License-Identifier: Apache-2.0
// 2^x without branches or calls, so that loops over it become vector code; std::exp2 stays scalar.
#pragma once

#include <cstdint>

#include "../config.hpp"

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "ringattn: compile without -ffast-math and -ffinite-math-only: they fold away exp2's rounding and infinities"
#endif

namespace ringattn::inline RINGATTN_ABI::cpu {

/// a * b + c: rounded once where the target has such an instruction, so that every path rounds alike.
RINGATTN_INLINE float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
RINGATTN_INLINE double fma(double a, double b, double c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// x = n + r with n an integer and |r| <= 1/2; 2^x = 2^n p(r), p with the least largest relative error on [-1/2, 1/2].
// Adding `magic` rounds to an integer and leaves n in the low bits. The clamp puts n where the exponent field is 0 (the
// factor 2^n then is 0) or all ones (infinity), and lets NaN through.

/// Within 1.5 ulp (error of p 1.9e-9); 0 below -126.5, -inf included; infinite from 127.5; NaN for NaN.
RINGATTN_INLINE float exp2(float x) {
  constexpr float magic = 0x1.8p23f;
  x = x < -127.f ? -127.f : x;
  x = x > 128.f ? 128.f : x;
  float const shifted = x + magic;
  float const r = x - (shifted - magic);
  float p = 1.53458121587e-4f;
  p = fma(p, r, 1.33999312095e-3f);
  p = fma(p, r, 9.61848895653e-3f);
  p = fma(p, r, 5.55032877700e-2f);
  p = fma(p, r, 2.40226468906e-1f);
  p = fma(p, r, 6.93147205738e-1f);
  p = fma(p, r, 1.f);
  return p * __builtin_bit_cast(float, (__builtin_bit_cast(std::uint32_t, shifted) + 127u) << 23);
}

/// Within 1.5 ulp (error of p 3e-18); 0 below -1022.5, -inf included; infinite from 1023.5; NaN for NaN.
RINGATTN_INLINE double exp2(double x) {
  constexpr double magic = 0x1.8p52;
  x = x < -1023. ? -1023. : x;
  x = x > 1024. ? 1024. : x;
  double const shifted = x + magic;
  double const r = x - (shifted - magic);
  double p = 4.43528094461033616e-10;
  p = fma(p, r, 7.07410562624565937e-9);
  p = fma(p, r, 1.01781980333285277e-7);
  p = fma(p, r, 1.3215433089594629e-6);
  p = fma(p, r, 1.52527334899608046e-5);
  p = fma(p, r, 1.5403530462514613e-4);
  p = fma(p, r, 1.33335581467899503e-3);
  p = fma(p, r, 9.61812910758833508e-3);
  p = fma(p, r, 5.55041086648199215e-2);
  p = fma(p, r, 2.40226506959101562e-1);
  p = fma(p, r, 6.9314718055994533e-1);
  p = fma(p, r, 1.);
  return p * __builtin_bit_cast(double, (__builtin_bit_cast(std::uint64_t, shifted) + 1023u) << 52);
}

}  // namespace ringattn::cpu
