// SPDX-License-Identifier: Apache-2.0
// Words of a PTX text, with their lines.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace emulator {

struct Token {
  std::string_view text;  // empty at the end
  uint32_t line = 0;
};

/// Splits into words; an opcode with its modifiers, a register with its component and a number are one word each.
std::vector<Token> lex_ptx(std::string_view text);

}  // namespace emulator
