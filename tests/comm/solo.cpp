// SPDX-License-Identifier: Apache-2.0
// Solo passes the conformance suite; what the communicator concepts reject.
#include <doctest/doctest.h>
#include <ringattn/comm/solo.hpp>

#include "conformance.hpp"

using namespace ringattn;
using namespace ringattn::test;

TEST_CASE("solo: conformance") {
  for (auto const& c : conformance<Solo>) {
    CAPTURE(std::string(c.name));
    Solo comm;
    CHECK_NOTHROW(c.run(comm));
  }
}

TEST_CASE("solo: deadline and gather") {
  Solo comm(5s);
  CHECK(comm.deadline() == 5s);
  CHECK(gather(comm, 42) == std::vector<int>{42});
}

// ---------------------------------------------------------------- near misses: each lacks one requirement

namespace {

enum Missing { nothing, wait_for, movable, default_constructible, bool_result };

template <Missing m> struct FakeTransfer {
  FakeTransfer() requires(m != default_constructible) = default;
  explicit FakeTransfer(int) {}
  FakeTransfer(FakeTransfer&&) requires(m != movable) = default;
  FakeTransfer& operator=(FakeTransfer&&) requires(m != movable) = default;

  template <class B> bool wait_for(B&, std::chrono::nanoseconds) requires(m != Missing::wait_for && m != bool_result) {
    return true;
  }
  template <class B> int wait_for(B&, std::chrono::nanoseconds) requires(m == bool_result) { return 1; }
};

static_assert(RingTransfer<FakeTransfer<nothing>, HostControl>);
static_assert(!RingTransfer<FakeTransfer<Missing::wait_for>, HostControl>);
static_assert(!RingTransfer<FakeTransfer<movable>, HostControl>);
static_assert(!RingTransfer<FakeTransfer<default_constructible>, HostControl>);
static_assert(!RingTransfer<FakeTransfer<bool_result>, HostControl>);

enum class Without { nothing, rank, size, exchange, transfer, progress, abort, aborted, optional_reason, deadline };

template <Without w> struct FakeCommunicator {
  int rank() const requires(w != Without::rank) { return 0; }
  int size() const requires(w != Without::size) { return 1; }
  template <class B>
  FakeTransfer<nothing> exchange(B&, std::span<Send const>,
                                 std::span<Recv const>) requires(w != Without::exchange && w != Without::transfer) {
    return {};
  }
  template <class B> void exchange(B&, std::span<Send const>, std::span<Recv const>) requires(w == Without::transfer) {}
  void progress() requires(w != Without::progress) {}
  void abort(std::string) requires(w != Without::abort) {}
  std::optional<std::string> aborted() const requires(w != Without::aborted && w != Without::optional_reason) {
    return {};
  }
  bool aborted() const requires(w == Without::optional_reason) { return false; }
  std::chrono::nanoseconds deadline() const requires(w != Without::deadline) { return {}; }
};

static_assert(RingCommunicator<FakeCommunicator<Without::nothing>, HostControl>);
static_assert(!RingCommunicator<FakeCommunicator<Without::rank>, HostControl>);
static_assert(!RingCommunicator<FakeCommunicator<Without::size>, HostControl>);
static_assert(!RingCommunicator<FakeCommunicator<Without::exchange>, HostControl>);
static_assert(!RingCommunicator<FakeCommunicator<Without::transfer>, HostControl>);
static_assert(!RingCommunicator<FakeCommunicator<Without::progress>, HostControl>);
static_assert(!RingCommunicator<FakeCommunicator<Without::abort>, HostControl>);
static_assert(!RingCommunicator<FakeCommunicator<Without::aborted>, HostControl>);
static_assert(!RingCommunicator<FakeCommunicator<Without::optional_reason>, HostControl>);
static_assert(!RingCommunicator<FakeCommunicator<Without::deadline>, HostControl>);
static_assert(!Moves<FakeCommunicator<Without::nothing>, HostSpace>);
static_assert(!Control<FakeCommunicator<Without::nothing>>);

struct GatherOfNothing {
  void all_gather(std::span<std::byte const>, std::span<std::byte>) {}
};
static_assert(!Control<GatherOfNothing>);

}  // namespace
