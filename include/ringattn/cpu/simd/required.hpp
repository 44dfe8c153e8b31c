// SPDX-License-Identifier: Apache-2.0
// What this file's compiler may use without being asked, whether the vectors above do or not: all that its flags allow.
#pragma once

#include <span>

#include "feature.hpp"
#include "tiles.hpp"

namespace ringattn::inline RINGATTN_ABI::simd {

#define RINGATTN_FEATURE(name) Feature{name, [] { return bool(__builtin_cpu_supports(name)); }},
#define RINGATTN_FEATURE_BIT(name, leaf, subleaf, word, bit) \
  Feature{name, [] { return cpuid_bit(leaf, subleaf, word, bit); }},

inline constexpr Feature required_features[] = {
    Feature{"a CPU", [] { return true; }},
#if defined(__x86_64__) && !defined(__CUDACC__)
#if defined(__SSE4_2__)
    RINGATTN_FEATURE("sse4.2")
#endif
#if defined(__POPCNT__)
        RINGATTN_FEATURE("popcnt")
#endif
#if defined(__LZCNT__)
            RINGATTN_FEATURE_BIT("lzcnt", 0x80000001u, 0, 2, 5)
#endif
#if defined(__MOVBE__)
                RINGATTN_FEATURE_BIT("movbe", 1, 0, 2, 22)
#endif
#if defined(__BMI__)
                    RINGATTN_FEATURE("bmi")
#endif
#if defined(__BMI2__)
                        RINGATTN_FEATURE("bmi2")
#endif
#if defined(__AVX__)
                            RINGATTN_FEATURE("avx")
#endif
#if defined(__F16C__)
                                RINGATTN_FEATURE_BIT("f16c", 1, 0, 2, 29)
#endif
#if defined(__FMA__)
                                    RINGATTN_FEATURE("fma")
#endif
#if defined(__AVX2__)
                                        RINGATTN_FEATURE("avx2")
#endif
#if defined(__GFNI__)
                                            RINGATTN_FEATURE("gfni")
#endif
#if defined(__AVXVNNI__)
                                                RINGATTN_FEATURE_BIT("avx_vnni", 7, 1, 0, 4)
#endif
#if defined(__AVX512F__)
                                                    RINGATTN_FEATURE("avx512f")
#endif
#if defined(__AVX512CD__)
                                                        RINGATTN_FEATURE("avx512cd")
#endif
#if defined(__AVX512BW__)
                                                            RINGATTN_FEATURE("avx512bw")
#endif
#if defined(__AVX512DQ__)
                                                                RINGATTN_FEATURE("avx512dq")
#endif
#if defined(__AVX512VL__)
                                                                    RINGATTN_FEATURE("avx512vl")
#endif
#if defined(__AVX512IFMA__)
                                                                        RINGATTN_FEATURE("avx512ifma")
#endif
#if defined(__AVX512VBMI__)
                                                                            RINGATTN_FEATURE("avx512vbmi")
#endif
#if defined(__AVX512VBMI2__)
                                                                                RINGATTN_FEATURE("avx512vbmi2")
#endif
#if defined(__AVX512VNNI__)
                                                                                    RINGATTN_FEATURE("avx512vnni")
#endif
#if defined(__AVX512BITALG__)
                                                                                        RINGATTN_FEATURE("avx512bitalg")
#endif
#if defined(__AVX512VPOPCNTDQ__)
                                                                                            RINGATTN_FEATURE(
                                                                                                "avx512vpopcntdq")
#endif
#if defined(__AVX512BF16__)
                                                                                                RINGATTN_FEATURE_BIT(
                                                                                                    "avx512_bf16", 7, 1,
                                                                                                    0, 5)
#endif
#if defined(__AVX512FP16__)
                                                                                                    RINGATTN_FEATURE_BIT(
                                                                                                        "avx512_fp16",
                                                                                                        7, 0, 3, 23)
#endif
#if RINGATTN_AMX
                                                                                                        Feature{
                                                                                                            "amx_bf16 "
                                                                                                            "(with the "
                                                                                                            "operating "
                                                                                                            "system's "
                                                                                                            "permission"
                                                                                                            ")",
                                                                                                            tiles_granted},
#endif
#endif
};

#undef RINGATTN_FEATURE
#undef RINGATTN_FEATURE_BIT

/// The name of the first feature that this CPU lacks, or null.
inline char const* missing_feature(std::span<Feature const> features = required_features) {
  for (Feature const& f : features)
    if (!f.present()) return f.name;
  return nullptr;
}

}  // namespace ringattn::simd
