// SPDX-License-Identifier: Apache-2.0
// What a program compiled for an instruction set asks of the CPU it meets.
#pragma once

#include "../../config.hpp"

#if defined(__x86_64__) && !defined(__CUDACC__)
#include <cpuid.h>
#endif

namespace ringattn::inline RINGATTN_ABI::simd {

struct Feature {
  char const* name;
  bool (*present)();
};

#if defined(__x86_64__) && !defined(__CUDACC__)
/// A bit of CPUID that the compiler's own test has no name for. `word`: 0 EAX, 1 EBX, 2 ECX, 3 EDX.
inline bool cpuid_bit(unsigned leaf, unsigned subleaf, int word, int bit) {
  unsigned w[4] = {};
  return __get_cpuid_count(leaf, subleaf, &w[0], &w[1], &w[2], &w[3]) && ((w[word] >> bit) & 1u);
}
#endif

}  // namespace ringattn::simd
