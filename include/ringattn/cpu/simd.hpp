// SPDX-License-Identifier: Apache-2.0
// The SIMD façade: vectors of the widest instruction set that the compiler may use, all sets under the same names.
//
//   Vec<float>, Vec<double>   Scalar, lanes, load, store, broadcast, + - *; beside them fma, max, any_different,
//                             where_equal, and exp2 of several vectors at once
//   Pairs                     two bfloat16 in each 32-bit lane; fma(Pairs, Pairs, Vec<float>) adds both products
//   tile_rows, tile_vectors   the register tile: that many rows of that many vectors are accumulated in registers
//   required_features         what the CPU must have, for a check when the program runs
//
// Loads and stores need no alignment. NVIDIA's compiler gets the portable set: it cannot read all intrinsics.
#pragma once

#if !defined(__CUDACC__) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__)
#include "simd/avx512.hpp"
#elif !defined(__CUDACC__) && defined(__AVX2__) && defined(__FMA__)
#include "simd/avx2.hpp"
#else
#include "simd/portable.hpp"
#endif

namespace ringattn::inline RINGATTN_ABI::simd {

/// f(integral_constant 0), ..., f(integral_constant n - 1), written out: arrays indexed by constants stay in registers.
template <int n, class F> RINGATTN_INLINE void unroll(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, n>{});
}

/// The first of `required_features` that this CPU lacks, or null.
inline char const* missing_feature() {
  for (Feature const& f : required_features)
    if (!f.present()) return f.name;
  return nullptr;
}

}  // namespace ringattn::simd
