// SPDX-License-Identifier: Apache-2.0
// Nccl passes the conformance suite with device memory, over a communicator of the user's and over its own; failures
// that NCCL reports, peers that do not come, and what is left afterwards.
#include <doctest/doctest.h>
#include <ringattn/comm/in_process.hpp>
#include <ringattn/comm/nccl.hpp>

#include "on_device.hpp"

// The look-alike's; the real library has none.
extern "C" __attribute__((weak)) void ringattn_nccl_inject(int rank, int in_groups, ncclResult_t result);
extern "C" __attribute__((weak)) void ringattn_nccl_forget_failures();
extern "C" __attribute__((weak)) int ringattn_nccl_left();

using namespace ringattn;
using namespace ringattn::test;

static_assert(RingCommunicator<Nccl<InProcess>, HostControl> && Control<Nccl<InProcess>> &&
              RingCommunicator<Nccl<InProcess>, StreamBackend> && Moves<Nccl<InProcess>, DeviceSpace>);

namespace {

using Device = OnDevice<Nccl<InProcess>>;

/// Checks at its end that no communicator is left that was neither destroyed nor aborted.
struct NoneLeft {
  ~NoneLeft() {
    if (ringattn_nccl_left) CHECK(ringattn_nccl_left() == 0);
  }
};

/// Runs f on n ranks with a device each.
template <class F> void run_nccl(int n, F f, RunOptions options = {}) {
  NoneLeft const at_the_end;
  run_ranks(
      n,
      [&](InProcess& host) {
        cuda::DeviceGuard const guard(host.rank());
        Nccl<InProcess> comm(host, host.rank());
        f(comm);
      },
      options);
}

/// A communicator that the library did not make: one of an engine's that was split.
struct UsersComm {
  ncclComm_t whole = nullptr, comm = nullptr;

  UsersComm(int size, ncclUniqueId const& id, int rank, int blocking) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking;
    (void)ncclCommInitRankConfig(&whole, size, id, rank, &config);
    require(settled(whole) == ncclSuccess, "the user's communicator");
    (void)ncclCommSplit(whole, 0, rank, &comm, &config);
    require(settled(whole) == ncclSuccess && settled(comm) == ncclSuccess, "the user's split");
  }
  UsersComm(UsersComm const&) = delete;
  ~UsersComm() {
    (void)ncclCommAbort(comm);
    (void)ncclCommAbort(whole);
  }

  static ncclResult_t settled(ncclComm_t c) {
    for (ncclResult_t state = ncclInProgress;;) {
      (void)ncclCommGetAsyncError(c, &state);
      if (state != ncclInProgress) return state;
      std::this_thread::yield();
    }
  }
};

/// NCCL wants a device for every rank.
bool enough_devices(int ranks) {
  int n = 0;
  cuda::check(cudaGetDeviceCount(&n), "cudaGetDeviceCount");
  return ranks <= n;
}

/// What NCCL cannot do: sizes that differ are undefined, and a group waits for the groups before it.
bool fits(std::string const& name) {
  return name != "keeps control and data apart" && name.find("too ") == std::string::npos;
}

}  // namespace

TEST_CASE("nccl: conformance with device memory") {
  for (int n : {1, 2, 4})
    for (auto const& c : conformance<Device>) {
      if (!fits(c.name) || !enough_devices(n)) continue;
      CAPTURE(n);
      CAPTURE(std::string(c.name));
      CHECK_NOTHROW(run_nccl(n, [&](Nccl<InProcess>& comm) {
        Device device(comm, comm.rank());
        c.run(device);
      }));
    }
}

TEST_CASE("nccl: messages of host memory go through the host ring") {
  if (!enough_devices(2)) return;
  for (auto const& c : conformance<Nccl<InProcess>>) {
    CAPTURE(std::string(c.name));
    CHECK_NOTHROW(run_nccl(2, c.run));
  }
}

TEST_CASE("nccl: blocks rotate") {
  unsigned const seed = 99;
  CAPTURE(seed);
  for (int n : {2, 3})
    if (enough_devices(n))
      CHECK_NOTHROW(run_nccl(n, [&](Nccl<InProcess>& comm) {
        Device device(comm, comm.rank());
        rotates(device, seed + unsigned(n), 12);
      }));
}

