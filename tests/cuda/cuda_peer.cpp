// SPDX-License-Identifier: Apache-2.0
// CudaPeer passes the conformance suite with host memory and with device memory, on one device and on several.
#include <doctest/doctest.h>
#include <ringattn/comm/cuda_peer.hpp>

#include "on_device.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

int device_count() {
  int n = 0;
  cuda::check(cudaGetDeviceCount(&n), "cudaGetDeviceCount");
  return n;
}

struct Broken {
  using Space = DeviceSpace;
  int device() const { return 1000; }
  cudaStream_t stream() const { return nullptr; }
};

/// Virtual ranks of device 0, or one rank per device.
int device_of(int rank, bool spread) { return spread ? rank % device_count() : 0; }

RunOptions chaos(std::uint64_t seed) {
  return {.chaos = {.seed = seed, .delay = std::chrono::microseconds(200), .poison = true}};
}

void run_conformance(RunOptions options, bool spread, std::initializer_list<int> sizes) {
  for (int n : sizes)
    for (auto const& c : conformance<OnDevice<CudaPeer>>) {
      CAPTURE(n);
      CAPTURE(spread);
      CAPTURE(std::string(c.name));
      CHECK_NOTHROW(run_ranks<CudaPeer>(
          n,
          [&](CudaPeer& comm) {
            OnDevice<CudaPeer> device(comm, device_of(comm.rank(), spread));
            c.run(device);
          },
          options));
    }
}

}  // namespace

TEST_CASE("cuda_peer: conformance with host memory") {
  for (int n : {1, 3})
    for (auto const& c : conformance<CudaPeer>) {
      CAPTURE(n);
      CAPTURE(std::string(c.name));
      CHECK_NOTHROW(run_ranks<CudaPeer>(n, c.run));
    }
}

TEST_CASE("cuda_peer: conformance with virtual ranks on one device") { run_conformance({}, false, {1, 3}); }
TEST_CASE("cuda_peer: conformance with a device for every rank") { run_conformance({}, true, {2}); }
TEST_CASE("cuda_peer: conformance with late and poisoned messages") { run_conformance(chaos(3), true, {3}); }

TEST_CASE("cuda_peer: blocks rotate") {
  unsigned const seed = 815;
  CAPTURE(seed);
  for (bool spread : {false, true})
    for (int n : {2, 3}) {
      CAPTURE(n);
      CHECK_NOTHROW(run_ranks<CudaPeer>(n, [&](CudaPeer& comm) {
        OnDevice<CudaPeer> device(comm, device_of(comm.rank(), spread));
        rotates(device, seed + unsigned(n), 12);
      }));
    }
}

TEST_CASE("cuda_peer: the host waits for posts, not for devices") {
  // The sender's stream is held up by a host function that returns only when every rank's wait has.
  struct Gate {
    std::mutex mutex;
    std::condition_variable changed;
    bool open = false;
  } gate;
  run_ranks<CudaPeer>(2, [&](CudaPeer& comm) {
    StreamBackend backend(0);
    DeviceBytes memory(backend, 64);
    if (comm.rank() == 0) {
      Bytes const text = message(64, 0, 1);
      cuda::check(cudaLaunchHostFunc(
                      backend.stream(),
                      [](void* g) {
                        auto& there = *static_cast<Gate*>(g);
                        std::unique_lock lock(there.mutex);
                        there.changed.wait_for(lock, 20s, [&] { return there.open; });
                      },
                      &gate),
                  "host function");
      memory.put(text);
    }
    Send const s{1, memory.span()};
    Recv const r{0, memory.span()};
    auto t = comm.rank() == 0 ? comm.exchange(backend, {&s, 1}, {}) : comm.exchange(backend, {}, {&r, 1});
    while (!t.wait_for(backend, 10ms)) require(!comm.aborted(), "not aborted");
    gather(comm, 0);
    if (comm.rank() == 0) {
      std::lock_guard lock(gate.mutex);
      gate.open = true;
      gate.changed.notify_all();
    }
    Bytes got(64);
    memory.get(got);
    require(got == message(64, 0, 1), "what was sent arrives");
  });
}

