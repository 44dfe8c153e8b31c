// SPDX-License-Identifier: Apache-2.0
// A steady in-process ring allocates nothing: global operator new counts.
#include <doctest/doctest.h>
#include <ringattn/comm/in_process.hpp>

#include <atomic>
#include <cstdlib>
#include <new>

#include "conformance.hpp"

// clang's sanitizers define these operators themselves and cannot be linked with others.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define RINGATTN_TEST_NO_COUNT
#endif
#endif

using namespace ringattn;
using namespace ringattn::test;

namespace {
std::atomic<long> allocations{0};
}

#ifndef RINGATTN_TEST_NO_COUNT
// Not inlined, since g++ takes the pair for a mismatch when it sees through one of them only.
[[gnu::noinline]] void* operator new(size_t n) {
  ++allocations;
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }
#endif

TEST_CASE("in_process: a steady ring allocates nothing") {
  std::atomic<int> ready = 0, done = 0;
  std::atomic<long> before = -1, after = -1;
  run_ranks(4, [&](InProcess& comm) {
    HostControl host;
    std::byte out[64] = {}, in[64];
    Send const s[2] = {{next(comm), out}, {next(comm), {out, 32}}};
    Recv const r[2] = {{previous(comm), in}, {previous(comm), {in, 32}}};
    int const mine = 1;
    int all[4];
    // All threads are up before the first count, and none ends before the last.
    if (++ready == 4) before = allocations.load();
    while (before < 0) std::this_thread::yield();
    for (int i = 0; i < 100; ++i) {
      auto t = comm.exchange(host, s, r);
      auto c = comm.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
      while (!t.wait_for(host, 1s) || !c.wait_for(host, 1s)) {
      }
    }
    if (++done == 4) after = allocations.load();
    while (after < 0) std::this_thread::yield();
  });
  CHECK(after - before == 0);
}
