// SPDX-License-Identifier: Apache-2.0
// SIMD for AVX-512 (F, BW, DQ, VL): 16 floats or 8 doubles, masks in mask registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../../config.hpp"
#include "exp2_terms.hpp"

// The zero-masked forms below are the plain instructions: GCC 12 warns about its own headers for the unmasked ones.
namespace ringattn::inline RINGATTN_ABI::simd::inline avx512 {

inline constexpr char const* name = "avx512";

template <class T> struct Vec;

template <> struct Vec<float> {
  using Scalar = float;
  static constexpr int lanes = 16;
  __m512 v;

  RINGATTN_INLINE static Vec load(float const* p) { return {_mm512_loadu_ps(p)}; }
  RINGATTN_INLINE static Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
  RINGATTN_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  RINGATTN_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
};

template <> struct Vec<double> {
  using Scalar = double;
  static constexpr int lanes = 8;
  __m512d v;

  RINGATTN_INLINE static Vec load(double const* p) { return {_mm512_loadu_pd(p)}; }
  RINGATTN_INLINE static Vec broadcast(double x) { return {_mm512_set1_pd(x)}; }
  RINGATTN_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
  RINGATTN_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm512_add_pd(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_pd(a.v, b.v)}; }
  RINGATTN_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_pd(a.v, b.v)}; }
};

using F32 = Vec<float>;
using F64 = Vec<double>;

/// a b + c, rounded once.
RINGATTN_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
RINGATTN_INLINE F64 fma(F64 a, F64 b, F64 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }

/// The larger one; b where either is NaN.
RINGATTN_INLINE F32 max(F32 a, F32 b) { return {_mm512_maskz_max_ps(__mmask16(-1), a.v, b.v)}; }
RINGATTN_INLINE F64 max(F64 a, F64 b) { return {_mm512_maskz_max_pd(__mmask8(-1), a.v, b.v)}; }

/// Is any lane different (or NaN)?
RINGATTN_INLINE bool any_different(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ) != 0; }
RINGATTN_INLINE bool any_different(F64 a, F64 b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_NEQ_UQ) != 0; }

/// Lane i of a where bit i is set, else of b.
RINGATTN_INLINE F32 select(std::uint32_t bits, F32 a, F32 b) { return {_mm512_mask_mov_ps(b.v, __mmask16(bits), a.v)}; }
RINGATTN_INLINE F64 select(std::uint32_t bits, F64 a, F64 b) { return {_mm512_mask_mov_pd(b.v, __mmask8(bits), a.v)}; }

/// a where a == a's lane equals b's, else c.
RINGATTN_INLINE F32 where_equal(F32 a, F32 b, F32 then, F32 otherwise) {
  return {_mm512_mask_mov_ps(otherwise.v, _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ), then.v)};
}
RINGATTN_INLINE F64 where_equal(F64 a, F64 b, F64 then, F64 otherwise) {
  return {_mm512_mask_mov_pd(otherwise.v, _mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ), then.v)};
}

/// 2^x of N vectors, step by step across all of them so that their latencies overlap. Exactly 0 at -inf; NaN stays.
template <int N> RINGATTN_INLINE void exp2(F32 (&x)[N]) {
  F32 f[N], p[N];
  for (int i = 0; i < N; ++i) f[i] = {_mm512_maskz_reduce_ps(__mmask16(-1), x[i].v, 0x08)};  // x - round(x); 0 at -inf
  for (int i = 0; i < N; ++i) x[i] = x[i] - f[i];
  for (int i = 0; i < N; ++i) p[i] = F32::broadcast(exp2_f32[0]);
  for (int k = 1; k < exp2_f32_terms; ++k)
    for (int i = 0; i < N; ++i) p[i] = fma(p[i], f[i], F32::broadcast(exp2_f32[k]));
  for (int i = 0; i < N; ++i) x[i] = {_mm512_maskz_scalef_ps(__mmask16(-1), p[i].v, x[i].v)};
}
template <int N> RINGATTN_INLINE void exp2(F64 (&x)[N]) {
  F64 f[N], p[N];
  for (int i = 0; i < N; ++i) f[i] = {_mm512_maskz_reduce_pd(__mmask8(-1), x[i].v, 0x08)};
  for (int i = 0; i < N; ++i) x[i] = x[i] - f[i];
  for (int i = 0; i < N; ++i) p[i] = F64::broadcast(exp2_f64[0]);
  for (int k = 1; k < exp2_f64_terms; ++k)
    for (int i = 0; i < N; ++i) p[i] = fma(p[i], f[i], F64::broadcast(exp2_f64[k]));
  for (int i = 0; i < N; ++i) x[i] = {_mm512_maskz_scalef_pd(__mmask8(-1), p[i].v, x[i].v)};
}

}  // namespace ringattn::simd
