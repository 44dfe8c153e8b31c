// SPDX-License-Identifier: Apache-2.0
// N ranks as threads of one process, each with a device or with a part of one: copy engines move the blocks.
//
// Messages meet as in InProcess. Whoever posts second enqueues the copy, behind both sides' work, on a stream of its
// own; no multiprocessor takes part, and no host thread waits for a device. What is waited for on the host is that the
// other rank's thread has posted.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.hpp"
#include "cuda_peer_copies.hpp"
#include "in_process.hpp"
#include "transfer.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// One rank of a ring of threads whose data is in device memory; moves host memory, too. Backends on the same device
/// are virtual ranks. Each object is used by one thread at a time. The first exchanges make streams and events; they
/// are kept, and later ones make none.
///
/// Exchanges can be captured in a CUDA graph if the streams of all ranks are captured together: fork them from one
/// stream by an event, call once before so that streams and events are there, and join them again.
class CudaPeer : public detail::Sent {
  struct Shared {
    detail::Couriers couriers;  // first: the ring's posts refer to it
    detail::InProcessRing ring;

    Shared(int size, RunOptions const& options) : ring(size, options, &detail::DeviceExchange::move) {}
  };

 public:
  /// What the ranks of a ring share, a handle that copies cheaply: give one to every thread that makes its own rank.
  class World {
   public:
    /// Throws Error{invalid_argument} unless size >= 1.
    explicit World(int size, RunOptions options = {})
        : shared_((detail::check_place(0, size), std::make_shared<Shared>(size, options))) {}

    int size() const { return shared_->ring.size(); }
    /// From any thread: stops the ring, as CudaPeer::abort.
    void abort(std::string reason) { shared_->ring.abort(std::move(reason)); }
    std::optional<std::string> aborted() const { return shared_->ring.aborted(); }

   private:
    friend class CudaPeer;
    std::shared_ptr<Shared> shared_;
  };

 private:
  /// Exchanges of one rank that are under no way, to be used again.
  struct Idle {
    std::shared_ptr<Shared> shared;
    std::vector<std::unique_ptr<detail::DeviceExchange>> all{};
    std::vector<detail::DeviceExchange*> free{};
    std::optional<std::chrono::steady_clock::time_point> end_of_patience{};  // once the ring is aborted

    detail::DeviceExchange& take(int device, cudaStream_t stream, size_t messages) {
      auto found = std::find_if(free.begin(), free.end(), [&](auto const* x) { return x->device == device; });
      if (found == free.end()) {
        all.push_back(std::make_unique<detail::DeviceExchange>(shared->couriers, device));
        free.reserve(all.size());
        found = free.insert(free.end(), all.back().get());
      }
      detail::DeviceExchange& x = **found;
      free.erase(found);
      x.stream = stream;
      x.places.assign(messages, {&x, nullptr});
      return x;
    }
    /// Until when copies are waited for that nobody wants any more; in an aborted ring, which gets no new ones, for all
    /// of them together.
    std::chrono::steady_clock::time_point patience() {
      if (end_of_patience) return *end_of_patience;
      auto const end = end_of_wait(shared->ring.options().deadline);
      if (shared->ring.aborted()) end_of_patience = end;
      return end;
    }
    void give_back(detail::DeviceExchange& x) {
      x.release();
      free.push_back(&x);
    }
  };

 public:
  /// The messages of one exchange. The buffers must live until work that was ordered behind `wait_for` is done, or the
  /// transfer is gone. Destroying one that is under way aborts the ring (if nobody has yet), waits for copies that were
  /// enqueued, and returns when no buffer of it will be touched any more.
  ///
  /// A copy may wait for a device that hangs. After the ring's deadline, one for all transfers that a rank drops after
  /// an abort, the copy is left behind: the backend's stream waits for it instead, so that memory which is given back
  /// in the order of that stream (as workspaces are) stays untouched by others. Other buffers must then be kept until
  /// the process ends; the device is lost.
  class Transfer {
   public:
    Transfer() = default;

    /// Blocks for at most `slice`, until the other sides have posted. True: later work of the backend is ordered behind
    /// everything that is sent and received. False: not yet, or the ring was aborted (then at once).
    template <class B> bool wait_for(B& backend, std::chrono::nanoseconds slice) {
      if (!record_) return true;
      End& end = record_.get_deleter();
      if (!end.idle->shared->ring.wait(*record_, slice)) return false;
      if constexpr (std::is_same_v<typename B::Space, DeviceSpace>) {
        if (end.exchange) {
          cuda::DeviceGuard const guard(backend.device());
          end.exchange->wait(backend.stream());
        }
      }
      end.complete = true;
      record_ = Record();
      return true;
    }

   private:
    friend class CudaPeer;

    /// Of an exchange, when nobody holds it any more.
    struct End {
      std::shared_ptr<Idle> idle;
      detail::DeviceExchange* exchange;  // or null
      bool complete;

