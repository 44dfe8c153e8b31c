// SPDX-License-Identifier: Apache-2.0
// From an opcode's name to what executes it: one table, filled by the files ops_*.cpp.
#pragma once
#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptx.hpp"

namespace emulator {

/// An opcode's words after the first: mad.lo.s32 has {"lo", "s32"}.
struct Modifiers {
  std::vector<std::string_view> all;
  std::vector<Type> types;
  bool has(std::string_view word) const { return std::find(all.begin(), all.end(), word) != all.end(); }
  Type type(size_t i = 0) const { return i < types.size() ? types[i] : Type::none; }
};

/// Thrown by a decoder that knows the opcode but not this form of it; executing it is then an error that names it.
struct UnknownForm {};

/// Sets run, flow and whatever else the opcode needs; operands are parsed by then.
using Decode = void (*)(Instruction&, Modifiers const&);
/// Keyed by the first word; "add#float" and "add#half" go before "add" when the first type is one of those.
using Decoders = std::unordered_map<std::string_view, Decode>;

Decoders const& decoders();
void unknown_opcode(Warp&, Instruction const&, uint32_t);

void add_move(Decoders&);
void add_integer(Decoders&);
void add_bits(Decoders&);
void add_float(Decoders&);
void add_half(Decoders&);
void add_convert(Decoders&);
void add_memory(Decoders&);
void add_atomic(Decoders&);
void add_warp(Decoders&);
void add_flow(Decoders&);
void add_async_copy(Decoders&);
void add_matrix(Decoders&);

/// For call: a function that the device runtime provides (vprintf, __assertfail, ..), or null.
Handler builtin_function(std::string_view name);

}  // namespace emulator
