// SPDX-License-Identifier: Apache-2.0
// What runs: a grid's blocks, their warps, and the lanes' registers.
#pragma once
#include <bit>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "block_memory.hpp"
#include "counts.hpp"
#include "fault.hpp"
#include "ptx.hpp"

namespace emulator {

struct Dim {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

struct Launch {
  Module const* module = nullptr;
  Function const* function = nullptr;
  Dim grid, block;
  uint64_t dynamic_shared_bytes = 0;
  std::vector<uint8_t> parameters;
  bool cooperative = false;
};

class Block;

/// Lanes of a warp that stand at the same instruction with the same calls behind them.
struct Group {
  uint32_t pc = 0, lanes = 0;
  enum class Wait : uint8_t { none, warp_sync, aligned, barrier } wait = Wait::none;
  std::vector<uint32_t> calls;  // instructions of the calls that are open
};

/// A cp.async of one lane between its issue and the wait that covers it.
struct PendingCopy {
  uint64_t to = 0, from = 0;
  uint32_t bytes = 0, source_bytes = 0, lane = 0, group = 0;
  Instruction const* issued = nullptr;
};

class Warp {
 public:
  Warp(Block& block, uint32_t index, uint32_t lanes);

  enum class Status : uint8_t { ready, waiting, done };
  /// Runs up to `budget` instructions; returns the status and takes what was used from the budget.
  Status run(uint32_t& budget);
  Status status() const { return status_; }
  void release_barrier();  // its barrier is complete
  std::string describe() const;

  // ---- for the handlers
  uint32_t* row(Operand const& o) { return registers_.data() + size_t{o.row} * 32; }
  template <class T> uint32_t const* source(Operand const& o) const {
    if (o.constant) return o.constant + (sizeof(T) == 8 ? 32 : 0);
    return registers_.data() + size_t{o.row} * 32;
  }
  uint32_t predicate(Operand const& o) const {  // bit per lane
    if (o.kind != Operand::Kind::pred) return o.constant && o.constant[0] ? ~0u : 0;
    return o.negated ? ~predicates_[o.row] : predicates_[o.row];
  }
  void set_predicate(Operand const& o, uint32_t lanes, uint32_t value) {
    if (o.kind != Operand::Kind::pred) return;
    predicates_[o.row] = (predicates_[o.row] & ~lanes) | (value & lanes);
  }
  uint64_t address(Operand const& o, int lane) const {
    if (o.constant) return o.value + o.offset;
    uint32_t const* const r = registers_.data() + size_t{o.row} * 32;
    if (o.width == 8) return reinterpret_cast<uint64_t const*>(r)[lane] + o.offset;
    return static_cast<uint32_t>(r[lane] + static_cast<uint32_t>(o.offset));
  }
  /// Checked and recorded access to `bytes` at an address of a state space.
  uint8_t* read(Space space, uint64_t address, uint32_t bytes, int lane, bool ordered = false);
  uint8_t* write(Space space, uint64_t address, uint32_t bytes, int lane, bool ordered = false,
                 uint8_t const* value = nullptr);
  void name_special(std::string_view name, uint32_t* row) const;

  Block& block;
  uint32_t const index;
  uint32_t const lanes;  // that exist
  uint32_t exited = 0;
  uint32_t carry = 0;  // of add.cc, per lane
  Instruction const* current = nullptr;
  std::vector<uint32_t> clock;  // per warp of the block: what is ordered before this warp's next access
  std::vector<PendingCopy> copies;
  uint32_t copy_groups[32] = {};  // committed so far
  bool stop_grid = false;         // trap
  LocalMemory local;

 private:
  friend class Block;
  void choose();
  void execute(Instruction const& i, uint32_t lanes);
  void execute_mask(Instruction const& i, uint32_t lanes);
  void branch(Instruction const& i, uint32_t taken);
  bool warp_sync(Instruction const& i, uint32_t lanes);
  void call(Instruction const& i);
  void leave(Instruction const& i, uint32_t lanes);
  void park(Group::Wait wait);
  void nobody_runs();
  std::string describe(Group const& g) const;

  std::vector<uint32_t> registers_, predicates_;
  std::vector<Group> groups_;
  size_t active_ = 0;
  Status status_ = Status::ready;
  uint32_t since_switch_ = 0;
};

struct Barrier {
  uint32_t expected = 0, arrived = 0;  // threads
  std::vector<uint32_t> waiting;       // warps
  std::vector<uint32_t> clock;         // join of all that arrived
  uint32_t count_true = 0;
  bool all_true = true, any_true = false;
  uint32_t line = 0;
};

void barrier_result(Warp& warp, Instruction const& i, Barrier const& barrier);  // bar.red

class Grid;

class Block {
 public:
  Block(Grid& grid, Dim index);
  /// Runs some warp for up to `budget` instructions. False: no warp can run.
  bool step(uint32_t budget);
  bool done() const { return unfinished == 0; }
  void arrive(Warp& warp, uint32_t id, uint32_t expected, bool wait, Instruction const& i);
  std::string describe() const;

