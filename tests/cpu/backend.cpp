// SPDX-License-Identifier: Apache-2.0
// Cpu as a citizen: its thread pool, memory, allocations per call, progress hooks, errors.
#include <atomic>
#include <cstdlib>
#include <new>
#include <set>
#include <stdexcept>
#include <thread>

#include "cases.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t n) {
  ++allocations;
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
void* operator new(std::size_t n, std::align_val_t a) {
  ++allocations;
  std::size_t const unit = std::size_t(a);
  if (n > std::size_t(1) << 40) throw std::bad_alloc();
  if (void* p = std::aligned_alloc(unit, (n + unit - 1) / unit * unit)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace {

using K = Kernel<Fp32, Causal, Plain, DefaultTiles, 32, 32>;
static_assert(DeviceBackend<Cpu> && Attends<Cpu, K> && AttendsBackward<Cpu, K>);

constexpr Rows some_rows[] = {{0, 1, 1000}};
static_assert(Cpu::attend_bytes<K>({.heads = 4, .kv_heads = 2, .q_rows = some_rows}, 2) % 64 == 0,
              "a constant expression");
static_assert(Cpu::attend_bytes<K>({.heads = 4, .kv_heads = 2, .q_rows = some_rows}, 2) <
                  Cpu::attend_bytes<K>({.heads = 4, .kv_heads = 2, .q_rows = some_rows}, 3),
              "scratch per thread");

Case<K> example() {
  Case<K> c{.heads = 4, .kv_heads = 2, .q_rows = {{0, 1, 600}}, .k_rows = {{0, 1, 300}, {300, 1, 300}}};
  c.fill(31);
  return c;
}

struct Hook {
  std::thread::id caller = std::this_thread::get_id();
  int calls = 0, allowed = 1 << 30;
  bool elsewhere = false;

  Progress progress() {
    return {[](void* p) {
              Hook& h = *static_cast<Hook*>(p);
              h.elsewhere |= std::this_thread::get_id() != h.caller;
              return ++h.calls <= h.allowed;
            },
            this};
  }
};

}  // namespace

TEST_CASE("no allocations between begin and finish") {
  auto const c = example();
  for (int threads : {1, 3}) {
    Cpu cpu({.threads = threads});
    long before = 0, during = 0;
    c.run(cpu, {1, 1}, {},
          [&](bool begins) { begins ? void(before = allocations) : void(during += allocations - before); });
    CHECK(during == 0);
  }
}

TEST_CASE("progress is driven on the calling thread, and can stop a step") {
  auto const c = example();
  for (int threads : {1, 3}) {
    CAPTURE(threads);
    Cpu cpu({.threads = threads});
    Hook hook;
    auto const got = c.run(cpu, {1, 1}, hook.progress());
    CHECK(hook.calls >= 4);  // at least once in every step
    CHECK_FALSE(hook.elsewhere);
    Cpu other;
    CHECK(got == c.run(other));
    bool stopped = false;  // the other threads may be done before the calling one looks
    for (int i = 0; i < 100 && !stopped; ++i) {
      cpu.reset_computed_pairs();
      Hook stopping;
      stopping.allowed = 0;
      c.run(cpu, {1, 1}, stopping.progress());  // returns, whatever is in the outputs
      stopped = cpu.computed_pairs() < other.computed_pairs();
    }
    CHECK(stopped);
  }
}

namespace {

struct Throwing {
  static constexpr bool identity = false;
  template <class A> A apply(A x, int64_t, int64_t q, int64_t) const {
    if (q == 77) throw std::runtime_error("score");
    return x;
  }
  template <class A> A slope(A, int64_t, int64_t, int64_t) const { return A(1); }
  std::uint64_t fingerprint() const { return 1; }
};
struct FailsBackward : Throwing {
  template <class A> A apply(A x, int64_t, int64_t, int64_t) const { return x; }
  template <class A> A slope(A, int64_t, int64_t q, int64_t) const {
    if (q == 3) throw std::runtime_error("slope");
    return A(1);
  }
};

}  // namespace

TEST_CASE("what a score throws comes out, and the backend can be used again") {
  using T = Kernel<Fp32, Full, Throwing, DefaultTiles, 16, 16>;
  Case<T> bad{.heads = 4, .kv_heads = 2, .q_rows = {{0, 1, 300}}, .k_rows = {{0, 1, 300}}};
  bad.fill(32);
  auto const good = example();
  for (int threads : {1, 3}) {
    Cpu cpu({.threads = threads}), one;
    CHECK_THROWS_WITH_AS(bad.run(cpu), "score", std::runtime_error);
    CHECK(good.run(cpu) == good.run(one));
  }
  Cpu user({.threads = 2, .run = [](int n, std::function<void(int)> const& body) {
              for (int i = 0; i < n; ++i) body(i);
            }});
  CHECK_THROWS_WITH_AS(bad.run(user), "score", std::runtime_error);
}

TEST_CASE("backward stops without waiting for a chunk that failed") {
  using T = Kernel<Fp32, Full, FailsBackward, DefaultTiles, 16, 16>;
  Case<T> bad{.q_rows = {{0, 1, 3000}}, .k_rows = {{0, 1, 300}}};
  bad.fill(33);
  Cpu cpu({.threads = 3});
  CHECK_THROWS_WITH_AS(bad.run(cpu), "slope", std::runtime_error);
}

TEST_CASE("memory") {
  struct Counting : std::pmr::memory_resource {
    size_t held = 0, largest_alignment = 0;
    void* do_allocate(size_t bytes, size_t alignment) override {
      if (bytes > 1 << 20) throw std::bad_alloc();
      held += bytes;
      largest_alignment = std::max(largest_alignment, alignment);
      return std::pmr::new_delete_resource()->allocate(bytes, alignment);
    }
    void do_deallocate(void* p, size_t bytes, size_t alignment) override {
      held -= bytes;
      std::pmr::new_delete_resource()->deallocate(p, bytes, alignment);
    }
    bool do_is_equal(memory_resource const& o) const noexcept override { return this == &o; }
  } memory;
  Cpu cpu({.memory = &memory}), plain;
  {
    auto a = cpu.allocate(1000);
    CHECK(memory.held == 1000);
    CHECK(memory.largest_alignment == 64);
    CHECK(std::uintptr_t(a.data()) % 64 == 0);
    auto b = std::move(a);
    CHECK(a.data() == nullptr);
    b = cpu.allocate(10);
    CHECK(memory.held == 10);
  }
  CHECK(memory.held == 0);
  CHECK(std::uintptr_t(plain.allocate(1).data()) % 64 == 0);
  CHECK(plain.allocate(0).data() != nullptr);
  auto const code = [](auto f) {
    try {
      f();
    } catch (Error const& e) {
      return e.code();
    }
    return ErrorCode::transport;
  };
  CHECK(code([&] { cpu.allocate(2 << 20); }) == ErrorCode::out_of_memory);
  CHECK(code([&] { plain.allocate(size_t(1) << 50); }) == ErrorCode::out_of_memory);
  CHECK(code([&] { Cpu none({.threads = 0}); }) == ErrorCode::invalid_argument);
}

TEST_CASE("thread pool: every worker once, again and again") {
  for (int threads : {1, 2, 5}) {
    cpu::ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    auto const caller = std::this_thread::get_id();
    for (int round = 0; round < 300; ++round) {
      if (round % 50 == 49) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the others fall asleep
      std::vector<int> calls(static_cast<size_t>(threads));
      bool zero_here = false;
      pool.run([&](int worker) {
        ++calls[size_t(worker)];
        if (worker == 0) zero_here = std::this_thread::get_id() == caller;
      });
      CHECK(calls == std::vector<int>(static_cast<size_t>(threads), 1));
      CHECK(zero_here);
    }
  }
}

TEST_CASE("thread pool: exceptions and idling") {
  cpu::ThreadPool pool(3);
  for (int thrower : {0, 1, 2}) {
    std::atomic<int> finished{0};
    CHECK_THROWS_WITH_AS(pool.run([&](int worker) {
      if (worker == thrower) throw std::runtime_error("worker");
      ++finished;
    }),
                         "worker", std::runtime_error);
    CHECK(finished == 2);  // nobody is left running
  }
  int idle = 0;
  std::atomic<bool> seen{false};
  pool.run(
      [&](int worker) {
        while (worker > 0 && !seen) std::this_thread::yield();
      },
      [&] { seen = ++idle > 2; });
  CHECK(idle > 2);

  std::atomic<int> finished{0};
  seen = false;
  auto const throwing = [&] {
    pool.run(
        [&](int worker) {
          while (worker > 0 && !seen) std::this_thread::yield();
          ++finished;
        },
        [&] {
          seen = true;
          throw std::runtime_error("idle");
        });
  };
  CHECK_THROWS_WITH_AS(throwing(), "idle", std::runtime_error);
  CHECK(finished == 3);
}

TEST_CASE("progress that throws ends the step, in every thread") {
  auto const c = example();
  for (int threads : {1, 3}) {
    Cpu cpu({.threads = threads});
    Progress const throwing{[](void*) -> bool { throw std::runtime_error("progress"); }, nullptr};
    CHECK_THROWS_WITH_AS(c.run(cpu, {1, 1}, throwing), "progress", std::runtime_error);
    CHECK(c.run(cpu) == c.run(cpu));  // and it can go on
  }
}
