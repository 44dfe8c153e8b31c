// SPDX-License-Identifier: Apache-2.0
// Ranks with a GPU each, in one process or many: NCCL carries the blocks, a host communicator everything small.
//
// The plain form: the sends and receives of an exchange are one group on a high-priority stream of its own, posted
// before the step's kernel and ordered against the backend's stream by events both ways.
#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "nccl_ring.hpp"
#include "transfer.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// One rank of a ring over NCCL. `HostRing` (Mpi, InProcess, CudaPeer) carries handshake, votes, aborts and messages of
/// host memory, and its deadline is this one's: NCCL has no way to tell a rank anything while it waits for another.
///
/// Exchanges are carried out in the order in which a rank posts them: every rank has to post those of a step in the
/// same order, as the pipeline does. A message of the wrong size is not noticed by NCCL; the deadline ends it.
/// After an abort every rank tears its NCCL communicator down when it next calls this object or drops a transfer.
/// The host ring must outlive this object and its transfers. When the last of them goes, work that is still enqueued is
/// carried out and NCCL's communicator finalised, which waits for peers until the host ring's deadline, then aborts.
/// Graphs that hold captured exchanges have to be destroyed before, since NCCL waits for that, too.
/// One thread at a time; NCCL asks for one thread per device.
template <class HostRing> class Nccl : detail::Sent {
  using HostTransfer = decltype(std::declval<HostRing&>().all_gather({}, {}));

  struct Shared {
    HostRing& host;
    detail::NcclRing ring;

    template <class... Arguments>
    explicit Shared(HostRing& h, Arguments&&... arguments) : host(h), ring(std::forward<Arguments>(arguments)...) {}
    Shared(Shared const&) = delete;
    /// What is enqueued is still carried out, within the deadline. An abort of the ring ends that at once.
    ~Shared() {
      try {
        auto const end = end_of_wait(host.deadline());
        bool const done = ring.finish([&] {
          host.progress();
          return !host.aborted() && std::chrono::steady_clock::now() < end;
        });
        if (!done)
          host.abort("rank " + std::to_string(host.rank()) +
                     ": what NCCL had under way when its communicator was dropped was not done within the deadline");
      } catch (std::exception const&) {  // of the host ring's, or no memory: `ring` tears down what is left
      }
    }

    /// True while the ring is whole. Whoever learns of an abort ends this rank's part of NCCL's work, which may wait
    /// for a peer that does not come.
    bool whole() {
      if (!host.aborted()) return true;
      ring.tear_down();
      return false;
    }
  };

 public:
  /// The messages of one exchange. The buffers must live until work that was ordered behind `wait_for` is done, or the
  /// transfer is gone. Destroying one that is under way aborts the ring (if nobody has yet) and tears NCCL down.
  class Transfer {
   public:
    Transfer() = default;

    /// Device memory: true, at once as a rule, when later work of the backend is ordered behind all that is sent and
    /// received; what NCCL has in the making is polled for at most `slice`. Host memory: as HostRing's transfers.
    /// Throws Error{transport} for an error that NCCL reported.
    template <class B> bool wait_for(B& backend, std::chrono::nanoseconds slice) {
      Shared* const shared = group_.get_deleter().shared.get();
      if (!shared) return host_.wait_for(backend, slice);
      auto const begin = std::chrono::steady_clock::now();
      for (;;) {
        if (!shared->whole() || !group_) return false;
        shared->ring.pump();
        if (group_->launched) break;
        if (std::chrono::steady_clock::now() - begin >= slice) return false;
        std::this_thread::yield();
      }
      shared->ring.poll();
      if constexpr (std::is_same_v<typename B::Space, DeviceSpace>) {
        cuda::DeviceGuard const guard(backend.device());
        shared->ring.order_behind(*group_, backend.stream());
      }
      shared->ring.give_back(*group_.release());
      group_ = Group();
      return true;
    }

   private:
    friend class Nccl;
    /// Of a group that is still under way when nobody holds it any more.
    struct GiveUp {
      std::shared_ptr<Shared> shared;

      void operator()(detail::NcclRing::Group* group) const {
        shared->host.abort("rank " + std::to_string(shared->ring.rank()) + " gave up a transfer that was under way");
        shared->ring.tear_down();
        shared->ring.give_back(*group);
      }
    };
    using Group = std::unique_ptr<detail::NcclRing::Group, GiveUp>;

    Group group_;  // of device memory, until it is complete; without `shared` it is the host's
    HostTransfer host_;
  };

  template <class Space>
  static constexpr bool moves = std::is_same_v<Space, DeviceSpace> || HostRing::template moves<Space>;

  /// Beside a communicator of the user's: a new one for the same ranks and devices. The user's is asked for these and
  /// else left alone. Ranks must be those of `host`. Collective. Throws Error{transport}, Error{timeout},
  /// Error{aborted}.
  // Not by ncclCommSplit: that runs under the user's communicator. If it is blocking, as by default, the call waits for
  // all ranks without a deadline; with its splitShare an abort of the new one would abort the user's, too.
  Nccl(ncclComm_t users, HostRing& host, NcclOptions options = {})
      : Nccl(host, device_of(users, host), std::move(options)) {}

  /// Over a new communicator for the ranks of `host`, this one with `device`. Collective. Throws as above.
  Nccl(HostRing& host, int device, NcclOptions options = {}) {
    std::vector<ncclUniqueId> ids(size_t(host.size()));
    ncclUniqueId mine{};
    if (host.rank() == 0 && ncclGetUniqueId(&mine) != ncclSuccess)
      throw Error(ErrorCode::transport, 0, "ncclGetUniqueId", "", "an error");
    HostControl control;
    auto transfer = host.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(ids)));
    auto const keep_waiting = patience(host);
    while (!transfer.wait_for(control, std::chrono::milliseconds(50))) {
      host.progress();
      keep_waiting();
    }
    shared_ = std::make_shared<Shared>(host, host.rank(), host.size(), device, ids[0], options, [&] {
      host.progress();
      keep_waiting();
    });
    control_before_ = host.control_messages();
  }

  int rank() const { return host().rank(); }
  int size() const { return host().size(); }

  /// Device memory of this object's device: posts one group of NCCL in the stream order of the backend. Host memory: as
  /// HostRing. Throws Error{invalid_argument} for a peer that is not another rank of the ring, having posted nothing,
  /// and, having aborted the ring, Error{transport}. After an abort it posts nothing and the transfer never completes.
  template <class B> Transfer exchange(B& backend, std::span<Send const> sends, std::span<Recv const> recvs) {
    static_assert(moves<typename B::Space>, "ringattn: Nccl moves memory of devices, and what its HostRing moves");
    Transfer t;
    if constexpr (std::is_same_v<typename B::Space, DeviceSpace>) {
      detail::check_peers(rank(), size(), sends, recvs);
      count(sends);
      detail::NcclRing::Group* group = nullptr;
      if (shared_->whole()) {
        cuda::DeviceGuard const guard(backend.device());
        group = shared_->ring.post(sends, recvs, backend.stream());
      }
      t.group_ = {group, typename Transfer::GiveUp{shared_}};  // before NCCL can fail: nothing is under way unowned
      try {
        if (group) shared_->ring.pump();
      } catch (std::exception const& e) {
        abort(e.what());
        throw;
      }
    } else {
      t.host_ = host().exchange(backend, sends, recvs);
    }
    return t;
  }
  /// As HostRing.
  Transfer all_gather(std::span<std::byte const> mine, std::span<std::byte> all) {
    Transfer t;
    t.host_ = host().all_gather(mine, all);
    return t;
  }

  /// Goes on with exchanges that NCCL has in the making; an error that NCCL has noticed aborts the ring.
  void progress() {
    host().progress();
    if (!shared_->whole()) return;
    try {
      shared_->ring.pump();
      shared_->ring.poll();
    } catch (Error const& e) {
      abort(e.what());
    }
  }
  void abort(std::string reason) {
    host().abort(std::move(reason));
    shared_->whole();
  }
  std::optional<std::string> aborted() const { return host().aborted(); }
  std::chrono::nanoseconds deadline() const { return host().deadline(); }

  int64_t messages() const { return Sent::messages() + host().messages(); }  ///< data messages sent by this rank
  int64_t bytes() const { return Sent::bytes() + host().bytes(); }           ///< bytes of data sent by this rank
  int64_t control_messages() const {
    return host().control_messages() - control_before_;
  }  ///< messages of all_gather sent

 private:
  HostRing& host() const { return shared_->host; }

  /// Throws unless `users` is a communicator of the ranks of `host`.
  static int device_of(ncclComm_t users, HostRing& host) {
    int rank = -1, size = 0, device = 0;
    if (!users || ncclCommUserRank(users, &rank) != ncclSuccess || ncclCommCount(users, &size) != ncclSuccess ||
        ncclCommCuDevice(users, &device) != ncclSuccess)
      throw Error(ErrorCode::invalid_argument, host.rank(), "comm", "a communicator of NCCL", "none");
    if (rank != host.rank() || size != host.size())
      throw Error(ErrorCode::invalid_argument, host.rank(), "comm",
                  "rank " + std::to_string(host.rank()) + " of " + std::to_string(host.size()) + " as in the host ring",
                  "rank " + std::to_string(rank) + " of " + std::to_string(size));
    return device;
  }

  /// A function that throws once the ring is aborted or the deadline has passed.
  static auto patience(HostRing& host) {
    auto const end = end_of_wait(host.deadline());
    return [&host, end] {
      if (auto const reason = host.aborted())
        throw Error(ErrorCode::aborted, host.rank(), "NCCL: make a communicator", "", *reason);
      if (std::chrono::steady_clock::now() < end) return std::this_thread::sleep_for(std::chrono::microseconds(50));
      Error const error(ErrorCode::timeout, host.rank(), "NCCL: make a communicator", "all ranks within the deadline",
                        "not all");
      host.abort(error.what());
      throw error;
    };
  }

  std::shared_ptr<Shared> shared_;
  int64_t control_before_ = 0;
};

}  // namespace ringattn
