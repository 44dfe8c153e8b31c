// SPDX-License-Identifier: Apache-2.0
// Device memory and the order of accesses to it.
#include "memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "fault.hpp"

namespace emulator {
namespace {
void* map(uint64_t bytes, int protection) {
  void* const memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw Fault("emulator", "cannot reserve address space for device memory");
  return memory;
}
bool all_are(uint8_t const* state, uint64_t bytes, ByteState wanted) {
  uint64_t i = 0;
  uint64_t const eight = 0x0101010101010101u * static_cast<uint8_t>(wanted);
  for (; i + 8 <= bytes; i += 8) {
    uint64_t got;
    std::memcpy(&got, state + i, 8);
    if (got != eight) return false;
  }
  for (; i < bytes; ++i) {
    if (state[i] != static_cast<uint8_t>(wanted)) return false;
  }
  return true;
}
}  // namespace

Memory& Memory::get() {
  static auto* const memory = new Memory;  // lives as long as the process: programs free memory in destructors
  return *memory;
}

Memory::Memory() {
  base_ = reinterpret_cast<uint64_t>(map(size_, PROT_NONE));
  bytes_ = static_cast<uint8_t*>(map(size_, PROT_READ | PROT_WRITE));
  states_ = static_cast<uint8_t*>(map(size_, PROT_READ | PROT_WRITE));
  words_ = static_cast<Word*>(map(size_ / 4 * sizeof(Word), PROT_READ | PROT_WRITE));
}

uint64_t Memory::allocate(uint64_t bytes, int device, uint64_t align) {
  align = std::max<uint64_t>(align, 256);
  uint64_t const begin = (next_ + align - 1) / align * align;
  // Behind each allocation a stretch that belongs to nobody, as long as the allocation up to 1 MB.
  uint64_t const gap = std::clamp<uint64_t>(bytes, 4096, 1 << 20);
  if (bytes > capacity_ - live_ || begin + bytes + gap > size_) return 0;
  next_ = begin + bytes + gap;
  live_ += bytes;
  std::memset(states_ + begin, static_cast<int>(ByteState::poisoned), bytes);
  std::memset(bytes_ + begin, 0xa5, bytes);
  allocations_[base_ + begin] = {.bytes = bytes, .device = device};
  return base_ + begin;
}

bool Memory::free(uint64_t address) {
  auto const found = allocations_.find(address);
  if (found == allocations_.end() || found->second.freed) return false;
  uint64_t const begin = address - base_, bytes = found->second.bytes;
  std::memset(states_ + begin, static_cast<int>(ByteState::freed), bytes);
  uint64_t const page = 4096, inner = (begin + page - 1) / page * page, end = (begin + bytes) / page * page;
  if (end > inner) {
    madvise(bytes_ + inner, end - inner, MADV_DONTNEED);
    madvise(words_ + inner / 4, (end - inner) / 4 * sizeof(Word), MADV_DONTNEED);
  }
  found->second.freed = true;
  live_ -= bytes;
  return true;
}

void Memory::add_host(void* memory, uint64_t bytes, bool managed, int device) {
  hosts_[reinterpret_cast<uint64_t>(memory)] = {.bytes = bytes, .device = device, .host = true, .managed = managed};
}

bool Memory::remove_host(void* memory) { return hosts_.erase(reinterpret_cast<uint64_t>(memory)) > 0; }

Allocation const* Memory::find(uint64_t address, uint64_t* begin) const {
  auto const& list = is_device(address) ? allocations_ : hosts_;
  auto after = list.upper_bound(address);
  if (after == list.begin()) return nullptr;
  --after;
  if (begin) *begin = after->first;
  return address < after->first + std::max<uint64_t>(after->second.bytes, 1) ? &after->second : nullptr;
}

std::string Memory::describe(uint64_t address) const {
  if (!is_device(address)) return hex(address) + " is no device address";
  auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin()) return hex(address) + " lies before all allocations";
  --after;
  uint64_t const from = address - after->first;
  std::string const of = (after->second.freed ? " freed" : " live") + std::string(" allocation of ") +
                         std::to_string(after->second.bytes) + " bytes";
  if (from < after->second.bytes) return hex(address) + " is byte " + std::to_string(from) + " of a" + of;
  return hex(address) + " is " + std::to_string(from - after->second.bytes) + " bytes behind the end of a" + of;
}

void Memory::bad_access(char const* what, uint64_t address, uint64_t bytes) const {
  uint64_t const offset = address - base_;
  for (uint64_t i = 0; i < bytes; ++i) {
    auto const state = static_cast<ByteState>(states_[offset + i]);
    char const* const kind = state == ByteState::freed                        ? "use after free"
                             : state == ByteState::none                       ? "out-of-bounds"
                             : state == ByteState::poisoned && what[0] == 'r' ? "uninitialised read"
                                                                              : nullptr;
    if (kind)
      throw Fault(kind, std::string(what) + " of " + std::to_string(bytes) + " bytes: " + describe(address + i));
  }
}

