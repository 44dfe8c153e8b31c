// SPDX-License-Identifier: Apache-2.0
// Memory of one block (shared) and of one warp's lanes (local), with a state per byte.
#pragma once
#include <cstdint>
#include <vector>

#include "memory.hpp"
#include "ptx.hpp"

namespace emulator {

/// Clocks order accesses of different warps: each warp counts its own barriers, and knows of each other warp's count
/// what barriers have told it. An access is ordered after another warp's one if it knows that warp's clock at that
/// time.
class SharedMemory {
 public:
  SharedMemory(Module const& module, Function const& function, uint64_t dynamic_bytes, uint32_t warps);

  struct Access {
    uint32_t warp = 0, lane = 0, line = 0;
    std::vector<uint32_t> const* clock = nullptr;
    bool ordered = false;  // atomics, volatile: not a race with their like
  };
  /// Faults: outside, misaligned is the caller's business, uninitialised, in flight, race.
  uint8_t* read(uint64_t address, uint32_t bytes, Access const& access, Module const& module);
  /// With the value about to be written, two warps that write the same are forgiven.
  uint8_t* write(uint64_t address, uint32_t bytes, Access const& access, Module const& module, uint8_t const* value);
  /// Between an asynchronous copy's issue and its arrival nobody may touch its destination.
  void set_in_flight(uint64_t address, uint32_t bytes, bool in_flight);

 private:
  struct Writer {
    uint32_t clock = 0;  // * 16 + bytes touched; 0: nobody
    uint32_t line = 0;
    uint16_t warp = 0;
    uint8_t lane = 0;
    bool ordered = false;
  };
  struct Reader {
    uint32_t clock = 0, line = 0;
  };
  uint64_t place(uint64_t address, uint32_t bytes, char const* what) const;

  uint32_t const warps_;
  uint64_t static_bytes_, dynamic_begin_, dynamic_bytes_;
  std::vector<uint8_t> bytes_, states_;
  std::vector<Writer> writers_;  // per 4 bytes
  std::vector<Reader> readers_;  // per 4 bytes and warp
};

/// Local variables and the parameters of calls, for the 32 lanes of a warp.
class LocalMemory {
 public:
  LocalMemory(Module const& module, Function const& function);
  uint8_t* read(uint64_t address, uint32_t bytes, int lane);
  uint8_t* write(uint64_t address, uint32_t bytes, int lane);
  void copy(uint64_t to, uint64_t from, uint32_t bytes, int lane);  // with its state

 private:
  uint64_t place(uint64_t address, uint32_t bytes, int lane, char const* what) const;
  uint64_t function_bytes_, kernel_bytes_, stride_;
  std::vector<uint8_t> bytes_, states_;
};

}  // namespace emulator
