// SPDX-License-Identifier: Apache-2.0
// Keeps and prints reports.
#include "fault.hpp"

#include <cstdio>
#include <mutex>

namespace emulator {
namespace {
std::mutex guard;
std::string& all() {
  static std::string text;
  return text;
}
}  // namespace

void report(std::string const& text) {
  std::lock_guard lock(guard);
  std::fprintf(stderr, "emulator: %s\n", text.c_str());
  all() += text + "\n";
}

std::string hex(unsigned long long value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", value);
  return text;
}

}  // namespace emulator

extern "C" char const* ringattn_emulator_report() { return emulator::all().c_str(); }
