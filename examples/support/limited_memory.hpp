// SPDX-License-Identifier: Apache-2.0
// A rank's memory with a hard end: counts what is really allocated and refuses what is over the limit.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory_resource>
#include <new>

namespace example {

/// From any thread. `touch`: writes to what it gives out, so that the pages are really there.
class LimitedMemory : public std::pmr::memory_resource {
 public:
  explicit LimitedMemory(size_t limit, bool touch = false) : limit_(limit), touch_(touch) {}

  size_t used() const { return used_; }
  /// Counts bytes that lie elsewhere, in a std::vector. Throws std::bad_alloc as an allocation would.
  void charge(size_t bytes) {
    if (used_.fetch_add(bytes) + bytes <= limit_) return;
    used_ -= bytes;
    throw std::bad_alloc();
  }

 private:
  void* do_allocate(size_t bytes, size_t alignment) override {
    charge(bytes);
    try {
      void* const p = std::pmr::new_delete_resource()->allocate(bytes, alignment);
      if (touch_) std::memset(p, 0, bytes);
      return p;
    } catch (...) {
      used_ -= bytes;
      throw;
    }
  }
  void do_deallocate(void* p, size_t bytes, size_t alignment) override {
    std::pmr::new_delete_resource()->deallocate(p, bytes, alignment);
    used_ -= bytes;
  }
  bool do_is_equal(memory_resource const& other) const noexcept override { return this == &other; }

  size_t limit_;
  bool touch_;
  std::atomic<size_t> used_{0};
};

/// Bytes of a memory resource, aligned to 64.
class Bytes {
 public:
  Bytes(std::pmr::memory_resource& memory, size_t size)
      : memory_(&memory), size_(size), data_(static_cast<std::byte*>(memory.allocate(size, 64))) {}
  Bytes(Bytes&& o) noexcept : memory_(o.memory_), size_(o.size_), data_(o.data_) { o.data_ = nullptr; }
  Bytes& operator=(Bytes&&) = delete;
  ~Bytes() {
    if (data_) memory_->deallocate(data_, size_, 64);
  }

  std::byte* data() const { return data_; }

 private:
  std::pmr::memory_resource* memory_;
  size_t size_;
  std::byte* data_;
};

}  // namespace example
