// SPDX-License-Identifier: Apache-2.0
// A rank throws, stalls, disagrees or runs out of memory, at any point: nobody hangs, everybody throws in time, outputs
// stay as they were, and the error names things.
#include <ringattn/cpu/backend.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include "conformance.hpp"

using namespace ringattn;
using namespace ringattn::test;
using namespace std::chrono_literals;

namespace {

constexpr auto deadline = 200ms;

enum class Fault { none, throws, stalls };

/// A Cpu that fails on purpose, at the `at`-th step (forward or backward).
class Faulty : public Cpu {
 public:
  Fault fault = Fault::none;
  bool backward = false;
  int at = 0;

  template <class K> void step(AttendStep<K, HostSpace> const& s) {
    if (!backward) fail(s.progress);
    Cpu::step<K>(s);
  }
  template <class K> void step_backward(BackwardStep<K, HostSpace> const& s) {
    if (backward) fail(s.progress);
    Cpu::step_backward<K>(s);
  }

 private:
  void fail(Progress const&) {
    if (count_++ != at) return;
    if (fault == Fault::throws) throw std::runtime_error("planted fault");
    if (fault == Fault::stalls) std::this_thread::sleep_for(2 * deadline);
  }
  int count_ = 0;
};

struct FaultyPolicy : Policy {
  using Mask = Full;
  using Backend = Faulty;
  using Tiles = FixedTiles<8, 8>;
  static constexpr int head_dim = 8;
};
struct Serially : FaultyPolicy {
  using Overlap = Serial;
};

/// What a rank saw.
struct Seen {
  bool threw = false, untouched = true;
  double seconds = 0;
  std::string what;
  ErrorCode code{};
  bool error = false;
};

/// Calls f, notes what it throws and when. `untouched` is asked afterwards.
template <class F, class U> Seen watch(F f, U untouched) {
  Seen seen;
  auto const start = std::chrono::steady_clock::now();
  try {
    f();
  } catch (Error const& e) {
    seen.threw = seen.error = true;
    seen.what = e.what();
    seen.code = e.code();
  } catch (std::exception const& e) {
    seen.threw = true;
    seen.what = e.what();
  }
  seen.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  seen.untouched = untouched();
  return seen;
}

template <class T> bool is_garbage(std::vector<T> const& x, Extents const& e) { return same_bits(x, garbage<T>(e)); }

/// Returns when all threads have called it, or after 10 s: a rank that failed early must not catch the others still in
/// the call before, which would then rightly throw.
void meet(std::atomic<int>& arrived, int size) {
  auto const end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  for (++arrived; arrived < size && std::chrono::steady_clock::now() < end;) std::this_thread::yield();
}

/// Forward and, if the fault is there, backward; the last call is watched.
template <class P> std::vector<Seen> run_faulty(int size, Fault fault, bool backward, int at, int bad) {
  PlanOptions<P> options{.problem = {.seq = 8 * size}, .commit = Commit::all};
  auto const setup = make_setup<P>(options, InputClass::normal, 3);
  std::vector<Seen> seen(static_cast<size_t>(size));
  std::atomic<int> planned{0}, forwarded{0};
  run_ranks(size,
            [&](InProcess& comm) {
              Faulty backend;
              if (comm.rank() == bad) backend.fault = fault;
              backend.backward = backward;
              backend.at = at;
              RingAttention<P> ring(backend, comm, setup.options);
              Local const local = ring.local();
              auto const q = take_rows(setup.q, setup.q_extents(), ring.rows()),
                         k = take_rows(setup.k, setup.k_extents(), ring.kv_rows()),
                         v = take_rows(setup.v, setup.v_extents(), ring.kv_rows()),
                         dout = take_rows(setup.dout, setup.out_extents(), ring.rows());
              auto out = garbage<float>(local.out), lse = garbage<float>(local.lse), dq = garbage<float>(local.q),
                   dk = garbage<float>(local.k), dv = garbage<float>(local.v);
              auto const in = [](auto const& x, Extents e) { return View<float const>(x.data(), e); };
              auto const forward = [&] {
                ring.forward({.q = in(q, local.q),
                              .k = in(k, local.k),
                              .v = in(v, local.v),
                              .out = {out.data(), local.out},
                              .lse = {lse.data(), local.lse}});
              };
              Seen& mine = seen[size_t(comm.rank())];
              meet(planned, size);
              if (!backward) {
                mine = watch(forward, [&] { return is_garbage(out, local.out) && is_garbage(lse, local.lse); });
                return;
              }
              forward();
              meet(forwarded, size);
              mine = watch(
                  [&] {
                    ring.backward({.q = in(q, local.q),
                                   .k = in(k, local.k),
                                   .v = in(v, local.v),
                                   .out = in(out, local.out),
                                   .lse = in(lse, local.lse),
                                   .dout = in(dout, local.out),
                                   .dq = {dq.data(), local.q},
                                   .dk = {dk.data(), local.k},
                                   .dv = {dv.data(), local.v}});
                  },
                  [&] { return is_garbage(dq, local.q) && is_garbage(dk, local.k) && is_garbage(dv, local.v); });
            },
            {.deadline = deadline});
  return seen;
}

template <class P> void every_place(Fault fault) {
  for (int size : {2, 3, 4})
    for (bool backward : {false, true})
      for (int at : {0, size / 2, size - 1}) {
        int const bad = at % size;
        CAPTURE(size);
        CAPTURE(backward);
        CAPTURE(at);
        auto const seen = run_faulty<P>(size, fault, backward, at, bad);
        for (int r = 0; r < size; ++r) {
          CAPTURE(r);
          Seen const& s = seen[size_t(r)];
          CHECK(s.threw);
          CHECK(s.untouched);
          CHECK(s.seconds < 3.0);
          if (fault == Fault::throws && r == bad) CHECK(s.what == "planted fault");
          if (fault == Fault::throws && r != bad) {
            CHECK(s.error);
            CHECK(s.code == ErrorCode::aborted);
            CHECK(s.what.find("rank " + std::to_string(bad) + ": planted fault") != std::string::npos);
          }
          if (fault == Fault::stalls) {
            CHECK(s.error);
            CHECK((s.code == ErrorCode::timeout || s.code == ErrorCode::aborted));
            CHECK(s.what.find("200 ms") != std::string::npos);
          }
        }
      }
}

// ---------------------------------------------------------------- at plan

struct P0 : Policy {
  using Mask = SlidingWindow;
  using Shard = ZigZag;
  static constexpr int head_dim = 8;
};
struct OtherHeadDim : P0 {
  static constexpr int head_dim = 16;
};
struct OtherValueDim : P0 {
  static constexpr int value_dim = 16;
};
struct OtherPrecision : P0 {
  using Precision = Fp64;
};
struct OtherMask : P0 {
  using Mask = Causal;
};
struct OtherShard : P0 {
  using Shard = Striped;
  using KvShard = ZigZag;
};
struct OtherKvShard : P0 {
  using KvShard = Striped;
};
struct OtherTile : P0 {
  using Tiles = FixedTiles<64, 32>;
};
/// A score that changes nothing but its name.
struct Renamed : Plain {
  std::uint64_t fingerprint() const { return fingerprint_of("renamed"); }
};
struct OtherScore : P0 {
  using Score = Renamed;
};

/// A card of which the others' backward pass would not fit.
struct SmallCard : Cpu {
  int q = 64;
  template <class K> Tile attend_tile() const { return K::tile(0); }
  template <class K> Tile attend_backward_tile() const { return {.q = q, .kv = 32}; }
};
struct OnCards : P0 {
  using Backend = SmallCard;
};

template <class P> void plan_only(InProcess& comm, PlanOptions<P> const& options) {
  Cpu cpu;
  RingAttention<P>(cpu, comm, options);
}

/// Rank `size - 1` plans something else: every rank must name the field, and a ring stays usable.
template <class Odd>
void disagree(char const* field, PlanOptions<Odd> odd,
              PlanOptions<P0> const& usual = {.problem = {.seq = 24, .heads = 2}}) {
  for (int size : {2, 3, 4}) {
    CAPTURE(field);
    CAPTURE(size);
    std::atomic<int> right{0};
    run_ranks(size,
              [&](InProcess& comm) {
                try {
                  comm.rank() == size - 1 ? plan_only<Odd>(comm, odd) : plan_only<P0>(comm, usual);
                } catch (Error const& e) {
                  right += e.code() == ErrorCode::contract_mismatch && e.argument() == field && e.rank() == size - 1 &&
                           std::string(e.what()).find(field) != std::string::npos;
                }
                plan_only<P0>(comm, usual);
              },
              {.deadline = 10s});
    CHECK(right == size);
  }
}

/// Memory that runs out after `count` allocations.
class Scarce : public std::pmr::memory_resource {
 public:
  explicit Scarce(int count) : left_(count) {}

