// SPDX-License-Identifier: Apache-2.0
// Ranks that are processes of an MPI job (MPI 3.1). Needs <mpi.h>.
#pragma once

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "mpi_ring.hpp"
#include "transfer.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// One rank of a ring over an MPI communicator, which is duplicated once and else left alone: never freed, never
/// aborted, its error handler untouched. Moves host memory. The user initialises MPI first, with MPI_THREAD_FUNNELED
/// at least where the backend has threads of its own (only the thread that uses this object calls MPI), and finalises
/// it later. One thread at a time.
///
/// MPI moves bytes while it is called: long computations call `progress` (8 to 64 times per step are enough). MPI does
/// not report dead peers: that is what deadlines are for. After an abort the duplicate is not freed (that is collective
/// and could wait for ever); it costs a communicator, and a job with a dead rank has to end by MPI_Abort anyway.
class Mpi : public detail::Sent {
 public:
  /// The messages of one exchange. The buffers must live until `wait_for` has returned true or the transfer is gone.
  /// Destroying one that is under way aborts the ring (if nobody has yet), cancels its receives and waits until MPI has
  /// let go of the buffers, for at most 250 ms. MPI holds on longer only to a message that a peer took half of and then
  /// stopped calling MPI: after such a death keep the buffers until the process ends, and end it by MPI_Abort.
  class Transfer {
   public:
    Transfer() = default;

    /// Polls for at most `slice`. True: everything has been sent (the buffers are free) and received. False: not yet,
    /// or the ring was aborted (then at once). Throws Error{transport} for an error that MPI returned.
    template <class B> bool wait_for(B&, std::chrono::nanoseconds slice) {
      if (!record_) return true;
      if (!record_.ring().wait(*record_, slice)) return false;
      record_ = {};
      return true;
    }

   private:
    friend class Mpi;
    explicit Transfer(std::shared_ptr<detail::MpiRing> const& ring) : record_(ring, ring->open()) {}

    detail::OpenRecord<detail::MpiRing> record_;
  };

  template <class Space> static constexpr bool moves = std::is_same_v<Space, HostSpace>;

  /// Collective over `comm`. Throws Error{invalid_argument} if MPI is not initialised or `comm` is not an
  /// intracommunicator, Error{transport} if MPI fails.
  explicit Mpi(MPI_Comm comm, MpiOptions options = {}) : ring_(std::make_shared<detail::MpiRing>(comm, options)) {}

  int rank() const { return ring_->rank(); }
  int size() const { return ring_->size(); }

  /// Posts the messages. Throws Error{invalid_argument} for a peer that is not another rank of the ring, having posted
  /// nothing. After an abort it posts nothing and the transfer never completes.
  template <class B> Transfer exchange(B&, std::span<Send const> sends, std::span<Recv const> recvs) {
    static_assert(moves<typename B::Space>,
                  "ringattn: Mpi moves host memory only: take Cpu as Policy::Backend, or Nccl as Policy::Communicator");
    detail::check_peers(rank(), size(), sends, recvs);
    Transfer transfer = begin();
    if (transfer.record_->lost) return transfer;
    for (Recv const& r : recvs) ring_->receive(*transfer.record_, detail::MpiRing::data_tag, r.from, r.bytes);
    for (Send const& s : sends) ring_->send(*transfer.record_, detail::MpiRing::data_tag, s.to, s.bytes);
    count(sends);
    return transfer;
  }

  /// Every rank's `mine` (the same size everywhere, else the ring aborts) to `all` of every rank, in rank order.
  Transfer all_gather(std::span<std::byte const> mine, std::span<std::byte> all) {
    detail::check_gather(rank(), size(), mine, all);
    Transfer transfer = begin();
    if (transfer.record_->lost) return transfer;
    auto const place = [&](int peer) { return all.subspan(size_t(peer) * mine.size(), mine.size()); };
    if (!mine.empty()) std::memmove(place(rank()).data(), mine.data(), mine.size());
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank()) ring_->receive(*transfer.record_, detail::MpiRing::control_tag, peer, place(peer));
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank()) ring_->send(*transfer.record_, detail::MpiRing::control_tag, peer, mine);
    count_control(size() - 1);
    return transfer;
  }

  /// One test of what is under way, and a look for another rank's abort.
  void progress() { ring_->poke(); }
  /// The first reason counts; its first 512 characters are sent to every rank. Returns at once.
  void abort(std::string reason) { ring_->abort(std::move(reason)); }
  /// As of the last `progress` or `wait_for`.
  std::optional<std::string> aborted() const { return ring_->aborted(); }
  std::chrono::nanoseconds deadline() const { return ring_->options().deadline; }

 private:
  Transfer begin() {
    Transfer transfer(ring_);
    transfer.record_->lost = ring_->aborted().has_value();
    return transfer;
  }

  std::shared_ptr<detail::MpiRing> ring_;
};

static_assert(RingCommunicator<Mpi, HostControl> && Control<Mpi> && Moves<Mpi, HostSpace> && !Moves<Mpi, DeviceSpace>);

}  // namespace ringattn