uint8_t* Memory::read(uint64_t address, uint64_t bytes, bool allow_pageable) {
  uint64_t const offset = address - base_;
  if (offset < size_ - bytes) {
    if (!all_are(states_ + offset, bytes, ByteState::written)) bad_access("read", address, bytes);
    record_read(offset, bytes);
    return bytes_ + offset;
  }
  uint64_t begin = 0;
  auto const* host = find(address, &begin);
  if (host && address + bytes > begin + host->bytes && !allow_pageable) host = nullptr;
  if (!host && !allow_pageable)
    throw Fault("out-of-bounds", "read of " + std::to_string(bytes) + " bytes: " + describe(address));
  return reinterpret_cast<uint8_t*>(address);
}

uint8_t* Memory::write(uint64_t address, uint64_t bytes, bool ordered, bool allow_pageable) {
  uint64_t const offset = address - base_;
  if (offset < size_ - bytes) {
    uint8_t* const state = states_ + offset;
    if (!all_are(state, bytes, ByteState::written)) {
      bad_access("write", address, bytes);
      std::memset(state, static_cast<int>(ByteState::written), bytes);
    }
    ordered ? record_read(offset, bytes) : record_write(offset, bytes);  // atomics do not race with each other
    return bytes_ + offset;
  }
  uint64_t begin = 0;
  auto const* host = find(address, &begin);
  if (host && address + bytes > begin + host->bytes && !allow_pageable) host = nullptr;
  if (!host && !allow_pageable)
    throw Fault("out-of-bounds", "write of " + std::to_string(bytes) + " bytes: " + describe(address));
  return reinterpret_cast<uint8_t*>(address);
}

void Memory::copy(uint64_t to, uint64_t from, uint64_t bytes) {
  if (bytes == 0) return;
  if (is_device(to) && is_device(from)) {
    uint64_t const source = from - base_, target = to - base_;
    for (uint64_t i = 0; i < bytes; ++i) {
      auto const state = static_cast<ByteState>(states_[source + i]);
      if (state == ByteState::none || state == ByteState::freed) bad_access("read", from, bytes);
    }
    record_read(source, bytes);
    write(to, bytes);
    std::memmove(bytes_ + target, bytes_ + source, bytes);
    std::memmove(states_ + target, states_ + source, bytes);
    return;
  }
  uint8_t const* const source = read(from, bytes, true);
  std::memmove(write(to, bytes, false, true), source, bytes);
}

void Memory::poison(uint64_t address, uint64_t bytes) {
  std::memset(states_ + (address - base_), static_cast<int>(ByteState::poisoned), bytes);
  std::memset(bytes_ + (address - base_), 0xa5, bytes);
}

uint32_t Memory::begin_actor(Actor actor) {
  actors_.push_back(std::move(actor));
  return actor_ = static_cast<uint32_t>(actors_.size() - 1);
}

bool Memory::before(uint32_t earlier) const {
  if (earlier == actor_ || earlier == 0) return true;
  Actor const &then = actors_[earlier], &now = actors_[actor_];
  if (then.stream == now.stream) return true;
  return then.stream < now.seen.size() && now.seen[then.stream] >= then.clock;
}

void Memory::race(char const* what, uint64_t offset, uint32_t other) const {
  throw Fault("race between streams", std::string(what) + " by '" + actors_[actor_].name + "' (stream " +
                                          std::to_string(actors_[actor_].stream) +
                                          ") is not ordered after the access by '" + actors_[other].name +
                                          "' (stream " + std::to_string(actors_[other].stream) +
                                          "): an event or a synchronisation is missing; " + describe(base_ + offset));
}

void Memory::record_read(uint64_t offset, uint64_t bytes) {
  if (actor_ == 0 || bytes == 0) return;
  uint32_t const mine = actor_ << 4;
  for (uint64_t word = offset / 4, last = (offset + bytes - 1) / 4; word <= last; ++word) {
    uint64_t const from = std::max(offset, word * 4) - word * 4, to = std::min(offset + bytes, word * 4 + 4) - word * 4;
    uint32_t const touched = (15u >> (4 - to)) & (15u << from) & 15u;
    Word& w = words_[word];
    if ((w.writer & ~15u) != mine && (w.writer & touched) && !before(w.writer >> 4))
      race("read", word * 4, w.writer >> 4);
    if ((w.readers[0] & ~15u) == mine) {
      w.readers[0] |= touched;
    } else if (before(w.readers[0] >> 4)) {
      w.readers[0] = mine | touched;
    } else {  // two readers that are not ordered: both are kept, a third takes the second one's place
      w.readers[1] = mine | touched | ((w.readers[1] & ~15u) == mine ? w.readers[1] & 15u : 0);
    }
  }
}

void Memory::record_write(uint64_t offset, uint64_t bytes) {
  if (actor_ == 0 || bytes == 0) return;
  uint32_t const mine = actor_ << 4;
  for (uint64_t word = offset / 4, last = (offset + bytes - 1) / 4; word <= last; ++word) {
    uint64_t const from = std::max(offset, word * 4) - word * 4, to = std::min(offset + bytes, word * 4 + 4) - word * 4;
    uint32_t const touched = (15u >> (4 - to)) & (15u << from) & 15u;
    Word& w = words_[word];
    for (uint32_t const other : {w.writer, w.readers[0], w.readers[1]}) {
      if ((other & ~15u) != mine && (other & touched) && !before(other >> 4)) race("write", word * 4, other >> 4);
    }
    w.writer = (w.writer & ~15u) == mine ? w.writer | touched : mine | touched;
    w.readers[0] = w.readers[1] = 0;
  }
}

}  // namespace emulator
