// SPDX-License-Identifier: Apache-2.0
// The one place that waits for a peer: until the transfer is there, the ring is aborted, or the deadline has passed.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>

#include "../concepts.hpp"
#include "../error.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Orders later work of `backend` behind the arrival of `transfer`. `what` names the operation in errors.
/// Throws Error{aborted} with the reason when any rank aborted the ring, and Error{timeout}, after aborting it for all,
/// when comm.deadline() has passed.
template <class C, class B, class T> void await(C& comm, B& backend, T& transfer, char const* what) {
  using Clock = std::chrono::steady_clock;
  std::chrono::nanoseconds const deadline = comm.deadline();
  auto const end = end_of_wait(deadline);
  std::chrono::nanoseconds const longest_slice = std::chrono::milliseconds(50);
  for (;;) {
    auto const left = std::chrono::nanoseconds(end - Clock::now());
    if (transfer.wait_for(backend, std::clamp(left, std::chrono::nanoseconds(0), longest_slice))) return;
    if (auto reason = comm.aborted()) throw Error(ErrorCode::aborted, comm.rank(), what, "", *reason);
    if (Clock::now() >= end) {
      auto const ms = std::chrono::duration_cast<std::chrono::milliseconds>(deadline).count();
      Error error(ErrorCode::timeout, comm.rank(), what, "an answer within " + std::to_string(ms) + " ms", "none");
      comm.abort(error.what());
      throw error;
    }
    comm.progress();
  }
}

/// Returns when everything that was enqueued on the backend is done. A stream backend, which has `synchronize_for`, is
/// waited for as a peer is, since its work waits for peers; throws as await does, and what went wrong on the device.
/// The deadline then bounds all that is enqueued, this rank's own work included. A ring of one has no peers and no
/// deadline.
template <class C, class B> void settle(C& comm, B& backend, char const* what) {
  if constexpr (requires(std::chrono::nanoseconds slice) { backend.synchronize_for(slice); }) {
    struct Work {
      bool wait_for(B& b, std::chrono::nanoseconds slice) { return b.synchronize_for(slice); }
    } work;
    if (comm.size() > 1) return await(comm, backend, work, what);
  }
  backend.synchronize();
}

/// Every rank's `mine` in rank order, on every rank; bounded by the deadline.
template <class C, class T> void all_gather(C& comm, T const& mine, std::span<T> all, char const* what) {
  static_assert(std::is_trivially_copyable_v<T>, "ringattn: only plain data goes between ranks");
  HostControl host;
  auto transfer = comm.all_gather(std::as_bytes(std::span<T const>(&mine, 1)), std::as_writable_bytes(all));
  // The transfer may be destroyed only once it is complete or the ring is aborted; await aborts before a timeout
  // throws, and any other way out of it is an abort or a transport error.
  try {
    await(comm, host, transfer, what);
  } catch (std::exception const& e) {
    comm.abort(e.what());
    throw;
  }
}

/// Runs `f`; whatever it throws aborts the ring first, so that no peer waits for this rank. A ring of one has no peers
/// and stays usable.
template <class C, class F> void guarded(C& comm, F&& f) {
  auto const tell = [&](std::string const& what) {
    if (comm.size() > 1) comm.abort("rank " + std::to_string(comm.rank()) + ": " + what);
  };
  try {
    f();
  } catch (std::exception const& e) {
    tell(e.what());
    throw;
  } catch (...) {
    tell("unknown exception");
    throw;
  }
}

}  // namespace ringattn
