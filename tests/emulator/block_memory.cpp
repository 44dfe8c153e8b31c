// SPDX-License-Identifier: Apache-2.0
// Shared and local memory: bounds, initialisation and order between warps.
#include "block_memory.hpp"

#include <algorithm>
#include <cstring>

#include "fault.hpp"

namespace emulator {
namespace {
constexpr auto poisoned = static_cast<uint8_t>(ByteState::poisoned);
constexpr auto written = static_cast<uint8_t>(ByteState::written);
constexpr auto in_flight = static_cast<uint8_t>(ByteState::in_flight);

uint32_t touched(uint64_t word, uint64_t begin, uint64_t end) {  // which of a word's 4 bytes
  uint64_t const from = std::max(begin, word * 4) - word * 4, to = std::min(end, word * 4 + 4) - word * 4;
  return (15u >> (4 - to)) & (15u << from);
}
std::string thread(uint32_t warp, uint32_t lane) {
  return "warp " + std::to_string(warp) + " lane " + std::to_string(lane);
}
}  // namespace

SharedMemory::SharedMemory(Module const& module, Function const& f, uint64_t dynamic_bytes, uint32_t warps)
    : warps_(warps),
      static_bytes_((std::max(f.shared_end, module.module_shared_end) - static_shared + 15) / 16 * 16),
      dynamic_begin_(module.dynamic_begin),
      dynamic_bytes_(dynamic_bytes),
      bytes_(static_bytes_ + dynamic_bytes, 0xa5),
      states_(static_bytes_ + dynamic_bytes, poisoned),
      writers_(bytes_.size() / 4 + 1),
      readers_((bytes_.size() / 4 + 1) * warps) {
  std::fill_n(states_.begin(), static_bytes_, 0);
  for (auto const* const spans : {&module.shared_spans, &f.shared_spans}) {
    for (Span const& span : *spans) {
      std::fill(states_.begin() + (span.begin - static_shared), states_.begin() + (span.end - static_shared), poisoned);
    }
  }
}

uint64_t SharedMemory::place(uint64_t address, uint32_t bytes, char const* what) const {
  uint64_t at = 0;
  bool inside = false;
  if (address >= dynamic_begin_) {
    inside = address + bytes <= dynamic_begin_ + dynamic_bytes_;
    at = address - dynamic_begin_ + static_bytes_;
  } else {
    inside = address >= static_shared && address + bytes <= static_shared + static_bytes_;
    at = address - static_shared;
  }
  inside = inside && std::memchr(states_.data() + at, 0, bytes) == nullptr;
  if (!inside) {
    throw Fault("shared-memory overrun",
                std::string(what) + " of " + std::to_string(bytes) + " bytes at shared address " + hex(address) +
                    " is in no shared variable of this kernel (" + std::to_string(dynamic_bytes_) +
                    " bytes of dynamic shared memory from " + hex(dynamic_begin_) + ")");
  }
  return at;
}

uint8_t* SharedMemory::read(uint64_t address, uint32_t bytes, Access const& a, Module const& module) {
  uint64_t const at = place(address, bytes, "read");
  for (uint32_t i = 0; i < bytes; ++i) {
    if (states_[at + i] == written) continue;
    uint32_t const line = writers_[(at + i) / 4].line;
    if (states_[at + i] == in_flight) {
      throw Fault("missing wait",
                  "read of shared memory that an asynchronous copy still has to fill: no wait covers it; issued at " +
                      module.where(line));
    }
    throw Fault("uninitialised read", "shared address " + hex(address + i) + " was never written by this block");
  }
  uint32_t const mine = (*a.clock)[a.warp];
  for (uint64_t word = at / 4, last = (at + bytes - 1) / 4; word <= last; ++word) {
    Writer const& w = writers_[word];
    uint32_t const mask = touched(word, at, at + bytes);
    if ((w.clock & mask) && !(w.ordered && a.ordered)) {
      bool const same = w.warp == a.warp;
      if (same ? w.lane != a.lane && w.clock >> 4 == mine : w.clock >> 4 > (*a.clock)[w.warp]) {
        throw Fault("race in shared memory", "read by " + thread(a.warp, a.lane) +
                                                 " is not ordered after the write by " + thread(w.warp, w.lane) + ": " +
                                                 (same ? "__syncwarp" : "a barrier (__syncthreads)") +
                                                 " is missing; written at " + module.where(w.line));
      }
    }
    Reader& r = readers_[word * warps_ + a.warp];
    r.clock = r.clock >> 4 == mine ? r.clock | mask : mine << 4 | mask;
    r.line = a.line;
  }
  return bytes_.data() + at;
}

uint8_t* SharedMemory::write(uint64_t address, uint32_t bytes, Access const& a, Module const& module,
                             uint8_t const* value) {
  uint64_t const at = place(address, bytes, "write");
  uint32_t const mine = (*a.clock)[a.warp];
  for (uint64_t word = at / 4, last = (at + bytes - 1) / 4; word <= last; ++word) {
    Writer& w = writers_[word];
    uint32_t const mask = touched(word, at, at + bytes);
    if (states_[std::max(at, word * 4)] == in_flight) {
      throw Fault("missing wait", "write to shared memory that an asynchronous copy still has to fill; issued at " +
                                      module.where(w.line));
    }
    bool const same_value = value && std::memcmp(value, bytes_.data() + at, bytes) == 0;
    if ((w.clock & mask) && w.warp != a.warp && !(w.ordered && a.ordered) && !same_value &&
        w.clock >> 4 > (*a.clock)[w.warp]) {
      throw Fault("race in shared memory", "write by " + thread(a.warp, a.lane) +
                                               " is not ordered after the write by " + thread(w.warp, w.lane) +
                                               ": a barrier is missing; written at " + module.where(w.line));
    }
    for (uint32_t other = 0; other < warps_ && !a.ordered; ++other) {
      Reader const& r = readers_[word * warps_ + other];
      if (other != a.warp && (r.clock & mask) && r.clock >> 4 > (*a.clock)[other]) {
        throw Fault("race in shared memory", "write by " + thread(a.warp, a.lane) +
                                                 " is not ordered after a read by warp " + std::to_string(other) +
                                                 ": a barrier is missing; read at " + module.where(r.line));
      }
    }
    bool const own = w.warp == a.warp && w.lane == a.lane && w.clock >> 4 == mine;
    w = {.clock = own ? w.clock | mask : mine << 4 | mask,
         .line = a.line,
         .warp = static_cast<uint16_t>(a.warp),
         .lane = static_cast<uint8_t>(a.lane),
         .ordered = a.ordered};
  }
  std::fill_n(states_.begin() + at, bytes, written);
  return bytes_.data() + at;
}

void SharedMemory::set_in_flight(uint64_t address, uint32_t bytes, bool value) {
  uint64_t const at = place(address, bytes, "write");
  std::fill_n(states_.begin() + at, bytes, value ? in_flight : written);
  if (value) std::fill_n(bytes_.begin() + at, bytes, 0xa5);
}

LocalMemory::LocalMemory(Module const& module, Function const& f)
    : function_bytes_((module.function_local_end - function_local + 15) / 16 * 16),
      kernel_bytes_((f.local_end - kernel_local + 15) / 16 * 16),
      stride_(function_bytes_ + kernel_bytes_),
      bytes_(stride_ * 32, 0xa5),
      states_(stride_ * 32, poisoned) {}

uint64_t LocalMemory::place(uint64_t address, uint32_t bytes, int lane, char const* what) const {
  if (address >= kernel_local && address + bytes <= kernel_local + kernel_bytes_) {
    return lane * stride_ + function_bytes_ + (address - kernel_local);
  }
  if (address >= function_local && address + bytes <= function_local + function_bytes_) {
    return lane * stride_ + (address - function_local);
  }
  throw Fault("out-of-bounds", std::string(what) + " of " + std::to_string(bytes) + " bytes at local address " +
                                   hex(address) + ": outside this thread's local memory");
}

uint8_t* LocalMemory::read(uint64_t address, uint32_t bytes, int lane) {
  uint64_t const at = place(address, bytes, lane, "read");
  for (uint32_t i = 0; i < bytes; ++i) {
    if (states_[at + i] != written)
      throw Fault("uninitialised read", "local address " + hex(address + i) + " was never written");
  }
  return bytes_.data() + at;
}

uint8_t* LocalMemory::write(uint64_t address, uint32_t bytes, int lane) {
  uint64_t const at = place(address, bytes, lane, "write");
  std::fill_n(states_.begin() + at, bytes, written);
  return bytes_.data() + at;
}

void LocalMemory::copy(uint64_t to, uint64_t from, uint32_t bytes, int lane) {
  uint64_t const target = place(to, bytes, lane, "write"), source = place(from, bytes, lane, "read");
  std::memcpy(bytes_.data() + target, bytes_.data() + source, bytes);
  std::memcpy(states_.data() + target, states_.data() + source, bytes);
}

}  // namespace emulator
