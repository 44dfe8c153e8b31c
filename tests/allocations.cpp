// SPDX-License-Identifier: Apache-2.0
// Calls allocate nothing: operator new is counted, on every thread, between two points all ranks have passed.
#include <ringattn/cpu/backend.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <barrier>
#include <cstdlib>
#include <new>

#include "conformance.hpp"

namespace {
std::atomic<long> allocations{0};

void* counted(size_t bytes, size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* const p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(size_t n) { return counted(n ? n : 1, 16); }
void* operator new[](size_t n) { return counted(n ? n : 1, 16); }
void* operator new(size_t n, std::align_val_t a) { return counted(n ? n : 1, size_t(a)); }
void* operator new[](size_t n, std::align_val_t a) { return counted(n ? n : 1, size_t(a)); }
// Replaced as a set; inlined into a caller, GCC sees free() meet operator new and warns.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }

using namespace ringattn;
using namespace ringattn::test;

namespace {

template <class Precision_, class Mask_> struct Pol : Policy {
  using Precision = Precision_;
  using Mask = Mask_;
  using Shard = ZigZag;
  using Tiles = FixedTiles<8, 8>;
  static constexpr int head_dim = 16;
};

/// Allocations in `calls` forward and backward calls of a ring, all ranks together, after a first one.
template <class P> long allocations_of(int ranks, int threads, Commit commit, int calls) {
  PlanOptions<P> const options{.problem = {.batch = 2, .seq = 61, .heads = 4, .kv_heads = 2}, .commit = commit};
  auto const setup = make_setup<P>(options, InputClass::normal, 1);
  std::barrier gate(ranks);
  std::atomic<long> before{0}, after{0};
  run_ranks(ranks, [&](InProcess& comm) {
    using Element = typename P::Precision::Element;
    using Accumulator = typename P::Precision::Accumulator;
    Cpu cpu({.threads = threads});
    RingAttention<P> ring(cpu, comm, setup.options);
    Local const l = ring.local();
    auto const q = take_rows(setup.q, setup.q_extents(), ring.rows()),
               k = take_rows(setup.k, setup.k_extents(), ring.kv_rows()),
               v = take_rows(setup.v, setup.v_extents(), ring.kv_rows()),
               dout = take_rows(setup.dout, setup.out_extents(), ring.rows());
    Tensor<Element> out(l.out), dq(l.q), dk(l.k), dv(l.v);
    Tensor<Accumulator> lse(l.lse);
    auto const in = [](auto const& x, Extents e) { return View<Element const>(x.data(), e); };
    auto const call = [&] {
      ring.forward({.q = in(q, l.q), .k = in(k, l.k), .v = in(v, l.v), .out = out, .lse = lse});
      ring.backward({.q = in(q, l.q),
                     .k = in(k, l.k),
                     .v = in(v, l.v),
                     .out = out,
                     .lse = lse,
                     .dout = in(dout, l.out),
                     .dq = dq,
                     .dk = dk,
                     .dv = dv});
    };
    call();
    gate.arrive_and_wait();
    if (comm.rank() == 0) before = allocations.load();
    gate.arrive_and_wait();
    for (int i = 0; i < calls; ++i) call();
    gate.arrive_and_wait();
    if (comm.rank() == 0) after = allocations.load();
    gate.arrive_and_wait();
  });
  return after - before;
}

}  // namespace

TEST_CASE("allocations: none in a call") {
  for (int ranks : {1, 2, 4})
    for (Commit commit : {Commit::all, Commit::local}) {
      CHECK(allocations_of<Pol<Fp32, Causal>>(ranks, 1, commit, 5) == 0);
      CHECK(allocations_of<Pol<Bf16, Full>>(ranks, 1, commit, 5) == 0);
      CHECK(allocations_of<Pol<Fp32, Causal>>(ranks, 2, commit, 5) == 0);
    }
}

TEST_CASE("allocations: the counter counts") {
  long const before = allocations;
  Tensor<float> const t(Extents{1, 2, 3, 4});
  CHECK(allocations > before);
}
