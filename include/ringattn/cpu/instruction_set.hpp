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

/// Throws Error{invalid_argument} if this CPU lacks a feature that the program was compiled for (null: none), or if its
/// files were compiled for different sets.
inline void check_instruction_set(char const* missing, unsigned sets) {
  if (missing)
    throw Error(ErrorCode::invalid_argument, -1, "CPU", std::string(missing) + ", which the program was compiled for",
                "a CPU without it");
  if (sets & (sets - 1))
    throw Error(ErrorCode::invalid_argument, -1, "compiler flags", "the same -m flags in all files that use Cpu",
                "files for different instruction sets");
}
/// The same for this CPU and this program. Every file that uses kernels must reach this function.
template <int set> void check_instruction_set() {
  static char const* const missing = simd::missing_feature();
  static_cast<void>(&compiled_set<set>);  // so that it exists, initialised or not yet
  check_instruction_set(missing, compiled_sets.load());
}

}  // namespace ringattn::cpu
