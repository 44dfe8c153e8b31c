// SPDX-License-Identifier: Apache-2.0
// Device memory: addresses that the host cannot touch, a state for every byte, and who touched it last.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace emulator {

enum class ByteState : uint8_t { none = 0, poisoned = 1, written = 2, freed = 3, in_flight = 4 };

struct Allocation {
  uint64_t bytes = 0;
  int device = 0;
  bool host = false, managed = false, freed = false;
};

/// One piece of work on a stream (a kernel, a copy). `clock` counts the work of its stream, `seen` is the latest clock
/// of every stream that is ordered before it: the usual vector clocks.
struct Actor {
  std::string name;
  uint32_t stream = 0, clock = 0;
  std::vector<uint32_t> seen;
};

/// All devices share it (unified addressing). A device address is a number: the bytes lie `bytes_ - base` away from it,
/// so that a host program that follows a device pointer crashes as it would with a GPU. Addresses are never used twice.
/// Not thread safe: callers hold the runtime's lock.
class Memory {
 public:
  static Memory& get();

  uint64_t allocate(uint64_t bytes, int device, uint64_t align = 256);  // 0: none left
  bool free(uint64_t address);
  void add_host(void* memory, uint64_t bytes, bool managed, int device);
  bool remove_host(void* memory);
  Allocation const* find(uint64_t address, uint64_t* begin = nullptr) const;

  /// Where the bytes are, after the checks: live, initialised (reads), and ordered after earlier work that touched
  /// them. Throws Fault. Memory that was never allocated here is `allow_pageable ? used as it is : a fault`.
  uint8_t* read(uint64_t address, uint64_t bytes, bool allow_pageable = false);
  uint8_t* write(uint64_t address, uint64_t bytes, bool ordered = false, bool allow_pageable = false);
  /// Copies without complaint about uninitialised bytes, and copies that state as well.
  void copy(uint64_t to, uint64_t from, uint64_t bytes);
  void poison(uint64_t address, uint64_t bytes);  // back to uninitialised
  bool is_device(uint64_t address) const { return address - base_ < size_; }
  uint8_t* raw(uint64_t address) {
    return is_device(address) ? bytes_ + (address - base_) : reinterpret_cast<uint8_t*>(address);
  }

  uint32_t begin_actor(Actor actor);  // the work that accesses belong to from here on
  void set_actor(uint32_t id) { actor_ = id; }
  uint64_t live_bytes() const { return live_; }
  uint64_t capacity() const { return capacity_; }
  std::string describe(uint64_t address) const;

 private:
  struct Word {  // last accesses to 4 bytes: actor * 16 + the bytes touched
    uint32_t writer = 0, readers[2] = {};
  };
  Memory();
  bool before(uint32_t earlier) const;  // ordered before the current actor
  void record_read(uint64_t offset, uint64_t bytes);
  void record_write(uint64_t offset, uint64_t bytes);
  void bad_access(char const* what, uint64_t address, uint64_t bytes) const;
  [[noreturn]] void race(char const* what, uint64_t offset, uint32_t other) const;

  static constexpr uint64_t size_ = uint64_t{1} << 36;  // of addresses; pages come when they are touched
  uint64_t base_ = 0, next_ = 1 << 20, live_ = 0, capacity_ = uint64_t{8} << 30;
  uint8_t* bytes_ = nullptr;
  uint8_t* states_ = nullptr;
  Word* words_ = nullptr;
  std::map<uint64_t, Allocation> allocations_, hosts_;
  std::vector<Actor> actors_{1};
  uint32_t actor_ = 0;
};

}  // namespace emulator
