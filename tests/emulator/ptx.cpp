// SPDX-License-Identifier: Apache-2.0
// Small questions about types and modules.
#include "ptx.hpp"

#include <bit>
#include <utility>

namespace emulator {

int bytes_of(Type type) {
  switch (type) {
    case Type::none:
    case Type::pred:
      return 0;
    case Type::b8:
    case Type::u8:
    case Type::s8:
      return 1;
    case Type::b16:
    case Type::u16:
    case Type::s16:
    case Type::f16:
    case Type::bf16:
      return 2;
    case Type::b64:
    case Type::u64:
    case Type::s64:
    case Type::f64:
      return 8;
    case Type::b128:
      return 16;
    default:
      return 4;
  }
}

Type type_named(std::string_view name) {
  static std::unordered_map<std::string_view, Type> const names = {
      {"pred", Type::pred},   {"b8", Type::b8},     {"b16", Type::b16},       {"b32", Type::b32},   {"b64", Type::b64},
      {"b128", Type::b128},   {"u8", Type::u8},     {"u16", Type::u16},       {"u32", Type::u32},   {"u64", Type::u64},
      {"s8", Type::s8},       {"s16", Type::s16},   {"s32", Type::s32},       {"s64", Type::s64},   {"f16", Type::f16},
      {"f16x2", Type::f16x2}, {"bf16", Type::bf16}, {"bf16x2", Type::bf16x2}, {"tf32", Type::tf32}, {"f32", Type::f32},
      {"f64", Type::f64}};
  auto const found = names.find(name);
  return found == names.end() ? Type::none : found->second;
}

std::string_view Module::line_text(uint32_t line) const {
  if (line == 0 || line > line_starts.size()) return {};
  std::string_view rest = std::string_view(text).substr(line_starts[line - 1]);
  rest = rest.substr(0, rest.find('\n'));
  size_t const first = rest.find_first_not_of(" \t");
  return first == std::string_view::npos ? std::string_view{} : rest.substr(first);
}

std::string Module::where(uint32_t line) const {
  return "PTX line " + std::to_string(line) + ": " + std::string(line_text(line));
}

uint32_t const* Module::constant_row(uint64_t value) {
  auto [found, is_new] = constant_rows.try_emplace(value, nullptr);
  if (is_new) {
    auto& row = constants.emplace_back();
    for (int lane = 0; lane < 32; ++lane) {
      row[lane] = static_cast<uint32_t>(value);
      row[32 + 2 * lane] = static_cast<uint32_t>(value);
      row[33 + 2 * lane] = static_cast<uint32_t>(value >> 32);
    }
    found->second = row.data();
  }
  return found->second;
}

}  // namespace emulator