TEST_CASE("nccl: a communicator of the user's, blocking or not, survives an abort") {
  if (!enough_devices(2)) return;
  for (int blocking : {0, 1}) {
    CAPTURE(blocking);
    NoneLeft const at_the_end;
    ncclUniqueId id;
    REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
    run_ranks(2, [&](InProcess& host) {
      int const rank = host.rank();
      cuda::DeviceGuard const guard(rank);
      UsersComm const users(2, id, rank, blocking);
      {
        Nccl<InProcess> comm(users.comm, host);
        Device device(comm, rank);
        transfers_move(device);
        gather(comm, 0);
        if (rank == 0) comm.abort("the end");
        while (!comm.aborted()) std::this_thread::yield();
        comm.progress();
      }
      // Still usable.
      StreamBackend backend(rank);
      DeviceBytes memory(backend, 100);
      if (rank == 0) memory.put(message(100, 0, 1));
      (void)(rank == 0 ? ncclSend(memory.span().data(), 100, ncclInt8, 1, users.comm, backend.stream())
                       : ncclRecv(memory.span().data(), 100, ncclInt8, 0, users.comm, backend.stream()));
      require(UsersComm::settled(users.comm) == ncclSuccess, "the user sends");
      Bytes got(100);
      memory.get(got);
      require(got == message(100, 0, 1), "and receives");
    });
  }
}

TEST_CASE("nccl: over a communicator of the user's, too, a rank that does not come is a timeout") {
  if (!enough_devices(2)) return;
  for (int blocking : {0, 1}) {
    CAPTURE(blocking);
    NoneLeft const at_the_end;
    ncclUniqueId id;
    REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
    try {
      run_ranks(2,
                [&](InProcess& host) {
                  cuda::DeviceGuard const guard(host.rank());
                  UsersComm const users(2, id, host.rank(), blocking);
                  if (host.rank() == 0) Nccl<InProcess> comm(users.comm, host);
                  while (!host.aborted()) std::this_thread::sleep_for(1ms);
                },
                {.deadline = 100ms});
      CHECK(false);
    } catch (Error const& e) {
      CHECK(e.code() == ErrorCode::timeout);
      CHECK(e.argument() == "NCCL: make a communicator");
    }
  }
}

TEST_CASE("nccl: ranks must be the host ring's") {
  if (!enough_devices(2)) return;
  NoneLeft const at_the_end;
  run_ranks(2, [&](InProcess& host) {
    static ncclUniqueId id;
    if (host.rank() == 0) (void)ncclGetUniqueId(&id);
    gather(host, 0);
    UsersComm const users(2, id, 1 - host.rank(), 1);
    require_rejected([&] { Nccl<InProcess> comm(users.comm, host); }, host.rank());
  });
}

TEST_CASE("nccl: an error that NCCL reports ends the ring for all") {
  if (!ringattn_nccl_inject || !enough_devices(3)) return;
  for (int group : {0, 1, 2}) {
    CAPTURE(group);
    ringattn_nccl_inject(1, group, ncclRemoteError);
    auto const begin = std::chrono::steady_clock::now();
    try {
      run_nccl(3,
               [&](Nccl<InProcess>& comm) {
                 Device device(comm, comm.rank());
                 for (int i = 0; i < 4; ++i) exchanges_several_at_once(device);
               },
               {.deadline = 20s});
      CHECK(false);
    } catch (Error const& e) {
      CHECK(e.code() == ErrorCode::transport);
      CHECK(e.rank() == 1);
      CHECK(std::string(e.what()).find("remote process exited") != std::string::npos);
    }
    CHECK(std::chrono::steady_clock::now() - begin < 10s);
    ringattn_nccl_forget_failures();
  }
}

TEST_CASE("nccl: an exchange that NCCL refuses is nobody's and under way nowhere") {
  if (!ringattn_nccl_inject || !enough_devices(2)) return;
  ringattn_nccl_inject(1, 0, ncclRemoteError);
  run_nccl(2, [](Nccl<InProcess>& comm) {
    StreamBackend backend(comm.rank());
    DeviceBytes memory(backend, 8);
    Recv const r{1 - comm.rank(), memory.span()};
    if (comm.rank() == 1) {
      try {
        (void)comm.exchange(backend, {}, {&r, 1});
        require(false, "it throws");
      } catch (Error const& e) {
        require(e.code() == ErrorCode::transport, e.what());
      }
      require(comm.aborted() && comm.aborted()->find("remote process exited") != std::string::npos, "all are told why");
    }
    while (!comm.aborted()) std::this_thread::sleep_for(1ms);
  });
  ringattn_nccl_forget_failures();
}

