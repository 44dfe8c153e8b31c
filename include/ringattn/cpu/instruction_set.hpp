// SPDX-License-Identifier: Apache-2.0
// What a program must keep to so that its kernels fit the CPU and each other.
#pragma once

#include <atomic>
#include <string>

#include "../error.hpp"
#include "simd.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

/// The instruction sets, one bit each, that files of this program compiled kernels for. Layouts follow the set, and the
/// linker keeps one copy of each function, from whichever file: two sets in a program would read each other's memory.
inline std::atomic<unsigned> compiled_sets{0};
template <int set> inline bool const compiled_set = (compiled_sets.fetch_or(1u << set), true);

/// Throws Error{invalid_argument} if this CPU lacks instructions that the program was compiled for, or if its files
/// were compiled for different ones. Every file that uses kernels must reach this function.
inline void check_instruction_set() {
  static char const* const feature = simd::missing_feature();
  if (feature)
    throw Error(ErrorCode::invalid_argument, -1, "CPU", std::string(feature) + ", which the program was compiled for",
                "a CPU without it");
  if (unsigned const sets = compiled_sets.load(); sets & (sets - 1))
    throw Error(ErrorCode::invalid_argument, -1, "compiler flags", "the same -m flags in all files that use Cpu",
                "files for different instruction sets");
}

}  // namespace ringattn::cpu
