// SPDX-License-Identifier: Apache-2.0
// 2^x without branches or calls, so that loops over it become vector code; std::exp2 stays scalar.
#pragma once

#include <cstdint>
#include <iterator>
#include <type_traits>

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

/// x = n + r with n an integer and |r| <= 1/2; 2^x = 2^n p(r), p with the least largest relative error on [-1/2, 1/2]:
/// 1.9e-9 for float, 3e-18 for double. Highest power first.
template <class A> struct Exp2Polynomial;
template <> struct Exp2Polynomial<float> {
  static constexpr float terms[] = {1.53458121587e-4f,
                                    1.33999312095e-3f,
                                    9.61848895653e-3f,
                                    5.55032877700e-2f,
                                    2.40226468906e-1f,
                                    6.93147205738e-1f,
                                    1.f};
};
template <> struct Exp2Polynomial<double> {
  static constexpr double terms[] = {4.43528094461033616e-10, 7.07410562624565937e-9, 1.01781980333285277e-7,
                                     1.3215433089594629e-6,   1.52527334899608046e-5, 1.5403530462514613e-4,
                                     1.33335581467899503e-3,  9.61812910758833508e-3, 5.55041086648199215e-2,
                                     2.40226506959101562e-1,  6.9314718055994533e-1,  1.};
};
/// The same for the weights of a softmax: n = floor(x), 0 <= r < 1, so that an instruction which scales by 2^floor(x)
/// needs no n; and exactly 1 at 0. Least largest relative errors: 8.2e-8 for float, 3e-18 for double; 2.9e-6 where
/// weights are rounded to bfloat16 and only their sum is not.
template <class A> struct WeightPolynomial;
template <> struct WeightPolynomial<float> {
  static constexpr float terms[] = {1.86713008191e-3f, 9.01703028444e-3f, 5.57999131460e-2f,
                                    2.40164450136e-1f, 6.93151311808e-1f, 1.f};
};
template <> struct WeightPolynomial<double> {
  static constexpr double terms[] = {6.2724344648028895648e-10, 6.5544571626548391491e-9, 1.0254457379414550223e-7,
                                     1.3208193495747121518e-6,  1.5253190248831243385e-5, 1.5403511446490552452e-4,
                                     1.3333558661575757352e-3,  9.6181290987926217100e-3, 5.5504108665711140550e-2,
                                     2.4022650695905471359e-1,  6.9314718055994623460e-1, 1.};
};
struct BFloat16WeightPolynomial {
  static constexpr float terms[] = {1.34266842506e-2f, 5.22424742691e-2f, 2.41280204723e-1f, 6.93044844908e-1f, 1.f};
};

/// How a format holds 2^n: adding `magic` rounds to an integer and leaves it in the low bits; `bias` and `mantissa` say
/// where the exponent is. The clamp puts n where the exponent field is 0 (the factor 2^n then is 0) or all ones
/// (infinity), and lets NaN through.
template <class A> struct Exp2Format;
template <> struct Exp2Format<float> {
  using Bits = std::uint32_t;
  static constexpr float magic = 0x1.8p23f, low = -127.f, high = 128.f;
  static constexpr int mantissa = 23, bias = 127;
};
template <> struct Exp2Format<double> {
  using Bits = std::uint64_t;
  static constexpr double magic = 0x1.8p52, low = -1023., high = 1024.;
  static constexpr int mantissa = 52, bias = 1023;
};

/// Within 1.5 ulp. Of float: 0 below -126.5, -inf included; infinite from 127.5; NaN for NaN. Of double: 0 below
/// -1022.5, infinite from 1023.5.
template <class A>
requires std::is_floating_point_v<A> RINGATTN_INLINE A exp2(A x) {
  using Format = Exp2Format<A>;
  using Bits = typename Format::Bits;
  x = x < Format::low ? Format::low : x;
  x = x > Format::high ? Format::high : x;
  A const shifted = x + Format::magic, r = x - (shifted - Format::magic);
  A p = Exp2Polynomial<A>::terms[0];
  for (unsigned i = 1; i < std::size(Exp2Polynomial<A>::terms); ++i) p = fma(p, r, Exp2Polynomial<A>::terms[i]);
  return p * __builtin_bit_cast(A, Bits(__builtin_bit_cast(Bits, shifted) + Bits(Format::bias)) << Format::mantissa);
}

}  // namespace ringattn::cpu
