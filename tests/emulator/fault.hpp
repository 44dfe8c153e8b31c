// SPDX-License-Identifier: Apache-2.0
// What the emulator reports: a kind that tests look for, and a text for people.
#pragma once
#include <stdexcept>
#include <string>

namespace emulator {

/// Thrown where the fault is seen; whoever knows more (line, thread, kernel) adds it and passes it on to report().
struct Fault : std::runtime_error {
  Fault(std::string kind, std::string const& message) : std::runtime_error(message), kind(std::move(kind)) {}
  std::string kind;  // "out-of-bounds", "uninitialised read", "race", "deadlock", "unknown opcode", ..
  int lane = -1;     // of the warp that ran, when one lane is to blame
};

/// Prints to stderr and keeps the text for ringattn_emulator_report().
void report(std::string const& text);
std::string hex(unsigned long long value);

}  // namespace emulator
