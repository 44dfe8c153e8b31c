// SPDX-License-Identifier: Apache-2.0
// InProcess passes the conformance suite, with and without chaos; ranks that throw or stall; destruction under way.
#include <doctest/doctest.h>
#include <ringattn/comm/in_process.hpp>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <memory>

#include "conformance.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

RunOptions chaos(std::uint64_t seed, std::chrono::nanoseconds delay = 300us) {
  return {.chaos = {.seed = seed, .delay = delay, .poison = true}};
}

void run_conformance(RunOptions options) {
  for (int n : {1, 2, 3, 4, 7})
    for (auto const& c : conformance<InProcess>) {
      CAPTURE(n);
      CAPTURE(std::string(c.name));
      CHECK_NOTHROW(run_ranks(n, c.run, options));
    }
}

/// Waits for a message from `from` that never comes, as the core does; throws what the core throws.
void wait_in_vain(InProcess& comm, int from, std::chrono::nanoseconds deadline = 30s) {
  HostControl host;
  Mail mail;
  mail.receive(from, comm.rank(), 1000);
  auto t = post(comm, mail);
  auto const end = std::chrono::steady_clock::now() + deadline;
  while (!t.wait_for(host, 100ms)) {
    if (auto reason = comm.aborted()) throw Error(ErrorCode::aborted, comm.rank(), "receive", "", *reason);
    if (std::chrono::steady_clock::now() > end) {
      comm.abort("rank " + std::to_string(from) + " is late");
      throw Error(ErrorCode::timeout, comm.rank(), "receive", "", "late");
    }
  }
}

}  // namespace

TEST_CASE("in_process: conformance") { run_conformance({}); }

TEST_CASE("in_process: conformance with delayed, reordered and poisoned messages") {
  for (std::uint64_t seed : {1, 2}) run_conformance(chaos(seed));
}

TEST_CASE("in_process: blocks rotate") {
  unsigned const seed = 4711;
  CAPTURE(seed);
  for (int n = 2; n <= 8; ++n) {
    CAPTURE(n);
    CHECK_NOTHROW(run_ranks(n, [&](InProcess& comm) { rotates(comm, seed + unsigned(n), 200); }));
    CHECK_NOTHROW(run_ranks(
        n, [&](InProcess& comm) { rotates(comm, seed + unsigned(n), 200); }, chaos(seed, 100us)));
  }
}

TEST_CASE("in_process: messages between all pairs at random") {
  unsigned const seed = 99;
  CAPTURE(seed);
  auto const everybody = [&](InProcess& comm) {
    // All ranks draw the same plan: in each round some pairs exchange some messages. Waits come late and out of order.
    std::mt19937 common(seed), own(seed + 7 + unsigned(comm.rank()));
    int const n = comm.size();
    for (int round = 0; round < 20; ++round) {
      std::vector<Mail> mail(3);
      std::vector<InProcess::Transfer> transfers;
      for (Mail& m : mail) {
        for (int i = 0; i < 10; ++i) {
          int const from = int(common() % unsigned(n)), to = int(common() % unsigned(n)), number = int(common() % 1000);
          size_t const kind = common() % 12, size = kind < 4 ? 0 : common() % (kind == 4 ? 1200000 : 5000);
          if (from == to) continue;
          if (from == comm.rank()) m.send(from, to, size, number);
          if (to == comm.rank()) m.receive(from, to, size, number);
        }
        transfers.push_back(post(comm, m));
        if (own() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own() % 200));
      }
      std::shuffle(transfers.begin(), transfers.end(), own);
      for (auto& t : transfers) wait_all(comm, t);
      for (Mail& m : mail) m.check();
    }
  };
  for (int n : {2, 4, 8}) {
    CHECK_NOTHROW(run_ranks(n, everybody));
    CHECK_NOTHROW(run_ranks(n, everybody, chaos(seed)));
  }
}