TEST_CASE("cuda_peer: a device that hangs holds a rank that gives up until the deadline, no longer") {
  // Rank 0's stream is held up for longer than anybody waits, rank 2 does not post: rank 1 has a copy under way that
  // does not end and a message that does not come.
  struct Gate {
    std::mutex mutex;
    std::condition_variable changed;
    bool reached = false, open = false;
    bool wait(bool Gate::*what) {
      std::unique_lock lock(mutex);
      return changed.wait_for(lock, 20s, [&] { return this->*what; });
    }
    void set(bool Gate::*what) {
      std::lock_guard lock(mutex);
      this->*what = true;
      changed.notify_all();
    }
  } gate;
  run_ranks<CudaPeer>(3,
                      [&](CudaPeer& comm) {
                        int const rank = comm.rank();
                        StreamBackend backend(device_of(rank, true));
                        Bytes const text = message(64, 0, 1);
                        if (rank == 0) {
                          DeviceBytes memory(backend, 64);
                          auto const hang = [](void* g) {
                            static_cast<Gate*>(g)->set(&Gate::reached);
                            static_cast<Gate*>(g)->wait(&Gate::open);
                          };
                          cuda::check(cudaLaunchHostFunc(backend.stream(), hang, &gate), "host function");
                          memory.put(text);
                          Send const s{1, memory.span()};
                          auto t = comm.exchange(backend, {&s, 1}, {});
                          backend.synchronize();  // here, so that no other thread carries out the host function
                          while (!comm.aborted()) std::this_thread::sleep_for(1ms);
                        } else if (rank == 1) {
                          require(gate.wait(&Gate::reached), "the device hangs");
                          DeviceBytes a(backend, 64), b(backend, 64);
                          Recv const r[2] = {{0, a.span()}, {2, b.span()}};
                          auto t = comm.exchange(backend, {}, r);
                          require(!t.wait_for(backend, 50ms), "rank 2 does not post");
                          comm.abort("given up");
                          auto const begin = std::chrono::steady_clock::now();
                          t = {};
                          auto const waited = std::chrono::steady_clock::now() - begin;
                          require(waited >= 300ms && waited < 5s, "it waits for the deadline, no longer");
                          // Memory is given back in stream order, behind the copy that is still to come: the emulator
                          // would see it.
                        } else {
                          while (!comm.aborted()) std::this_thread::sleep_for(1ms);
                        }
                        if (rank == 1) {
                          gate.set(&Gate::open);
                          backend.synchronize();
                        }
                      },
                      {.deadline = 300ms});
}

TEST_CASE("cuda_peer: device and host memory do not meet in a message") {
  run_ranks<CudaPeer>(2, [](CudaPeer& comm) {
    StreamBackend backend(0);
    HostControl host;
    DeviceBytes memory(backend, 8);
    Bytes bytes(8);
    Send const s{1, bytes};
    Recv const r{0, memory.span()};
    auto t = comm.rank() == 0 ? comm.exchange(host, {&s, 1}, {}) : comm.exchange(backend, {}, {&r, 1});
    while (!comm.aborted()) require(!t.wait_for(backend, 1ms), "it does not arrive");
    require(comm.aborted()->find("device memory on both sides") != std::string::npos, *comm.aborted());
  });
}

TEST_CASE("cuda_peer: errors of the runtime are typed") {
  run_ranks<CudaPeer>(1, [](CudaPeer& comm) {
    Broken broken;
    try {
      comm.exchange(broken, {}, {});
      require(false, "an unknown device is refused");
    } catch (Error const& e) {
      require(e.code() == ErrorCode::device, e.what());
    }
  });
}