 private:
  void* do_allocate(size_t bytes, size_t alignment) override {
    if (left_-- <= 0) throw std::bad_alloc();
    return std::pmr::new_delete_resource()->allocate(bytes, alignment);
  }
  void do_deallocate(void* p, size_t bytes, size_t alignment) override {
    std::pmr::new_delete_resource()->deallocate(p, bytes, alignment);
  }
  bool do_is_equal(std::pmr::memory_resource const& o) const noexcept override { return this == &o; }
  int left_;
};

}  // namespace

TEST_CASE("faults: cards that need other tiles for gradients name them, and attend together") {
  for (bool backward : {true, false}) {
    std::atomic<int> refused{0};
    run_ranks(3,
              [&](InProcess& comm) {
                SmallCard card;
                if (comm.rank() == 1) card.q = 16;
                try {
                  RingAttention<OnCards>(card, comm, {.problem = {.seq = 24, .heads = 2}, .backward = backward});
                } catch (Error const& e) {
                  refused += e.code() == ErrorCode::contract_mismatch && e.argument() == "backward tile" &&
                             e.expected() == "64 x 32 as on ranks 0, 2" && e.actual() == "16 x 32 on rank 1";
                }
              },
              {.deadline = 10s});
    CHECK(refused == (backward ? 3 : 0));
  }
}

