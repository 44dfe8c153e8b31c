// SPDX-License-Identifier: Apache-2.0
// SIMD for AVX-512 (F, BW, DQ, VL): 16 floats or 8 doubles, and the dot product of bfloat16 pairs where there is one.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <utility>

#include "../exp2.hpp"
#include "pairs.hpp"
#include "tiles.hpp"

// The zero-masked forms below are the plain instructions: GCC 12 warns about its own headers for the unmasked ones.
namespace ringattn::inline RINGATTN_ABI::simd::inline avx512 {

inline constexpr char const* name = "AVX-512";
inline constexpr int vector_bytes = 64, tile_rows = 8, tile_vectors = 3, column_vectors = 2, registers = 32;

template <class T> struct Vec;

template <> struct Vec<float> {
  using Scalar = float;
  static constexpr int lanes = 16;
  __m512 v;

  RINGATTN_INLINE static Vec zero() { return {_mm512_setzero_ps()}; }
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

  RINGATTN_INLINE static Vec zero() { return {_mm512_setzero_pd()}; }
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

/// a b - c, rounded once.
RINGATTN_INLINE F32 fms(F32 a, F32 b, F32 c) { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }
RINGATTN_INLINE F64 fms(F64 a, F64 b, F64 c) { return {_mm512_fmsub_pd(a.v, b.v, c.v)}; }

/// The larger one; b where either is NaN.
RINGATTN_INLINE F32 max(F32 a, F32 b) { return {_mm512_maskz_max_ps(__mmask16(-1), a.v, b.v)}; }
RINGATTN_INLINE F64 max(F64 a, F64 b) { return {_mm512_maskz_max_pd(__mmask8(-1), a.v, b.v)}; }

/// Is any lane different (or NaN)?
RINGATTN_INLINE bool any_different(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ) != 0; }
RINGATTN_INLINE bool any_different(F64 a, F64 b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_NEQ_UQ) != 0; }

/// `then` in lanes where a == b, else `otherwise`.
RINGATTN_INLINE F32 where_equal(F32 a, F32 b, F32 then, F32 otherwise) {
  return {_mm512_mask_mov_ps(otherwise.v, _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ), then.v)};
}
RINGATTN_INLINE F64 where_equal(F64 a, F64 b, F64 then, F64 otherwise) {
  return {_mm512_mask_mov_pd(otherwise.v, _mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ), then.v)};
}

namespace detail {

/// x - floor(x); 0 at -inf.
RINGATTN_INLINE F32 fraction(F32 x) { return {_mm512_maskz_reduce_ps(__mmask16(-1), x.v, 0x09)}; }
RINGATTN_INLINE F64 fraction(F64 x) { return {_mm512_maskz_reduce_pd(__mmask8(-1), x.v, 0x09)}; }
/// x 2^floor(n).
RINGATTN_INLINE F32 scale(F32 x, F32 n) { return {_mm512_maskz_scalef_ps(__mmask16(-1), x.v, n.v)}; }
RINGATTN_INLINE F64 scale(F64 x, F64 n) { return {_mm512_maskz_scalef_pd(__mmask8(-1), x.v, n.v)}; }

}  // namespace detail

/// 2^x of n vectors by a polynomial on [0, 1), step by step across all of them so that their latencies overlap. 0 at
/// -inf; NaN stays.
template <class Polynomial, int n, class T> RINGATTN_INLINE void exp2(Vec<T> (&x)[n]) {
  Vec<T> r[n], p[n];
  for (int i = 0; i < n; ++i) r[i] = detail::fraction(x[i]);
  for (int i = 0; i < n; ++i) p[i] = Vec<T>::broadcast(Polynomial::terms[0]);
  for (unsigned k = 1; k < std::size(Polynomial::terms); ++k)
    for (int i = 0; i < n; ++i) p[i] = fma(p[i], r[i], Vec<T>::broadcast(Polynomial::terms[k]));
  for (int i = 0; i < n; ++i) x[i] = detail::scale(p[i], x[i]);
}