  Grid& grid;
  Dim const index;
  uint32_t threads = 0;
  uint32_t unfinished = 0;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<Barrier> barriers{16};
  SharedMemory shared;
  std::unordered_map<uint64_t, std::vector<uint32_t>> released;  // clocks published by release stores, per shared word
};

class Grid {
 public:
  Grid(Launch launch, std::mt19937_64& random, uint32_t resident);
  /// Runs for about `budget` instructions. False: nothing can run.
  bool run(uint32_t budget);
  bool done() const { return blocks.empty() && next_ == launch.grid.count(); }
  std::string describe() const;
  std::string place(Warp const& warp, int lane) const;

  Launch const launch;
  std::mt19937_64& random;
  std::vector<std::unique_ptr<Block>> blocks;  // that are resident
  uint64_t executed = 0;
  std::optional<Counts> counts;  // if somebody asked for them

 private:
  uint32_t const resident_;
  uint64_t next_ = 0;
};

// ---------------------------------------------------------------- lanes
template <class F> inline void for_lanes(uint32_t lanes, F&& f) {
  if (lanes == ~0u) {
    for (int lane = 0; lane < 32; ++lane) f(lane);
  } else {
    for (uint32_t rest = lanes; rest; rest &= rest - 1) f(std::countr_zero(rest));
  }
}

template <class T> inline T get(uint32_t const* row, int lane) {
  if constexpr (sizeof(T) >= 4) {
    return reinterpret_cast<T const*>(row)[lane];
  } else if constexpr (sizeof(T) == 2) {
    return std::bit_cast<T>(static_cast<uint16_t>(row[lane]));
  } else {
    return std::bit_cast<T>(static_cast<uint8_t>(row[lane]));
  }
}

template <class T> inline void set(uint32_t* row, int lane, T value) {
  if constexpr (sizeof(T) >= 4) {
    reinterpret_cast<T*>(row)[lane] = value;
  } else if constexpr (std::is_integral_v<T>) {
    row[lane] = static_cast<uint32_t>(static_cast<int32_t>(value));  // signed types extend
  } else {
    row[lane] = std::bit_cast<uint16_t>(value);
  }
}

/// From a register that may be wider than the type: st.u32 and cvt.s64.s32 of 64 bits.
template <class T> inline T get_narrow(uint32_t const* row, int lane, uint8_t width) {
  if constexpr (sizeof(T) < 8) {
    if (width == 8) row += lane;  // 64-bit lanes lie two words apart
  }
  return get<T>(row, lane);
}

/// Into a register that may be wider than the type: ld.u8 into 16 bits, cvt.s16 into 32.
template <class T> inline void set_wide(uint32_t* row, int lane, T value, uint8_t width) {
  if constexpr (sizeof(T) < 8 && std::is_integral_v<T>) {
    if (width == 8) return void(reinterpret_cast<int64_t*>(row)[lane] = static_cast<int64_t>(value));
  }
  if constexpr (sizeof(T) == 4 && std::is_floating_point_v<T>) {
    if (width == 8) return void(reinterpret_cast<uint64_t*>(row)[lane] = std::bit_cast<uint32_t>(value));
  }
  set(row, lane, value);
}

// ---------------------------------------------------------------- handlers for plain functions of lanes
template <class D, class A, D (*function)(A)> void unary(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t* const d = w.row(i.op[0]);
  uint32_t const* const a = w.source<A>(i.op[1]);
  for_lanes(lanes, [&](int l) { set<D>(d, l, function(get<A>(a, l))); });
}
template <class D, class A, class B, D (*function)(A, B)> void binary(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t* const d = w.row(i.op[0]);
  uint32_t const *const a = w.source<A>(i.op[1]), *const b = w.source<B>(i.op[2]);
  for_lanes(lanes, [&](int l) { set<D>(d, l, function(get<A>(a, l), get<B>(b, l))); });
}
template <class D, class A, class B, class C, D (*function)(A, B, C)>
void ternary(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t* const d = w.row(i.op[0]);
  uint32_t const *const a = w.source<A>(i.op[1]), *const b = w.source<B>(i.op[2]), *const c = w.source<C>(i.op[3]);
  for_lanes(lanes, [&](int l) { set<D>(d, l, function(get<A>(a, l), get<B>(b, l), get<C>(c, l))); });
}

}  // namespace emulator
