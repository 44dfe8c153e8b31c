// SPDX-License-Identifier: Apache-2.0
// The SIMD façade: vectors of the widest instruction set that the compiler may use, all sets under the same names.
//
//   Vec<float>, Vec<double>   Scalar, lanes, load, store, broadcast, + - *; beside them fma, max, any_different,
//                             where_equal, and exp2 of several vectors at once; widen, narrow: 16-bit numbers
//   Pairs                     two bfloat16 in each 32-bit lane; fma(Pairs, Pairs, Vec<float>) adds both products
//   TileScope, tile_...       matrix registers, where has_tiles
//   tile_rows, tile_vectors   the register tile: that many rows of that many vectors are accumulated in registers
//   column_vectors            vectors of a register tile whose lanes are dimensions rather than query rows
//   kept                      asks the compiler to leave a loaded factor in its register
//   registers                 how many vectors there are registers for
//   used_features             what the compiler may use; missing_feature: what of it this CPU lacks
//
// Loads and stores need no alignment. NVIDIA's compiler gets the portable set: it cannot read all intrinsics.
#pragma once

#include "simd/tiles.hpp"

#if !defined(__CUDACC__) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__)
#include "simd/avx512.hpp"
#elif !defined(__CUDACC__) && defined(__AVX2__) && defined(__FMA__)
#include "simd/avx2.hpp"
#else
#include "simd/portable.hpp"
#endif
#include "simd/feature.hpp"

namespace ringattn::inline RINGATTN_ABI::simd {

/// f(integral_constant 0), ..., f(integral_constant n - 1), written out: arrays indexed by constants stay in registers.
template <int n, class F> RINGATTN_INLINE void unroll(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) RINGATTN_INLINED { (f(std::integral_constant<int, i>{}), ...); }
  (std::make_integer_sequence<int, n>{});
}

/// The same; sets may overload it so that compilers keep a factor of several products in a register.
template <class V> RINGATTN_INLINE V kept(V x) { return x; }

/// Numbers of 16 bits to a vector and back, with the bits of the conversions one by one; sets may overload these.
template <class E> RINGATTN_INLINE Vec<float> widen(E const* p) {
  float line[Vec<float>::lanes];
  for (int i = 0; i < Vec<float>::lanes; ++i) line[i] = float(p[i]);
  return Vec<float>::load(line);
}
template <class E> RINGATTN_INLINE void narrow(Vec<float> x, E* to) {
  float line[Vec<float>::lanes];
  x.store(line);
  for (int i = 0; i < Vec<float>::lanes; ++i) to[i] = E(line[i]);
}

/// Lane j of vector i and lane i of vector j change places. Bits only: any 32- or 64-bit contents will do.
template <class T> RINGATTN_INLINE void transpose(Vec<T> (&x)[Vec<T>::lanes]) {
  constexpr int n = Vec<T>::lanes;
#if defined(__CUDACC__)
  T rows[n][n];
  for (int i = 0; i < n; ++i) x[i].store(rows[i]);
  for (int i = 0; i < n; ++i) x[i] = Vec<T>::make([&](int j) { return rows[j][i]; });
#else
  // Blocks of 1, 2, 4, ... lanes off the diagonal change places, each time in pairs of vectors.
  auto const exchange = [&](auto h) RINGATTN_INLINED {
    unroll<n>([&](auto i) RINGATTN_INLINED {
      if constexpr ((i & h) == 0) [&]<int... j>(std::integer_sequence<int, j...>) RINGATTN_INLINED {
          auto const a = x[i].v, b = x[i + h].v;
          x[i].v = __builtin_shufflevector(a, b, (j & h ? n + j - h : j)...);
          x[i + h].v = __builtin_shufflevector(a, b, (j & h ? n + j : j + h)...);
        }
      (std::make_integer_sequence<int, n>{});
    });
  };
  exchange(std::integral_constant<int, 1>{});
  if constexpr (n > 2) exchange(std::integral_constant<int, 2>{});
  if constexpr (n > 4) exchange(std::integral_constant<int, 4>{});
  if constexpr (n > 8) exchange(std::integral_constant<int, 8>{});
#endif
}

}  // namespace ringattn::simd
