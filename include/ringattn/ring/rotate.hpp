// SPDX-License-Identifier: Apache-2.0
// The loop: one key/value block is computed while the next one travels.
#pragma once

#include <chrono>
#include <cstdint>

#include "plan.hpp"
#include "wait.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// What a rank did since its plan was made: to see whether transfers hide.
struct Timings {
  double compute_s = 0;  ///< in the backend's steps
  double wait_s = 0;     ///< waiting for peers: transfer that did not hide, and peers that were late
  int64_t calls = 0, steps = 0, messages = 0, bytes = 0;  ///< messages and bytes: data sent
};

namespace detail {

/// Adds the lifetime of the object to a counter.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), start_(Clock::now()) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(Clock::now() - start_).count(); }
  Stopwatch(Stopwatch const&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double& seconds_;
  Clock::time_point start_;
};

}  // namespace detail

/// The messages of one rank: sends what the schedule says, never an empty message, and counts.
template <class P> class Traffic {
 public:
  using Backend = typename P::Backend;
  using Communicator = typename P::Communicator;
  using Transfer = decltype(std::declval<Communicator&>().exchange(std::declval<Backend&>(), std::span<Send const>(),
                                                                   std::span<Recv const>()));

  Traffic(Backend& backend, Communicator& comm) : backend_(backend), comm_(comm) {}

  /// One exchange under way at a time. It outlives exceptions, so that the ring is aborted before it is destroyed.
  class Lane {
   public:
    void send(int to, void const* data, size_t bytes) {
      if (bytes > 0) sends_[n_sends_++] = {to, {static_cast<std::byte const*>(data), bytes}};
    }
    void receive(int from, void* data, size_t bytes) {
      if (bytes > 0) recvs_[n_recvs_++] = {from, {static_cast<std::byte*>(data), bytes}};
    }

   private:
    friend class Traffic;
    Send sends_[1];
    Recv recvs_[2];
    size_t n_sends_ = 0, n_recvs_ = 0;
    bool under_way_ = false;
    Transfer transfer_;
  };

  void post(Lane& lane) {
    if (lane.n_sends_ + lane.n_recvs_ == 0) return;
    std::span<Send const> const sends(lane.sends_, lane.n_sends_);
    lane.transfer_ = comm_.exchange(backend_, sends, std::span<Recv const>(lane.recvs_, lane.n_recvs_));
    lane.under_way_ = true;
    for (Send const& s : sends) {
      ++timings.messages;
      timings.bytes += int64_t(s.bytes.size());
    }
    lane.n_sends_ = lane.n_recvs_ = 0;
  }
  void wait(Lane& lane, char const* what) {
    if (!lane.under_way_) return;
    detail::Stopwatch watch(timings.wait_s);
    await(comm_, backend_, lane.transfer_, what);
    lane.under_way_ = false;
  }
  /// After an abort.
  void drop(Lane& lane) {
    lane.transfer_ = Transfer();
    lane.under_way_ = false;
    lane.n_sends_ = lane.n_recvs_ = 0;
  }

  Timings timings;

 private:
  Backend& backend_;
  Communicator& comm_;
};

/// Carries the key/value blocks round the ring. `compute(step, k, v)` is called for every block that comes by, this
/// rank's own first, as it lies in the caller's memory; `after(step)` once the step's next block has been posted.
template <class P> class Rotation {
 public:
  using Element = typename P::Precision::Element;
  using Space = typename P::Backend::Space;
  using Input = View<Element const, Space>;

  Rotation(typename P::Backend& backend, Traffic<P>& traffic, Plan<P> const& plan, Element* first_slot,
           Element* second_slot)
      : backend_(backend), traffic_(traffic), plan_(plan), slot_{first_slot, second_slot} {}

  template <class Compute, class After> void run(Input k, Input v, Compute compute, After after) {
    Schedule const& s = plan_.schedule;
    int const rank = plan_.here.rank;
    batch_ = k.extents.batch;
    if (s.travel[size_t(rank)] > 0) {
      Block<Element, Space> const mine = slot(rank, 0);
      backend_.copy(k, mine.k);
      backend_.copy(v, mine.v);
    }
    for (int step = 0; step < s.steps; ++step) {
      if (P::Overlap::overlapped) post(step);
      if (step == 0) {
        compute(step, k, v);
      } else if (s.holds(rank, step)) {
        Block<Element, Space> const here = slot(s.owner(rank, step), step);
        compute(step, Input(here.k), Input(here.v));
      }
      if (!P::Overlap::overlapped) post(step);
      after(step);
      traffic_.wait(lane_, "key/value block");
    }
  }
  void drop() { traffic_.drop(lane_); }

 private:
  /// The block of an owner, in the slot of a step.
  Block<Element, Space> slot(int owner, int step) const {
    return {slot_[step % 2], plan_.k_extents(owner, batch_), plan_.v_extents(owner, batch_)};
  }
  /// Sends this step's block on and receives the next one's.
  void post(int step) {
    Schedule const& s = plan_.schedule;
    int const rank = plan_.here.rank, now = s.owner(rank, step), then = s.owner(rank, step + 1);
    auto const bytes = [&](int owner) { return size_t(plan_.kv_elements(owner, batch_)) * sizeof(Element); };
    if (s.travel[size_t(now)] > step) lane_.send(s.next(rank), slot_[step % 2], bytes(now));
    if (s.holds(rank, step + 1)) lane_.receive(s.previous(rank), slot_[(step + 1) % 2], bytes(then));
    traffic_.post(lane_);
  }

  typename P::Backend& backend_;
  Traffic<P>& traffic_;
  Plan<P> const& plan_;
  Element* slot_[2];
  typename Traffic<P>::Lane lane_;
  int64_t batch_ = 0;
};

}  // namespace ringattn
