// SPDX-License-Identifier: Apache-2.0
// The SIMD façade: Vec<float> and Vec<double> of the widest instruction set the compiler may use, all with the same
// names.
//
// Vec has Scalar, lanes, load, store, broadcast, + - *; beside it stand fma, max, any_different, select, where_equal
// and exp2 of several vectors at once. Loads and stores need no alignment.
#pragma once

#if !defined(__CUDACC__)  // device compilers choke on intrinsics; kernels below this line are the host compiler's

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "simd/avx512.hpp"
#elif defined(__AVX2__) && defined(__FMA__)
#include "simd/avx2.hpp"
#else
#include "simd/portable.hpp"
#endif

#endif