TEST_CASE("in_process: the exception of one rank ends all and is the one that comes out") {
  for (int n : {2, 3, 4, 8})
    for (int culprit = 0; culprit < n; culprit += n - 1) {
      CAPTURE(n);
      std::atomic<int> told = 0;
      auto const f = [&](InProcess& comm) {
        if (comm.rank() == culprit) throw std::out_of_range("no such row");
        try {
          wait_in_vain(comm, culprit);
        } catch (Error const& e) {
          told += e.actual() == "rank " + std::to_string(culprit) + ": no such row";
          throw;
        }
      };
      CHECK_THROWS_WITH_AS(run_ranks(n, f), "no such row", std::out_of_range);
      CHECK(told == n - 1);
    }
}

TEST_CASE("in_process: without another cause the first exception comes out") {
  auto const f = [](InProcess& comm) { throw Error(ErrorCode::aborted, comm.rank(), "vote", "", "told so"); };
  CHECK_THROWS_AS(run_ranks(3, f), Error);
  CHECK_THROWS_AS(run_ranks(2, [](InProcess&) { throw 5; }), int);
  CHECK_THROWS_AS(run_ranks(0, f), Error);
}

TEST_CASE("in_process: a rank that stalls past the deadline") {
  std::atomic<int> aborted = 0;
  auto const f = [&](InProcess& comm) {
    CHECK(comm.deadline() == 50ms);
    if (comm.rank() == 1) {
      std::this_thread::sleep_for(300ms);
      HostControl host;
      Mail mail;
      mail.send(1, 0, 1000);  // nobody is there any more
      auto t = post(comm, mail);
      CHECK_FALSE(t.wait_for(host, 10s));
      CHECK(comm.aborted().value_or("").find("late") != std::string::npos);
      return;
    }
    try {
      wait_in_vain(comm, 1, comm.rank() == 0 ? std::chrono::nanoseconds(comm.deadline()) : 30s);
    } catch (Error const& e) {
      aborted += e.code() == ErrorCode::aborted;
      throw;
    }
  };
  try {
    run_ranks(4, f, {.deadline = 50ms});
    FAIL("it must throw");
  } catch (Error const& e) {
    CHECK(e.code() == ErrorCode::timeout);
    CHECK(e.rank() == 0);
  }
  CHECK(aborted == 2);
}

TEST_CASE("in_process: an abort wakes everybody at once") {
  std::atomic<std::int64_t> sent = 0;
  std::atomic<std::int64_t> slowest = 0;
  run_ranks(4, [&](InProcess& comm) {
    auto const now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
    HostControl host;
    Mail mail;
    if (comm.rank() != 0) mail.receive(0, comm.rank(), 8);
    auto t = post(comm, mail);
    if (comm.rank() == 0) {
      std::this_thread::sleep_for(50ms);
      sent = now();
      comm.abort("enough");
      return;
    }
    CHECK_FALSE(t.wait_for(host, 60s));
    std::int64_t const late = now() - sent;
    for (auto s = slowest.load(); late > s && !slowest.compare_exchange_weak(s, late);) {
    }
  });
  MESSAGE("slowest rank woke after " << slowest / 1000 << " us");
  CHECK(slowest < 1000000000);  // usually well below 1 ms; the machine may be busy
}

TEST_CASE("in_process: destroying a transfer while it is copied") {
  for (int round = 0; round < 20; ++round)
    run_ranks(3, [&](InProcess& comm) {
      if (comm.rank() == 2) {
        std::this_thread::sleep_for(std::chrono::microseconds(100 * round));
        comm.abort("now");
        return;
      }
      // Memory that is given back right after the transfer: whoever still copied would write into freed memory.
      size_t const size = 4 << 20;
      auto const memory = std::make_unique<std::byte[]>(size);
      HostControl host;
      for (int i = 0; i < 20 && !comm.aborted(); ++i) {
        Send const s{1, {memory.get(), size}};
        Recv const r{0, {memory.get(), size}};
        auto t = comm.rank() == 0 ? comm.exchange(host, {&s, 1}, {}) : comm.exchange(host, {}, {&r, 1});
        while (!t.wait_for(host, 50us) && !comm.aborted()) {
        }
      }
    });
}

