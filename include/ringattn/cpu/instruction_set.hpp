// SPDX-License-Identifier: Apache-2.0
// What a program must keep to so that its kernels fit the CPU and each other.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "../error.hpp"
#include "simd.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

/// The instruction sets, one bit each, that files of this program compiled kernels for. Layouts follow the set, and the
/// linker keeps one copy of each function, from whichever file: two sets in a program would read each other's memory.
inline std::atomic<unsigned> compiled_sets{0};
/// The features that these files need, and those that this CPU has been found to have.
inline std::atomic<std::uint64_t> compiled_features{0}, present_features{0};
/// Each file's entry, made when the program starts.
template <int set, std::uint64_t features>
inline bool const compiled_for = (compiled_sets.fetch_or(1u << set), compiled_features.fetch_or(features), true);

/// Throws Error{invalid_argument} if this CPU lacks a feature that the program was compiled for (null: none), or if its
/// files were compiled for different sets.
inline void check_instruction_set(char const* missing, unsigned sets) {
  if (missing)
    throw Error(ErrorCode::invalid_argument, -1, "CPU", std::string(missing) + ", which the program was compiled for",
                "a CPU or an operating system without it");
  if (sets & (sets - 1))
    throw Error(ErrorCode::invalid_argument, -1, "compiler flags", "the same -m flags in all files that use Cpu",
                "files for different instruction sets");
}
/// The same for this CPU and this program. Every file that uses kernels must reach this function.
template <int set, std::uint64_t features> void check_instruction_set() {
  static_cast<void>(&compiled_for<set, features>);  // so that it exists, made already or not
  std::uint64_t const all = compiled_features.load() | features, unknown = all & ~present_features.load();
  char const* const missing = unknown ? simd::missing_feature(unknown) : nullptr;
  check_instruction_set(missing, compiled_sets.load());
  if (unknown) present_features.fetch_or(unknown);
}

}  // namespace ringattn::cpu
