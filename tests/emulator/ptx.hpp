// SPDX-License-Identifier: Apache-2.0
// A PTX module after parsing: functions, decoded instructions, variables.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace emulator {

enum class Type : uint8_t {
  none,
  pred,
  b8,
  b16,
  b32,
  b64,
  b128,
  u8,
  u16,
  u32,
  u64,
  s8,
  s16,
  s32,
  s64,
  f16,
  f16x2,
  bf16,
  bf16x2,
  tf32,
  f32,
  f64
};
int bytes_of(Type type);            // 0 for pred and none
Type type_named(std::string_view);  // Type::none when it is not a type's name

enum class Space : uint8_t { generic, global, shared, local, param, constant };

// Generic addresses outside device memory. Device memory itself has its own range (memory.hpp).
constexpr uint64_t shared_window = uint64_t{1} << 56;
constexpr uint64_t local_window = uint64_t{2} << 56;
constexpr uint64_t param_window = uint64_t{3} << 56;
constexpr uint64_t window_mask = uint64_t{255} << 56;
// Inside the windows. Statically and dynamically sized parts are apart, so that a static array that overruns is seen.
constexpr uint64_t static_shared = 1024;
constexpr uint64_t dynamic_shared = uint64_t{1} << 20;
constexpr uint64_t function_local = 1024;
constexpr uint64_t kernel_local = uint64_t{1} << 24;

struct Operand {
  enum class Kind : uint8_t { none, reg, pred, constant, label };
  Kind kind = Kind::none;
  uint8_t width = 4;                   // bytes of the register
  bool negated = false;                // !p
  bool piped = false;                  // the q of p|q
  bool sink = false;                   // _
  bool address = false;                // [..]
  bool is_float = false;               // a literal 0f.. or 0d..
  Space space = Space::generic;        // of the symbol that an address names, if one is named
  uint32_t row = 0;                    // register row, or index of a predicate
  int64_t offset = 0;                  // added to an address
  uint64_t value = 0;                  // of a constant
  uint32_t const* constant = nullptr;  // 32 lanes of 32 bits, then 32 lanes of 64 bits
  std::string_view name;               // of a label or function
};

class Warp;
struct Instruction;
using Handler = void (*)(Warp&, Instruction const&, uint32_t lanes);

// What the warp's loop itself must know; everything else is Flow::next.
enum class Flow : uint8_t { next, branch, branch_table, call, ret, exit, warp_sync, aligned, barrier, barrier_arrive };

struct Instruction {
  Handler run = nullptr;
  Flow flow = Flow::next;
  uint8_t kind = 0, kind2 = 0;  // comparison, operation, rounding: meaning belongs to the opcode's family
  uint8_t vector = 1;
  bool ftz = false, saturate = false, ordered = false;  // ordered: atomic, volatile, acquire or release access
  Type type = Type::none, from = Type::none;
  Space space = Space::generic;
  bool guarded = false, guard_negated = false;
  uint32_t guard = 0;
  uint32_t line = 0;
  uint32_t source_file = 0, source_line = 0;
  uint32_t target = 0;        // of a branch or call
  uint16_t mask_operand = 0;  // of Flow::warp_sync
  std::vector<Operand> op;
  std::vector<uint8_t> groups;  // operands per comma-separated argument
  std::vector<uint32_t> table;  // of brx.idx
  std::string_view name;
};

struct Parameter {
  std::string_view name;
  uint32_t offset = 0, bytes = 0;
  uint64_t local = 0;  // where it lives, for a function that is not a kernel
};

struct Special {
  std::string_view name;
  uint32_t row;
};

struct Span {  // of shared memory that a variable owns
  uint64_t begin, end;
};

struct Function {
  std::string name;
  bool entry = false, defined = false;
  uint32_t first = 0, last = 0;  // instructions [first, last)
  std::vector<Parameter> parameters, results;
  uint32_t parameter_bytes = 0;
  uint32_t rows = 0, predicates = 0;  // kernels: the functions' rows are counted in after linking
  std::vector<Special> specials;
  uint64_t local_end = 0, shared_end = static_shared;
  uint64_t shared_bytes = 0;  // as the hardware would count: no red zones
  std::vector<Span> shared_spans;
  std::array<uint32_t, 3> max_threads{};
};

struct Variable {
  Space space = Space::global;
  uint64_t address = 0;
  uint64_t bytes = 0;
};

struct Module {
  std::string text;
  std::string name;
  std::vector<uint32_t> line_starts;
  std::vector<Instruction> code;
  std::map<std::string, std::unique_ptr<Function>, std::less<>> functions;
  std::map<std::string, Variable, std::less<>> variables;
  std::map<uint32_t, std::string> files;
  std::deque<std::array<uint32_t, 96>> constants;
  std::unordered_map<uint64_t, uint32_t const*> constant_rows;
  std::vector<Span> shared_spans;  // of the module's own variables
  uint64_t dynamic_begin = dynamic_shared + 16;
  uint32_t function_rows = 0, function_predicates = 0;
  uint64_t function_local_end = function_local;
  uint64_t module_shared_end = static_shared, module_shared_bytes = 0;

  std::string_view line_text(uint32_t line) const;
  std::string where(uint32_t line) const;  // "PTX line 12: add.s32 ..;"
  uint32_t const* constant_row(uint64_t value);
};

/// Parses and links a module; global and constant variables are placed in the device's memory.
/// Throws Fault for anything that is not known, with its PTX line.
std::unique_ptr<Module> parse_ptx(std::string text, std::string name);

}  // namespace emulator
