// SPDX-License-Identifier: Apache-2.0
// SIMD without intrinsics, for every other target: 16 bytes by the compiler's vector extension where it has one.
#pragma once

#include <cstdint>
#include <utility>

#include "../exp2.hpp"
#include "pairs.hpp"

namespace ringattn::inline RINGATTN_ABI::simd::inline portable {

inline constexpr char const* name = "portable";
inline constexpr int vector_bytes = 16, tile_rows = 4, tile_vectors = 2, column_vectors = 2, registers = 16;
inline constexpr bool has_pairs = false;
struct Pairs;

template <class T> struct Vec {
  using Scalar = T;
  static constexpr int lanes = vector_bytes / int(sizeof(T));
#if defined(__GNUC__) && !defined(__CUDACC__)  // NVIDIA's compiler cannot read it
  typedef T Lanes __attribute__((vector_size(vector_bytes)));
#else
  struct Lanes {
    T x[lanes];
    T& operator[](int i) { return x[i]; }
    T operator[](int i) const { return x[i]; }
  };
#endif
  Lanes v;

  template <class F> RINGATTN_INLINE static Vec make(F f) {
    Vec r{};
    for (int i = 0; i < lanes; ++i) r.v[i] = f(i);
    return r;
  }
  RINGATTN_INLINE static Vec zero() { return Vec{}; }
  RINGATTN_INLINE static Vec load(T const* p) {
    Vec r;
    __builtin_memcpy(&r, p, sizeof r);
    return r;
  }
  RINGATTN_INLINE static Vec broadcast(T x) {
    return make([&](int) { return x; });
  }
  RINGATTN_INLINE void store(T* p) const { __builtin_memcpy(p, &v, sizeof v); }
#if defined(__GNUC__) && !defined(__CUDACC__)
  RINGATTN_INLINE friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  RINGATTN_INLINE friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  RINGATTN_INLINE friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
#else
  RINGATTN_INLINE friend Vec operator+(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] + b.v[i]; });
  }
  RINGATTN_INLINE friend Vec operator-(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] - b.v[i]; });
  }
  RINGATTN_INLINE friend Vec operator*(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] * b.v[i]; });
  }
#endif
};

/// a b + c, rounded once where the target does that.
template <class T> RINGATTN_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return Vec<T>::make([&](int i) { return cpu::fma(a.v[i], b.v[i], c.v[i]); });
#else
  return a * b + c;
#endif
}
/// a b - c, rounded once where the target does that.
template <class T> RINGATTN_INLINE Vec<T> fms(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return Vec<T>::make([&](int i) { return cpu::fma(a.v[i], b.v[i], -c.v[i]); });
#else
  return a * b - c;
#endif
}
/// The larger one; b where either is NaN.
template <class T> RINGATTN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return Vec<T>::make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
/// Is any lane different (or NaN)?
template <class T> RINGATTN_INLINE bool any_different(Vec<T> a, Vec<T> b) {
  bool different = false;
  for (int i = 0; i < Vec<T>::lanes; ++i) different |= !(a.v[i] == b.v[i]);
  return different;
}
/// `then` in lanes where a == b, else `otherwise`.
template <class T> RINGATTN_INLINE Vec<T> where_equal(Vec<T> a, Vec<T> b, Vec<T> then, Vec<T> otherwise) {
  return Vec<T>::make([&](int i) { return a.v[i] == b.v[i] ? then.v[i] : otherwise.v[i]; });
}

/// 2^x of n vectors by a polynomial on [0, 1). 0 at -inf; NaN stays.
template <class Polynomial, int n, class T> RINGATTN_INLINE void exp2(Vec<T> (&x)[n]) {
  using Format = cpu::Exp2Format<T>;
  using Bits = typename Format::Bits;
  for (int i = 0; i < n; ++i) {
    x[i] = Vec<T>::make([&](int l) {
      T const low = Format::low + T(0.5), y = x[i].v[l] < low ? low : T(x[i].v[l]);
      return y > Format::high ? Format::high : y;
    });
    // The integer nearest to x - 1/2; the polynomial bears an r of exactly 1.
    Vec<T> const magic = Vec<T>::broadcast(Format::magic), shifted = x[i] - Vec<T>::broadcast(T(0.5)) + magic;
    Vec<T> const r = x[i] - (shifted - magic);
    Vec<T> p = Vec<T>::broadcast(Polynomial::terms[0]);
    for (unsigned k = 1; k < std::size(Polynomial::terms); ++k) p = fma(p, r, Vec<T>::broadcast(Polynomial::terms[k]));
    for (int l = 0; l < Vec<T>::lanes; ++l) {
      Bits const field = Bits(__builtin_bit_cast(Bits, T(shifted.v[l])) + Bits(Format::bias)) << Format::mantissa;
      x[i].v[l] = p.v[l] * __builtin_bit_cast(T, field);
    }
  }
}

inline constexpr int set = 0;  ///< a number for each set of layouts

}  // namespace ringattn::simd
