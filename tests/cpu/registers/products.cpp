// SPDX-License-Identifier: Apache-2.0
// Tile products as the kernels use them, for run.py, which reads what the compiler makes of them.
#include <ringattn/cpu/gemm_tile.hpp>

using namespace ringattn;
using namespace ringattn::cpu;

#define PRODUCT(into, vectors, a_row, a_step, T, A)                                                            \
  template void ringattn::cpu::tile_product<Into::into, vectors, tiles_at_once(vectors), a_row, a_step, T, A>( \
      T const*, std::int64_t, T const*, std::int64_t, A*, std::int64_t, A const*, Stretch);

PRODUCT(replace, simd::tile_vectors, 64, 1, float, float)      // scores: a row of keys by panels of queries
PRODUCT(rescale_add, simd::tile_vectors, 1, 64, float, float)  // the sums: values by panels of weights
PRODUCT(add, simd::column_vectors, 1, 48, float, float)        // gradients of keys and values
PRODUCT(replace, 1, 64, 1, float, float)                       // the same, of few queries
PRODUCT(rescale_add, 1, 1, 64, float, float)
PRODUCT(replace, simd::tile_vectors, 64, 1, double, double)
PRODUCT(rescale_add, simd::tile_vectors, 1, 64, double, double)
#if defined(__AVX512BF16__) && defined(__AVX512F__)
PRODUCT(replace, simd::tile_vectors, 64, 1, simd::BFloat16Pair, float)
PRODUCT(rescale_add, simd::tile_vectors, 1, 64, simd::BFloat16Pair, float)
PRODUCT(add, simd::column_vectors, 1, 48, simd::BFloat16Pair, float)
PRODUCT(replace, 1, 64, 1, simd::BFloat16Pair, float)
PRODUCT(rescale_add, 1, 1, 64, simd::BFloat16Pair, float)
#endif
