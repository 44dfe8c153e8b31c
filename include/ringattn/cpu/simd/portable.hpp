// SPDX-License-Identifier: Apache-2.0
// SIMD as plain loops over fixed-size arrays, for every other target: the compiler vectorises what it can.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "../../config.hpp"
#include "exp2_terms.hpp"

namespace ringattn::inline RINGATTN_ABI::simd::inline portable {

inline constexpr char const* name = "portable";

template <class T> struct Vec {
  using Scalar = T;
  static constexpr int lanes = int(16 / sizeof(T));
  T v[lanes];

  RINGATTN_INLINE static Vec load(T const* p) {
    return make([&](int i) { return p[i]; });
  }
  RINGATTN_INLINE static Vec broadcast(T x) {
    return make([&](int) { return x; });
  }
  RINGATTN_INLINE void store(T* p) const {
    for (int i = 0; i < lanes; ++i) p[i] = v[i];
  }
  RINGATTN_INLINE friend Vec operator+(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] + b.v[i]; });
  }
  RINGATTN_INLINE friend Vec operator-(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] - b.v[i]; });
  }
  RINGATTN_INLINE friend Vec operator*(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] * b.v[i]; });
  }
  template <class F> RINGATTN_INLINE static Vec make(F f) {
    Vec r;
    for (int i = 0; i < lanes; ++i) r.v[i] = f(i);
    return r;
  }
};

using F32 = Vec<float>;
using F64 = Vec<double>;

/// a b + c; rounded once or twice, as the target does it.
template <class T> RINGATTN_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return Vec<T>::make([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
template <class T> RINGATTN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return Vec<T>::make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
template <class T> RINGATTN_INLINE bool any_different(Vec<T> a, Vec<T> b) {
  bool different = false;
  for (int i = 0; i < Vec<T>::lanes; ++i) different |= !(a.v[i] == b.v[i]);
  return different;
}
template <class T> RINGATTN_INLINE Vec<T> select(std::uint32_t bits, Vec<T> a, Vec<T> b) {
  return Vec<T>::make([&](int i) { return (bits >> i) & 1u ? a.v[i] : b.v[i]; });
}
template <class T> RINGATTN_INLINE Vec<T> where_equal(Vec<T> a, Vec<T> b, Vec<T> then, Vec<T> otherwise) {
  return Vec<T>::make([&](int i) { return a.v[i] == b.v[i] ? then.v[i] : otherwise.v[i]; });
}

namespace detail {

/// 2^x of one number, without branches. Below the normal range 0; NaN stays.
RINGATTN_INLINE float exp2_one(float x) {
  float const c = x < -127.0f ? -127.0f : x > 128.0f ? 128.0f : x;
  float const magic = 12582912.0f, shifted = c + magic, f = c - (shifted - magic);  // 1.5 * 2^23
  float p = exp2_f32[0];
  for (int k = 1; k < exp2_f32_terms; ++k) p = p * f + exp2_f32[k];
  return p * std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127u) << 23);
}
RINGATTN_INLINE double exp2_one(double x) {
  double const c = x < -1023.0 ? -1023.0 : x > 1024.0 ? 1024.0 : x;
  double const magic = 6755399441055744.0, shifted = c + magic, f = c - (shifted - magic);  // 1.5 * 2^52
  double p = exp2_f64[0];
  for (int k = 1; k < exp2_f64_terms; ++k) p = p * f + exp2_f64[k];
  return p * std::bit_cast<double>((std::bit_cast<std::uint64_t>(shifted) + 1023u) << 52);
}

}  // namespace detail

template <class T, int N> RINGATTN_INLINE void exp2(Vec<T> (&x)[N]) {
  for (int i = 0; i < N; ++i) x[i] = Vec<T>::make([&](int l) { return detail::exp2_one(x[i].v[l]); });
}

}  // namespace ringattn::simd
