// SPDX-License-Identifier: Apache-2.0
// SIMD for AVX2 with FMA: 8 floats or 4 doubles, masks as vectors.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../../config.hpp"
#include "exp2_terms.hpp"

namespace ringattn::inline RINGATTN_ABI::simd::inline avx2 {

inline constexpr char const* name = "avx2";

template <class T> struct Vec;

template <> struct Vec<float> {
  using Scalar = float;
  static constexpr int lanes = 8;
  __m256 v;

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

  RINGATTN_INLINE static Vec load(double const* p) { return {_mm256_loadu_pd(p)}; }
  RINGATTN_INLINE static Vec broadcast(double x) { return {_mm256_set1_pd(x)}; }
  RINGATTN_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  RINGATTN_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm256_add_pd(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_pd(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_pd(a.v, b.v)}; }
};

using F32 = Vec<float>;
using F64 = Vec<double>;

RINGATTN_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
RINGATTN_INLINE F64 fma(F64 a, F64 b, F64 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
RINGATTN_INLINE F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
RINGATTN_INLINE F64 max(F64 a, F64 b) { return {_mm256_max_pd(a.v, b.v)}; }
RINGATTN_INLINE bool any_different(F32 a, F32 b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)) != 0;
}
RINGATTN_INLINE bool any_different(F64 a, F64 b) {
  return _mm256_movemask_pd(_mm256_cmp_pd(a.v, b.v, _CMP_NEQ_UQ)) != 0;
}

RINGATTN_INLINE F32 select(std::uint32_t bits, F32 a, F32 b) {
  __m256i const bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  __m256i const on = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(bits)), bit), bit);
  return {_mm256_blendv_ps(b.v, a.v, _mm256_castsi256_ps(on))};
}
RINGATTN_INLINE F64 select(std::uint32_t bits, F64 a, F64 b) {
  __m256i const bit = _mm256_setr_epi64x(1, 2, 4, 8);
  __m256i const on = _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(bits), bit), bit);
  return {_mm256_blendv_pd(b.v, a.v, _mm256_castsi256_pd(on))};
}
RINGATTN_INLINE F32 where_equal(F32 a, F32 b, F32 then, F32 otherwise) {
  return {_mm256_blendv_ps(otherwise.v, then.v, _mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ))};
}
RINGATTN_INLINE F64 where_equal(F64 a, F64 b, F64 then, F64 otherwise) {
  return {_mm256_blendv_pd(otherwise.v, then.v, _mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ))};
}

/// 2^x; results below the normal range are 0, NaN stays.
template <int N> RINGATTN_INLINE void exp2(F32 (&x)[N]) {
  F32 n[N], f[N], p[N];
  // The clamp keeps the exponent in range; the operand order lets NaN through.
  F32 const low = F32::broadcast(-127.0f), high = F32::broadcast(128.0f);
  for (int i = 0; i < N; ++i) x[i] = {_mm256_min_ps(high.v, _mm256_max_ps(low.v, x[i].v))};
  for (int i = 0; i < N; ++i) n[i] = {_mm256_round_ps(x[i].v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  for (int i = 0; i < N; ++i) f[i] = x[i] - n[i];
  for (int i = 0; i < N; ++i) p[i] = F32::broadcast(exp2_f32[0]);
  for (int k = 1; k < exp2_f32_terms; ++k)
    for (int i = 0; i < N; ++i) p[i] = fma(p[i], f[i], F32::broadcast(exp2_f32[k]));
  for (int i = 0; i < N; ++i) {
    __m256i const e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n[i].v), _mm256_set1_epi32(127)), 23);
    x[i] = p[i] * F32{_mm256_castsi256_ps(e)};  // exponent field 0: times 0
  }
}
template <int N> RINGATTN_INLINE void exp2(F64 (&x)[N]) {
  F64 n[N], f[N], p[N];
  F64 const low = F64::broadcast(-1023.0), high = F64::broadcast(1024.0), magic = F64::broadcast(6755399441055744.0);
  for (int i = 0; i < N; ++i) x[i] = {_mm256_min_pd(high.v, _mm256_max_pd(low.v, x[i].v))};
  for (int i = 0; i < N; ++i) n[i] = x[i] + magic;  // 1.5 * 2^52: the integer is in the low bits
  for (int i = 0; i < N; ++i) f[i] = x[i] - (n[i] - magic);
  for (int i = 0; i < N; ++i) p[i] = F64::broadcast(exp2_f64[0]);
  for (int k = 1; k < exp2_f64_terms; ++k)
    for (int i = 0; i < N; ++i) p[i] = fma(p[i], f[i], F64::broadcast(exp2_f64[k]));
  for (int i = 0; i < N; ++i) {
    __m256i const e = _mm256_slli_epi64(_mm256_add_epi64(_mm256_castpd_si256(n[i].v), _mm256_set1_epi64x(1023)), 52);
    x[i] = p[i] * F64{_mm256_castsi256_pd(e)};
  }
}

}  // namespace ringattn::simd