      void operator()(detail::InProcessRing::Record* record) const {
        int const rank = record->rank;
        idle->shared->ring.close(*record);
        if (!exchange) return;
        if (!complete && !exchange->drain(idle->patience()))
          idle->shared->ring.abort("rank " + std::to_string(rank) +
                                   " gave up a copy that had waited for a device for longer than the deadline");
        idle->give_back(*exchange);
      }
    };
    using Record = std::unique_ptr<detail::InProcessRing::Record, End>;

    Transfer(std::shared_ptr<Idle> const& idle, int rank, size_t posts, detail::DeviceExchange* exchange = nullptr)
        : record_(idle->shared->ring.open(rank, posts), End{idle, exchange, false}) {}

    Record record_;
  };

  template <class Space>
  static constexpr bool moves = std::is_same_v<Space, DeviceSpace> || std::is_same_v<Space, HostSpace>;

  /// Takes a place in the ring. Throws Error{invalid_argument} if it has none such. One object per rank at a time.
  CudaPeer(World const& world, int rank) : idle_(std::make_shared<Idle>(Idle{world.shared_})), rank_(rank) {
    detail::check_place(rank, size());
  }
  CudaPeer(CudaPeer&&) = default;
  CudaPeer& operator=(CudaPeer&&) = default;

  int rank() const { return rank_; }
  int size() const { return ring().size(); }

  /// Posts the messages, in the stream order of the backend: what is sent is what its stream has computed by then, and
  /// earlier reads of what is received into come first. Throws Error{invalid_argument} for a peer that is not another
  /// rank of the ring and Error{device}, having posted nothing. After an abort it posts nothing and the transfer never
  /// completes.
  template <class B> Transfer exchange(B& backend, std::span<Send const> sends, std::span<Recv const> recvs) {
    static_assert(moves<typename B::Space>, "ringattn: CudaPeer moves memory of devices and of the host only");
    detail::check_peers(rank_, size(), sends, recvs);
    size_t const messages = sends.size() + recvs.size();
    detail::DeviceExchange* exchange = nullptr;
    if constexpr (std::is_same_v<typename B::Space, DeviceSpace>) {
      cuda::DeviceGuard const guard(backend.device());
      if (ring().options().chaos.poison)
        for (Recv const& r : recvs)
          cuda::check(cudaMemsetAsync(r.bytes.data(), 0xff, r.bytes.size(), backend.stream()), "poison");
      exchange = &idle_->take(backend.device(), backend.stream(), messages);
      if (cudaError_t const e = cudaEventRecord(exchange->ready, backend.stream()); e != cudaSuccess) {
        idle_->give_back(*exchange);
        cuda::check(e, "post an exchange");
      }
    }
    Transfer transfer(idle_, rank_, messages, exchange);
    count(sends);
    size_t next = 0;
    auto const place = [&]() -> void* { return exchange ? &exchange->places[next++] : nullptr; };
    for (Send const& s : sends) ring().send(*transfer.record_, Lane::data, s.to, s.bytes, place());
    for (Recv const& r : recvs) ring().receive(*transfer.record_, Lane::data, r.from, r.bytes, place());
    return transfer;
  }

  /// Every rank's `mine` (host memory, the same size everywhere, else the ring aborts) to `all` of every rank, in rank
  /// order.
  Transfer all_gather(std::span<std::byte const> mine, std::span<std::byte> all) {
    detail::check_gather(rank_, size(), mine, all);
    auto const part = [&](int r) { return all.subspan(size_t(r) * mine.size(), mine.size()); };
    if (!mine.empty()) std::memmove(part(rank_).data(), mine.data(), mine.size());
    Transfer transfer(idle_, rank_, 2 * size_t(size() - 1));
    count_control(size() - 1);
    for (int i = 1; i < size(); ++i) {
      int const to = (rank_ + i) % size(), from = (rank_ - i + size()) % size();
      ring().send(*transfer.record_, Lane::control, to, mine);
      ring().receive(*transfer.record_, Lane::control, from, part(from));
    }
    return transfer;
  }

  /// Copies a piece of a large message in host memory, if one is under way; copies of devices need no progress.
  void progress() { ring().progress(rank_); }
  /// The first reason counts. Never blocks for long; may be called from any thread.
  void abort(std::string reason) { ring().abort(std::move(reason)); }
  std::optional<std::string> aborted() const { return ring().aborted(); }
  std::chrono::nanoseconds deadline() const { return ring().options().deadline; }

 private:
  using Lane = detail::InProcessRing::Lane;

  detail::InProcessRing& ring() const { return idle_->shared->ring; }

  std::shared_ptr<Idle> idle_;
  int rank_;
};

static_assert(RingCommunicator<CudaPeer, HostControl> && Control<CudaPeer> && Moves<CudaPeer, HostSpace> &&
              Moves<CudaPeer, DeviceSpace>);

}  // namespace ringattn