TEST_CASE("in_process: large messages are copied by whoever makes progress") {
  // Sizes round the pieces; in each round one side does all the work, which posted first or second.
  unsigned const seed = 31;
  CAPTURE(seed);
  std::barrier together(2);  // not a gather: who waits there copies
  run_ranks(2, [&](InProcess& comm) {
    std::mt19937 common(seed);
    HostControl host;
    int const other = 1 - comm.rank();
    for (size_t const size : {size_t(262143), size_t(262144), size_t(262145), size_t(524288), size_t(5) << 20})
      for (int round = 0; round < 8; ++round) {
        int const worker = int(common() % 2), first = int(common() % 2);
        Mail mail;
        mail.send(comm.rank(), other, size + size_t(comm.rank()), round);
        mail.receive(other, comm.rank(), size + size_t(other), round);
        if (comm.rank() != first) together.arrive_and_wait();
        auto t = post(comm, mail);
        if (comm.rank() == first) together.arrive_and_wait();
        together.arrive_and_wait();  // both have posted
        if (comm.rank() == worker) {
          if (round % 2 == 0) CHECK(t.wait_for(host, 60s));
          for (int i = 0; round % 2 == 1 && i < 100; ++i) comm.progress();
        }
        together.arrive_and_wait();
        CHECK(t.wait_for(host, 0ns));
        CHECK(mail.in == mail.expected);
        together.arrive_and_wait();
      }
  });
}

TEST_CASE("in_process: who waits for a transfer copies that one first") {
  std::barrier together(2);
  run_ranks(2, [&](InProcess& comm) {
    HostControl host;
    Mail mail[3];
    std::vector<InProcess::Transfer> transfers;
    for (Mail& m : mail) {
      comm.rank() == 0 ? m.send(0, 1, 8 << 20) : m.receive(0, 1, 8 << 20);
      transfers.push_back(post(comm, m));
    }
    together.arrive_and_wait();
    if (comm.rank() == 0) {
      for (int i : {1, 0}) {
        CHECK(transfers[size_t(i)].wait_for(host, 60s));
        CHECK_FALSE(transfers[2].wait_for(host, 0ns));
      }
      comm.abort("enough");
    }
    together.arrive_and_wait();
  });
}

TEST_CASE("in_process: a rank that sleeps is woken to copy") {
  std::barrier together(2);
  run_ranks(2, [&](InProcess& comm) {
    HostControl host;
    Mail mail;
    if (comm.rank() == 0) {
      mail.receive(1, 0, 1 << 20);
      auto t = post(comm, mail);
      auto const begin = std::chrono::steady_clock::now();
      CHECK(t.wait_for(host, 60s));
      CHECK(std::chrono::steady_clock::now() - begin < 10s);
      together.arrive_and_wait();
    } else {
      std::this_thread::sleep_for(20ms);
      mail.send(1, 0, 1 << 20);
      auto t = post(comm, mail);
      together.arrive_and_wait();
      CHECK(t.wait_for(host, 0ns));
    }
  });
}

TEST_CASE("in_process: destroying a transfer of which pieces have been copied") {
  for (int culprit = 0; culprit < 2; ++culprit)
    for (int pieces : {0, 1, 3, 7}) {
      std::barrier together(2);
      run_ranks(2, [&](InProcess& comm) {
        HostControl host;
        size_t const size = 2 << 20;
        auto memory = std::make_unique<std::byte[]>(size);
        Send const s{1, {memory.get(), size}};
        Recv const r{0, {memory.get(), size}};
        auto t = comm.rank() == 0 ? comm.exchange(host, {&s, 1}, {}) : comm.exchange(host, {}, {&r, 1});
        together.arrive_and_wait();
        if (comm.rank() == culprit) {
          for (int i = 0; i < pieces; ++i) comm.progress();
          t = {};
          memory.reset();  // whoever still copied would touch freed memory
          CHECK(comm.aborted() == "rank " + std::to_string(culprit) + " gave up a transfer that was under way");
        }
        together.arrive_and_wait();
        for (int i = 0; i < 100; ++i) comm.progress();
        if (comm.rank() != culprit) CHECK_FALSE(t.wait_for(host, 1ms));  // some pieces are missing
      });
    }
}

