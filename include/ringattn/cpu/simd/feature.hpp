// SPDX-License-Identifier: Apache-2.0
// What a file asks of the CPU it meets: all that g++ and clang++ are known to use unasked under its flags, whether the
// vectors of this library do or not.
#pragma once

#include <cstdint>

#include "../../config.hpp"

#if defined(__x86_64__) && !defined(__CUDACC__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace ringattn::inline RINGATTN_ABI::simd {

#if defined(__x86_64__) && !defined(__CUDACC__)

/// A bit of CPUID that the compilers' own test has no name for. `word`: 0 EAX, 1 EBX, 2 ECX, 3 EDX.
inline bool cpuid_bit(unsigned leaf, unsigned subleaf, int word, int bit) {
  unsigned w[4] = {};
  return __get_cpuid_count(leaf, subleaf, &w[0], &w[1], &w[2], &w[3]) && ((w[word] >> bit) & 1u);
}
/// Asks the operating system to let this process use matrix registers.
inline bool tiles_granted() {
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return cpuid_bit(7, 0, 3, 22) && cpuid_bit(7, 0, 3, 24) &&
         syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

// clang-format off

/// f(name, does this CPU have it?): the same list in every file of a program, whatever its flags are.
#define RINGATTN_FEATURES(f)                                    \
  f(sse3, __builtin_cpu_supports("sse3"))                       \
  f(ssse3, __builtin_cpu_supports("ssse3"))                     \
  f(sse4_1, __builtin_cpu_supports("sse4.1"))                   \
  f(sse4_2, __builtin_cpu_supports("sse4.2"))                   \
  f(popcnt, __builtin_cpu_supports("popcnt"))                   \
  f(lzcnt, cpuid_bit(0x80000001u, 0, 2, 5))                     \
  f(movbe, cpuid_bit(1, 0, 2, 22))                              \
  f(bmi, __builtin_cpu_supports("bmi"))                         \
  f(bmi2, __builtin_cpu_supports("bmi2"))                       \
  f(avx, __builtin_cpu_supports("avx"))                         \
  f(f16c, cpuid_bit(1, 0, 2, 29))                               \
  f(fma, __builtin_cpu_supports("fma"))                         \
  f(avx2, __builtin_cpu_supports("avx2"))                       \
  f(gfni, __builtin_cpu_supports("gfni"))                       \
  f(avx_vnni, cpuid_bit(7, 1, 0, 4))                            \
  f(avx512f, __builtin_cpu_supports("avx512f"))                 \
  f(avx512cd, __builtin_cpu_supports("avx512cd"))               \
  f(avx512bw, __builtin_cpu_supports("avx512bw"))               \
  f(avx512dq, __builtin_cpu_supports("avx512dq"))               \
  f(avx512vl, __builtin_cpu_supports("avx512vl"))               \
  f(avx512ifma, __builtin_cpu_supports("avx512ifma"))           \
  f(avx512vbmi, __builtin_cpu_supports("avx512vbmi"))           \
  f(avx512vbmi2, __builtin_cpu_supports("avx512vbmi2"))         \
  f(avx512vnni, __builtin_cpu_supports("avx512vnni"))           \
  f(avx512bitalg, __builtin_cpu_supports("avx512bitalg"))       \
  f(avx512vpopcntdq, __builtin_cpu_supports("avx512vpopcntdq")) \
  f(avx512_bf16, cpuid_bit(7, 1, 0, 5))                         \
  f(avx512_fp16, cpuid_bit(7, 0, 3, 23))                        \
  f(amx_bf16, tiles_granted())

namespace feature {
#define RINGATTN_NAME(name, present) name,
enum { RINGATTN_FEATURES(RINGATTN_NAME) count };
#undef RINGATTN_NAME
}  // namespace feature

/// Those that this file needs, one bit each. Not `inline`: files differ.
constexpr std::uint64_t used_features = 0
#if defined(__SSE3__)
    | 1ull << feature::sse3
#endif
#if defined(__SSSE3__)
    | 1ull << feature::ssse3
#endif
#if defined(__SSE4_1__)
    | 1ull << feature::sse4_1
#endif
#if defined(__SSE4_2__)
    | 1ull << feature::sse4_2
#endif
#if defined(__POPCNT__)
    | 1ull << feature::popcnt
#endif
#if defined(__LZCNT__)
    | 1ull << feature::lzcnt
#endif
#if defined(__MOVBE__)
    | 1ull << feature::movbe
#endif
#if defined(__BMI__)
    | 1ull << feature::bmi
#endif
#if defined(__BMI2__)
    | 1ull << feature::bmi2
#endif
#if defined(__AVX__)
    | 1ull << feature::avx
#endif
#if defined(__F16C__)
    | 1ull << feature::f16c
#endif
#if defined(__FMA__)
    | 1ull << feature::fma
#endif
#if defined(__AVX2__)
    | 1ull << feature::avx2
#endif
#if defined(__GFNI__)
    | 1ull << feature::gfni
#endif
#if defined(__AVXVNNI__)
    | 1ull << feature::avx_vnni
#endif
#if defined(__AVX512F__)
    | 1ull << feature::avx512f
#endif
#if defined(__AVX512CD__)
    | 1ull << feature::avx512cd
#endif
#if defined(__AVX512BW__)
    | 1ull << feature::avx512bw
#endif
#if defined(__AVX512DQ__)
    | 1ull << feature::avx512dq
#endif
#if defined(__AVX512VL__)
    | 1ull << feature::avx512vl
#endif
#if defined(__AVX512IFMA__)
    | 1ull << feature::avx512ifma
#endif
#if defined(__AVX512VBMI__)
    | 1ull << feature::avx512vbmi
#endif
#if defined(__AVX512VBMI2__)
    | 1ull << feature::avx512vbmi2
#endif
#if defined(__AVX512VNNI__)
    | 1ull << feature::avx512vnni
#endif
#if defined(__AVX512BITALG__)
    | 1ull << feature::avx512bitalg
#endif
#if defined(__AVX512VPOPCNTDQ__)
    | 1ull << feature::avx512vpopcntdq
#endif
#if defined(__AVX512BF16__)
    | 1ull << feature::avx512_bf16
#endif
#if defined(__AVX512FP16__)
    | 1ull << feature::avx512_fp16
#endif
#if RINGATTN_AMX
    | 1ull << feature::amx_bf16
#endif
    ;

// clang-format on

/// The name of the first of these features that this CPU lacks, or null.
inline char const* missing_feature(std::uint64_t features) {
#define RINGATTN_LOOK(name, present) \
  if ((features >> feature::name & 1u) && !(present)) return #name;
  RINGATTN_FEATURES(RINGATTN_LOOK)
#undef RINGATTN_LOOK
  return nullptr;
}

#undef RINGATTN_FEATURES

#else

constexpr std::uint64_t used_features = 0;
/// Another name than above: a program may have files of both kinds.
template <class Features> char const* missing_feature(Features) { return nullptr; }

#endif

}  // namespace ringattn::simd