TEST_CASE("nccl: a rank that does not come to the making is a timeout") {
  for (bool gathers : {false, true}) {  // stays away before or after the id has gone round
    CAPTURE(gathers);
    NoneLeft const at_the_end;
    try {
      run_ranks(2,
                [&](InProcess& host) {
                  if (host.rank() == 1) {
                    ncclUniqueId ids[3] = {};
                    InProcess::Transfer t;
                    if (gathers)
                      t = host.all_gather(std::as_bytes(std::span(ids).first(1)),
                                          std::as_writable_bytes(std::span(ids).last(2)));
                    while (!host.aborted()) std::this_thread::sleep_for(1ms);
                    return;
                  }
                  Nccl<InProcess> comm(host, 0);
                },
                {.deadline = 100ms});
      CHECK(false);
    } catch (Error const& e) {
      CHECK(e.code() == ErrorCode::timeout);
    }
  }
}

TEST_CASE("nccl: a group that never gets under way leaves wait_for to its slice") {
  if (!ringattn_nccl_inject || !enough_devices(2)) return;
  ringattn_nccl_inject(0, 0, ncclInProgress);
  run_nccl(2, [](Nccl<InProcess>& comm) {
    Device device(comm, comm.rank());
    HostControl host;
    Mail mail;
    mail.send(comm.rank(), 1 - comm.rank(), 8);
    mail.receive(1 - comm.rank(), comm.rank(), 8);
    auto t = post(device, mail);
    require(!t.wait_for(host, 5ms), "it does not arrive");
    gather(comm, 0);
    comm.abort("enough");
  });
  ringattn_nccl_forget_failures();
}

TEST_CASE("nccl: what is enqueued is carried out when the communicator goes out of scope") {
  if (!enough_devices(2)) return;
  NoneLeft const at_the_end;
  run_ranks(2, [](InProcess& host) {
    cuda::DeviceGuard const guard(host.rank());
    StreamBackend backend(host.rank());
    DeviceBytes memory(backend, 100);
    Bytes const text = message(100, 0, 1);
    {
      Nccl<InProcess> comm(host, host.rank());
      if (host.rank() == 0) {
        cuda::check(cudaLaunchHostFunc(
                        backend.stream(), [](void*) { std::this_thread::sleep_for(2500ms); }, nullptr),
                    "host function");
        memory.put(text);
      }
      Send const s{1, memory.span()};
      Recv const r{0, memory.span()};
      auto t = host.rank() == 0 ? comm.exchange(backend, {&s, 1}, {}) : comm.exchange(backend, {}, {&r, 1});
      while (!t.wait_for(backend, 10ms)) require(!comm.aborted(), "not aborted");
    }
    require(!host.aborted(), "nor at the end");
    Bytes got(100);
    memory.get(got);
    require(got == text, "what was sent arrives");
  });
}

TEST_CASE("nccl: a communicator that goes out of scope waits for a peer until the deadline, then aborts") {
  if (!enough_devices(2)) return;
  NoneLeft const at_the_end;
  run_ranks(2,
            [](InProcess& host) {
              cuda::DeviceGuard const guard(host.rank());
              StreamBackend backend(host.rank());
              DeviceBytes memory(backend, 100);
              std::optional<Nccl<InProcess>> comm(std::in_place, host, host.rank());
              auto const begin = std::chrono::steady_clock::now();
              if (host.rank() == 0) {
                Recv const r{1, memory.span()};
                auto t = comm->exchange(backend, {}, {&r, 1});
                while (!t.wait_for(backend, 10ms)) require(!comm->aborted(), "not aborted");
              } else {
                while (!host.aborted() && std::chrono::steady_clock::now() - begin < 10s)
                  std::this_thread::sleep_for(1ms);
              }
              comm.reset();
              auto const waited = std::chrono::steady_clock::now() - begin;
              require((waited >= 300ms || host.rank() == 1) && waited < 10s, "it waits for the deadline, no longer");
              require(host.aborted() && host.aborted()->find("was not done") != std::string::npos, "all are told");
            },
            {.deadline = 300ms});
}
