// SPDX-License-Identifier: Apache-2.0
// Version, ABI namespace and the attributes that differ between compilers.
#pragma once

#define RINGATTN_VERSION_MAJOR 0
#define RINGATTN_VERSION_MINOR 1
#define RINGATTN_VERSION_PATCH 0
/// SemVer as one integer, major * 10000 + minor * 100 + patch. Part of the contract that ranks compare.
#define RINGATTN_VERSION (RINGATTN_VERSION_MAJOR * 10000 + RINGATTN_VERSION_MINOR * 100 + RINGATTN_VERSION_PATCH)

/// The inline namespace everything lives in: two versions in one program do not collide.
#define RINGATTN_ABI v0_1

#if defined(__CUDACC__)
#define RINGATTN_HD __host__ __device__
#else
#define RINGATTN_HD
#endif

/// Does the compiler's target have matrix registers that multiply bfloat16, and the vectors that go with them? Whoever
/// wants to do without defines it as 0, in all files of a program.
#if defined(RINGATTN_AMX)
#elif defined(__linux__) && defined(__x86_64__) && !defined(__CUDACC__) && defined(__AVX512BF16__) &&  \
    defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    ((defined(__AMX_TILE__) && defined(__AMX_BF16__)) || (defined(__AMXTILE__) && defined(__AMXBF16__)))
#define RINGATTN_AMX 1
#else
#define RINGATTN_AMX 0
#endif

/// Before a function, and after the parameters of a lambda: inlined before anything else is optimized. A lambda that
/// is inlined late leaves the arrays it refers to in memory, and a kernel's sums with them (GCC 12).
#if defined(__GNUC__) || defined(__clang__)
#define RINGATTN_INLINED __attribute__((always_inline))
#define RINGATTN_INLINE inline RINGATTN_INLINED
#define RINGATTN_RESTRICT __restrict__
#else
#define RINGATTN_INLINED
#define RINGATTN_INLINE inline
#define RINGATTN_RESTRICT
#endif