TEST_CASE("in_process: a transfer that is given up stops the ring") {
  CHECK_NOTHROW(run_ranks(2, [](InProcess& comm) {
    HostControl host;
    Mail mail;
    if (comm.rank() == 0) {
      mail.receive(1, 0, 8);
      post(comm, mail);
    } else {
      mail.receive(0, 1, 8);
      auto t = post(comm, mail);
      CHECK_FALSE(t.wait_for(host, 60s));
    }
    CHECK(comm.aborted() == "rank 0 gave up a transfer that was under way");
  }));
}

TEST_CASE("in_process: receive buffers are poisoned until the message is there") {
  run_ranks(2,
            [](InProcess& comm) {
              HostControl host;
              double x = 1.5, y = 2.5;
              Send const s{1, std::as_bytes(std::span(&x, 1))};
              Recv const r{0, std::as_writable_bytes(std::span(&y, 1))};
              if (comm.rank() == 1) {
                auto t = comm.exchange(host, {}, {&r, 1});
                CHECK(y != y);
                gather(comm, 0);
                wait_all(comm, t);
                CHECK(y == 1.5);
              } else {
                gather(comm, 0);
                auto t = comm.exchange(host, {&s, 1}, {});
                wait_all(comm, t);
              }
            },
            {.chaos = {.poison = true}});
}

TEST_CASE("in_process: chaos brings messages of different pairs out of order") {
  int reordered = 0;
  for (std::uint64_t seed = 0; seed < 8; ++seed)
    run_ranks(
        3,
        [&](InProcess& comm) {
          HostControl host;
          Mail a, b;
          if (comm.rank() == 0) a.send(0, 2, 8), b.send(0, 2, 8, 1);
          if (comm.rank() == 1) b.send(1, 2, 8);
          if (comm.rank() == 2) a.receive(0, 2, 8), b.receive(1, 2, 8), a.receive(0, 2, 8, 1);
          if (comm.rank() == 2) {
            // Rank 0's two messages in one transfer, rank 1's in the other.
            auto first = post(comm, a), second = post(comm, b);
            while (!first.wait_for(host, 0ns) && !second.wait_for(host, 0ns)) std::this_thread::yield();
            reordered += second.wait_for(host, 0ns) && !first.wait_for(host, 0ns);
            wait_all(comm, first), wait_all(comm, second);
            a.check(), b.check();
            return;
          }
          auto first = post(comm, a), second = post(comm, b);
          wait_all(comm, first), wait_all(comm, second);
        },
        chaos(seed, 5ms));
  MESSAGE(reordered << " of 8 came out of order");
  CHECK(reordered > 0);
}

TEST_CASE("in_process: an engine makes its own ranks from a world") {
  InProcess::World world(2, {.deadline = 5s});
  InProcess::World const copy = world;
  CHECK(copy.size() == 2);
  CHECK_THROWS_AS(InProcess::World(0), Error);
  CHECK_THROWS_AS(InProcess(world, 2), Error);
  CHECK_THROWS_AS(InProcess(world, -1), Error);
  std::vector<int> seen;
  std::thread other([copy] {
    InProcess comm(copy, 1);
    gather(comm, 11);
  });
  InProcess comm(world, 0);
  CHECK(comm.deadline() == 5s);
  seen = gather(comm, 10);
  other.join();
  CHECK(seen == std::vector<int>{10, 11});
  world.abort("the engine stops");
  CHECK(comm.aborted() == "the engine stops");
}
