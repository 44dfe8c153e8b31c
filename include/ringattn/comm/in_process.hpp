// SPDX-License-Identifier: Apache-2.0
// N ranks as threads of one process: one copy, straight from the sender's buffer to the receiver's.
//
// Whoever posts second finds the other's post in the pair's channel. Then a small message is copied at once, and a
// large one in pieces by both ranks, when they make progress or wait; with no lock held. So a transfer completes though
// nobody waits, and the rank that is behind does not copy while the other one waits for it.
#pragma once

#include <chrono>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.hpp"
#include "in_process_ring.hpp"
#include "transfer.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// One rank of a ring of threads. Moves host memory. Each object is used by one thread at a time.
class InProcess : public detail::Sent {
 public:
  /// What the ranks of a ring share, a handle that copies cheaply: give one to every thread that makes its own rank.
  class World {
   public:
    /// Throws Error{invalid_argument} unless size >= 1.
    explicit World(int size, RunOptions options = {})
        : ring_((detail::check_place(0, size), std::make_shared<detail::InProcessRing>(size, options))) {}

    int size() const { return ring_->size(); }
    /// From any thread: stops the ring, as InProcess::abort.
    void abort(std::string reason) { ring_->abort(std::move(reason)); }
    std::optional<std::string> aborted() const { return ring_->aborted(); }

   private:
    friend class InProcess;
    std::shared_ptr<detail::InProcessRing> ring_;
  };

  /// The messages of one exchange. The buffers must live until `wait_for` has returned true or the transfer is gone.
  /// Destroying one that is under way aborts the ring (if nobody has yet), waits for a copy that is being made, and
  /// returns when no buffer of it will be touched any more.
  class Transfer {
   public:
    Transfer() = default;

    /// Blocks for at most `slice`, copying. True: everything has been sent and received. False: not yet, or the ring
    /// was aborted (then at once).
    template <class B> bool wait_for(B&, std::chrono::nanoseconds slice) {
      if (!record_) return true;
      if (!record_.ring().wait(*record_, slice)) return false;
      record_ = {};
      return true;
    }

   private:
    friend class InProcess;
    Transfer(std::shared_ptr<detail::InProcessRing> const& ring, int rank, size_t posts)
        : record_(ring, ring->open(rank, posts)) {}

    detail::OpenRecord<detail::InProcessRing> record_;
  };

  template <class Space> static constexpr bool moves = std::is_same_v<Space, HostSpace>;

  /// Takes a place in the ring. Throws Error{invalid_argument} if it has none such. One object per rank at a time.
  InProcess(World const& world, int rank) : ring_(world.ring_), rank_(rank) { detail::check_place(rank, size()); }
  InProcess(InProcess&&) = default;
  InProcess& operator=(InProcess&&) = default;

  int rank() const { return rank_; }
  int size() const { return ring_->size(); }

  /// Posts the messages; small ones whose other side is already there are copied before it returns. Throws
  /// Error{invalid_argument} for a peer that is not another rank of the ring, having posted nothing. After an abort it
  /// posts nothing and the transfer never completes.
  template <class B> Transfer exchange(B&, std::span<Send const> sends, std::span<Recv const> recvs) {
    static_assert(moves<typename B::Space>,
                  "ringattn: InProcess moves host memory only: take Cpu as Policy::Backend, or CudaPeer or Nccl as "
                  "Policy::Communicator");
    detail::check_peers(rank_, size(), sends, recvs);
    Transfer transfer(ring_, rank_, sends.size() + recvs.size());
    count(sends);
    for (Send const& s : sends) ring_->send(*transfer.record_, Lane::data, s.to, s.bytes);
    for (Recv const& r : recvs) ring_->receive(*transfer.record_, Lane::data, r.from, r.bytes);
    return transfer;
  }

  /// Every rank's `mine` (the same size everywhere, else the ring aborts) to `all` of every rank, in rank order.
  Transfer all_gather(std::span<std::byte const> mine, std::span<std::byte> all) {
    detail::check_gather(rank_, size(), mine, all);
    Transfer transfer(ring_, rank_, 2 * size_t(size() - 1));
    count_control(size() - 1);
    for (int peer = 0; peer < size(); ++peer) {
      auto const place = all.subspan(size_t(peer) * mine.size(), mine.size());
      if (peer == rank_) {
        if (!mine.empty()) std::memmove(place.data(), mine.data(), mine.size());
        continue;
      }
      ring_->send(*transfer.record_, Lane::control, peer, mine);
      ring_->receive(*transfer.record_, Lane::control, peer, place);
    }
    return transfer;
  }

  /// Copies a piece of a large message, if one is under way.
  void progress() { ring_->progress(rank_); }
  /// The first reason counts. Wakes every rank that waits.
  void abort(std::string reason) { ring_->abort(std::move(reason)); }
  std::optional<std::string> aborted() const { return ring_->aborted(); }
  std::chrono::nanoseconds deadline() const { return ring_->options().deadline; }

 private:
  using Lane = detail::InProcessRing::Lane;

  std::shared_ptr<detail::InProcessRing> ring_;
  int rank_;
};

static_assert(RingCommunicator<InProcess, HostControl> && Control<InProcess> && Moves<InProcess, HostSpace> &&
              !Moves<InProcess, DeviceSpace>);

/// Runs f(comm) on n threads, one per rank, and returns when all have ended. `Communicator`: one whose ranks are
/// threads of one world. An exception on one rank aborts the ring with the reason "rank r: <what>"; after joining, the
/// first exception that is not Error{aborted} is rethrown, else the first. A thread that neither returns nor
/// communicates is waited for.
template <class Communicator = InProcess, class F> void run_ranks(int n, F&& f, RunOptions options = {}) {
  typename Communicator::World world(n, options);
  std::mutex mutex;
  std::exception_ptr first, cause;
  auto const failed = [&](int rank, std::string const& what, bool consequence) {
    {
      std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
      if (!cause && !consequence) cause = std::current_exception();
    }
    world.abort("rank " + std::to_string(rank) + ": " + what);
  };
  auto const body = [&](int rank) {
    try {
      Communicator comm(world, rank);
      f(comm);
    } catch (Error const& e) {
      failed(rank, e.what(), e.code() == ErrorCode::aborted);
    } catch (std::exception const& e) {
      failed(rank, e.what(), false);
    } catch (...) {
      failed(rank, "an exception that is not a std::exception", false);
    }
  };

  std::vector<std::thread> threads;
  try {
    threads.reserve(size_t(n));
    for (int rank = 0; rank < n; ++rank) threads.emplace_back(body, rank);
  } catch (std::exception const& e) {  // no thread to be had: those that run must not wait for the others
    failed(int(threads.size()), e.what(), false);
  }
  for (std::thread& t : threads) t.join();
  if (cause) std::rethrow_exception(cause);
  if (first) std::rethrow_exception(first);
}

}  // namespace ringattn