namespace detail {

/// 32-bit integers; a struct, for the bare type as a result warns where AVX-512 is off.
struct Words {
  __m512i v;

  RINGATTN_INLINE static Words of_halves(void const* p) {
    return {_mm512_maskz_cvtepu16_epi32(__mmask16(-1), _mm256_loadu_si256(static_cast<__m256i const*>(p)))};
  }
  RINGATTN_INLINE void store_halves(void* p) const {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(__mmask16(-1), v));
  }
  RINGATTN_INLINE Words up() const { return {_mm512_maskz_slli_epi32(__mmask16(-1), v, 16)}; }
  RINGATTN_INLINE Words down() const { return {_mm512_maskz_srli_epi32(__mmask16(-1), v, 16)}; }
};

}  // namespace detail

RINGATTN_INLINE F32 widen(BFloat16 const* p) { return {_mm512_castsi512_ps(detail::Words::of_halves(p).up().v)}; }
RINGATTN_INLINE F32 widen(Float16 const* p) {
  return {_mm512_maskz_cvtph_ps(__mmask16(-1), _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p)))};
}
RINGATTN_INLINE void narrow(F32 x, BFloat16* to) {
  detail::Words const bits{_mm512_castps_si512(x.v)}, high = bits.down();
  __m512i const odd = _mm512_and_si512(high.v, _mm512_set1_epi32(1));
  detail::Words const rounded{_mm512_add_epi32(_mm512_add_epi32(bits.v, _mm512_set1_epi32(0x7fff)), odd)};
  __m512i const quiet = _mm512_or_si512(high.v, _mm512_set1_epi32(0x40));
  __mmask16 const nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  detail::Words{_mm512_mask_mov_epi32(rounded.down().v, nan, quiet)}.store_halves(to);
}
RINGATTN_INLINE void narrow(F32 x, Float16* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_maskz_cvtps_ph(__mmask16(-1), x.v, _MM_FROUND_TO_NEAREST_INT));
}

#if defined(__AVX512BF16__)
inline constexpr bool has_pairs = true;

/// 16 lanes of two bfloat16.
struct Pairs {
  __m512i v;

  RINGATTN_INLINE static Pairs load(BFloat16Pair const* p) { return {_mm512_loadu_si512(p)}; }
  /// Number i of both in lane i.
  RINGATTN_INLINE static Pairs interleave(BFloat16 const* first, BFloat16 const* second) {
    return {_mm512_or_si512(detail::Words::of_halves(first).v, detail::Words::of_halves(second).up().v)};
  }
  RINGATTN_INLINE static Pairs broadcast(BFloat16Pair x) { return {_mm512_set1_epi32(int(x.bits))}; }
  RINGATTN_INLINE void store(BFloat16Pair* p) const { _mm512_storeu_si512(p, v); }
};

/// c + a0 b0 + a1 b1 in each lane. The instruction takes subnormals for 0 and rounds to nearest, whatever the mode.
RINGATTN_INLINE F32 fma(Pairs a, Pairs b, F32 c) {
  return {_mm512_dpbf16_ps(c.v, __builtin_bit_cast(__m512bh, a.v), __builtin_bit_cast(__m512bh, b.v))};
}

/// In lane i: first's lane i in the low half, second's in the high half, rounded to nearest even.
RINGATTN_INLINE Pairs pair_lanes(F32 first, F32 second) {
  __m512i const halves = __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(second.v, first.v));
  __m512i const order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return {_mm512_permutexvar_epi16(order, halves)};
}
/// Neighbouring lanes of first and then of second become pairs: lane i holds lanes 2i and 2i + 1.
RINGATTN_INLINE Pairs pair_neighbours(F32 first, F32 second) {
  return {__builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(second.v, first.v))};
}
#else
inline constexpr bool has_pairs = false;
struct Pairs;
#endif

inline constexpr int set = has_tiles ? 4 : has_pairs ? 3 : 2;  ///< a number for each set of layouts

}  // namespace ringattn::simd