TEST_CASE("faults: a rank throws in its first, a middle and its last step") {
  every_place<FaultyPolicy>(Fault::throws);
  every_place<Serially>(Fault::throws);
}

TEST_CASE("faults: a rank stalls past the deadline in its first, a middle and its last step") {
  every_place<FaultyPolicy>(Fault::stalls);
}

TEST_CASE("faults: ranks that planned different things name the field") {
  Problem const p{.seq = 24, .heads = 2};
  disagree<P0>("batch", {.problem = {.batch = 2, .seq = 24, .heads = 2}});
  disagree<P0>("seq", {.problem = {.seq = 25, .kv_seq = 24, .heads = 2}});
  disagree<P0>("kv_seq", {.problem = {.seq = 24, .kv_seq = 25, .heads = 2}});
  disagree<P0>("heads", {.problem = {.seq = 24, .heads = 4, .kv_heads = 2}});
  disagree<P0>("kv_heads", {.problem = {.seq = 24, .heads = 2, .kv_heads = 1}});
  disagree<P0>("mask", {.problem = p, .mask = {.left = 1}});
  disagree<P0>("scale", {.problem = p, .scale = 0.5});
  disagree<P0>("commit", {.problem = p, .commit = Commit::local});
  disagree<P0>("backward", {.problem = p, .backward = false});
  disagree<OtherHeadDim>("head_dim", {.problem = p});
  disagree<OtherValueDim>("value_dim", {.problem = p});
  disagree<OtherPrecision>("precision", {.problem = p});
  disagree<OtherMask>("mask", {.problem = p});
  disagree<OtherShard>("shard", {.problem = p});
  disagree<OtherKvShard>("kv_shard", {.problem = p});
  disagree<OtherTile>("tile.kv", {.problem = p});
  disagree<OtherScore>("score", {.problem = p});
}

TEST_CASE("faults: a rank without memory for its plan is named on every rank, and the ring stays usable") {
  for (int size : {2, 3, 4})
    for (int bad : {0, size - 1}) {
      CAPTURE(size);
      CAPTURE(bad);
      std::atomic<int> right{0};
      run_ranks(size,
                [&](InProcess& comm) {
                  Scarce none(comm.rank() == bad ? 0 : 1000);
                  Cpu cpu({.memory = &none});
                  PlanOptions<P0> const options{.problem = {.seq = 24, .heads = 2}};
                  try {
                    RingAttention<P0>(cpu, comm, options);
                  } catch (Error const& e) {
                    right += e.code() == ErrorCode::out_of_memory && e.rank() == bad;
                  }
                  plan_only<P0>(comm, options);
                },
                {.deadline = 10s});
      CHECK(right == size);
    }
}

TEST_CASE("faults: a rank that never plans lets the others go at the deadline") {
  for (int size : {2, 3, 4}) {
    std::atomic<int> right{0};
    auto const start = std::chrono::steady_clock::now();
    run_ranks(size,
              [&](InProcess& comm) {
                if (comm.rank() == 0) {
                  std::this_thread::sleep_for(2 * deadline);
                  return;
                }
                try {
                  plan_only<P0>(comm, {.problem = {.seq = 24, .heads = 2}});
                } catch (Error const& e) {
                  right += (e.code() == ErrorCode::timeout || e.code() == ErrorCode::aborted) &&
                           std::string(e.what()).find("plan") != std::string::npos;
                }
              },
              {.deadline = deadline});
    CHECK(right == size - 1);
    CHECK(std::chrono::steady_clock::now() - start < 3s);
  }
}

TEST_CASE("faults: a rank throws before its plan") {
  std::atomic<int> threw{0};
  CHECK_THROWS(run_ranks(3,
                         [&](InProcess& comm) {
                           try {
                             if (comm.rank() == 1) throw std::runtime_error("before the plan");
                             plan_only<P0>(comm, {.problem = {.seq = 24}});
                           } catch (std::exception const&) {
                             ++threw;
                             throw;
                           }
                         },
                         {.deadline = deadline}));
  CHECK(threw == 3);
}

TEST_CASE("faults: a ring of one that its owner stopped does not return half an output") {
  InProcess::World world(1);
  InProcess comm(world, 0);
  Faulty cpu;
  RingAttention<FaultyPolicy> ring(cpu, comm, {.problem = {.seq = 64}});
  Local const e = ring.local();
  Tensor<float> q(e.q), k(e.k), v(e.v), out(e.out);
  for (float& x : out.values()) x = 0.25f;
  world.abort("enough");
  CHECK_THROWS_AS(ring.forward({.q = q, .k = k, .v = v, .out = out}), Error);
  CHECK(std::all_of(out.values().begin(), out.values().end(), [](float x) { return x == 0.25f; }));
}
