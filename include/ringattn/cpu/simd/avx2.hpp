// SPDX-License-Identifier: Apache-2.0
// SIMD for AVX2 with FMA: 8 floats or 4 doubles.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <utility>

#include "../exp2.hpp"
#include "pairs.hpp"

namespace ringattn::inline RINGATTN_ABI::simd::inline avx2 {

inline constexpr char const* name = "AVX2";
inline constexpr int vector_bytes = 32, tile_rows = 4, tile_vectors = 3, column_vectors = 3, registers = 16;
inline constexpr bool has_pairs = false;
struct Pairs;

template <class T> struct Vec;

template <> struct Vec<float> {
  using Scalar = float;
  static constexpr int lanes = 8;
  __m256 v;

  RINGATTN_INLINE static Vec zero() { return {_mm256_setzero_ps()}; }
  RINGATTN_INLINE static Vec load(float const* p) { return {_mm256_loadu_ps(p)}; }
  RINGATTN_INLINE static Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
  RINGATTN_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  RINGATTN_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
};

template <> struct Vec<double> {
  using Scalar = double;
  static constexpr int lanes = 4;
  __m256d v;

  RINGATTN_INLINE static Vec zero() { return {_mm256_setzero_pd()}; }
  RINGATTN_INLINE static Vec load(double const* p) { return {_mm256_loadu_pd(p)}; }
  RINGATTN_INLINE static Vec broadcast(double x) { return {_mm256_set1_pd(x)}; }
  RINGATTN_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  RINGATTN_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm256_add_pd(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_pd(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_pd(a.v, b.v)}; }
};

using F32 = Vec<float>;
using F64 = Vec<double>;

/// A factor that was loaded stays in its register. Where all registers are in use, GCC takes it from memory for
/// each product anew: 16 loads for 12 products of a tile rather than 7, and a core has two loads a cycle.
RINGATTN_INLINE F32 kept(F32 x) {
  asm("" : "+x"(x.v));
  return x;
}
RINGATTN_INLINE F64 kept(F64 x) {
  asm("" : "+x"(x.v));
  return x;
}

/// a b + c, rounded once.
RINGATTN_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
RINGATTN_INLINE F64 fma(F64 a, F64 b, F64 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }

/// a b - c, rounded once.
RINGATTN_INLINE F32 fms(F32 a, F32 b, F32 c) { return {_mm256_fmsub_ps(a.v, b.v, c.v)}; }
RINGATTN_INLINE F64 fms(F64 a, F64 b, F64 c) { return {_mm256_fmsub_pd(a.v, b.v, c.v)}; }

/// The larger one; b where either is NaN.
RINGATTN_INLINE F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
RINGATTN_INLINE F64 max(F64 a, F64 b) { return {_mm256_max_pd(a.v, b.v)}; }

/// Is any lane different (or NaN)?
RINGATTN_INLINE bool any_different(F32 a, F32 b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)) != 0;
}
RINGATTN_INLINE bool any_different(F64 a, F64 b) {
  return _mm256_movemask_pd(_mm256_cmp_pd(a.v, b.v, _CMP_NEQ_UQ)) != 0;
}

/// `then` in lanes where a == b, else `otherwise`.
RINGATTN_INLINE F32 where_equal(F32 a, F32 b, F32 then, F32 otherwise) {
  return {_mm256_blendv_ps(otherwise.v, then.v, _mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ))};
}
RINGATTN_INLINE F64 where_equal(F64 a, F64 b, F64 then, F64 otherwise) {
  return {_mm256_blendv_pd(otherwise.v, then.v, _mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ))};
}

namespace detail {

/// The integer in the low bits of x, a number plus Exp2Format's magic, as the factor 2^n.
RINGATTN_INLINE F32 power(F32 x) {
  __m256i const n = _mm256_add_epi32(_mm256_castps_si256(x.v), _mm256_set1_epi32(cpu::Exp2Format<float>::bias));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(n, cpu::Exp2Format<float>::mantissa))};
}
RINGATTN_INLINE F64 power(F64 x) {
  __m256i const n = _mm256_add_epi64(_mm256_castpd_si256(x.v), _mm256_set1_epi64x(cpu::Exp2Format<double>::bias));
  return {_mm256_castsi256_pd(_mm256_slli_epi64(n, cpu::Exp2Format<double>::mantissa))};
}
RINGATTN_INLINE F32 floor(F32 x) { return {_mm256_floor_ps(x.v)}; }
RINGATTN_INLINE F64 floor(F64 x) { return {_mm256_floor_pd(x.v)}; }
RINGATTN_INLINE F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
RINGATTN_INLINE F64 min(F64 a, F64 b) { return {_mm256_min_pd(a.v, b.v)}; }

}  // namespace detail

/// 2^x of n vectors by a polynomial on [0, 1), step by step across all of them so that their latencies overlap. 0 at
/// -inf; NaN stays.
template <class Polynomial, int n, class T> RINGATTN_INLINE void exp2(Vec<T> (&x)[n]) {
  using Format = cpu::Exp2Format<T>;
  Vec<T> const low = Vec<T>::broadcast(Format::low), high = Vec<T>::broadcast(Format::high),
               magic = Vec<T>::broadcast(Format::magic);
  Vec<T> r[n], p[n];
  for (int i = 0; i < n; ++i) r[i] = detail::min(high, max(low, x[i]));  // in this order NaN stays
  for (int i = 0; i < n; ++i) x[i] = detail::floor(r[i]);
  for (int i = 0; i < n; ++i) r[i] = r[i] - x[i];
  for (int i = 0; i < n; ++i) p[i] = Vec<T>::broadcast(Polynomial::terms[0]);
  for (unsigned k = 1; k < std::size(Polynomial::terms); ++k)
    for (int i = 0; i < n; ++i) p[i] = fma(p[i], r[i], Vec<T>::broadcast(Polynomial::terms[k]));
  for (int i = 0; i < n; ++i) x[i] = p[i] * detail::power(x[i] + magic);
}

RINGATTN_INLINE F32 widen(BFloat16 const* p) {
  __m128i const halves = _mm_loadu_si128(reinterpret_cast<__m128i const*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16))};
}
RINGATTN_INLINE void narrow(F32 x, BFloat16* to) {
  __m256i const bits = _mm256_castps_si256(x.v), high = _mm256_srli_epi32(bits, 16);
  __m256i const odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  __m256i const up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  __m256i const quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  __m256i const nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  __m256i const result = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
  __m256i const halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(result, result), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(halves));
}
#if defined(__F16C__)
RINGATTN_INLINE F32 widen(Float16 const* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p)))};
}
RINGATTN_INLINE void narrow(F32 x, Float16* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
#endif

inline constexpr int set = 1;  ///< a number for each set of layouts

}  // namespace ringattn::simd
