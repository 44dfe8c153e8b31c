// SPDX-License-Identifier: Apache-2.0
// One rank's own NCCL communicator: groups of sends and receives on a stream of their own, and its end.
#pragma once

#if !__has_include(<nccl.h>)
#error "ringattn: comm/nccl.hpp needs <nccl.h> (NCCL 2.19 or later): add its include path"
#endif
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../cuda/error.hpp"
#include "check.hpp"

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 19, 0)
#error "ringattn: comm/nccl.hpp needs NCCL 2.19 or later"
#endif

namespace ringattn::inline RINGATTN_ABI {

struct NcclOptions {
  /// The most thread blocks that NCCL may use, each of which takes a multiprocessor from the kernels.
  int max_ctas = 4;
};

namespace detail {

/// The communicator is non-blocking: a call that would wait for peers answers ncclInProgress, and `pump` sees to it.
class NcclRing {
 public:
  struct Message {
    int peer;
    void* data;
    size_t bytes;
    bool is_send;
  };
  /// One exchange. Kept and used again, so that a steady ring allocates nothing.
  struct Group {
    std::vector<Message> messages;
    cudaEvent_t ready = nullptr;    ///< the backend's stream has got this far
    cudaEvent_t arrived = nullptr;  ///< everything is sent and received
    bool posted = false, launched = false;
  };

  /// Makes a communicator. `keep_waiting()` throws when the peers have taken too long.
  template <class Wait>
  NcclRing(int rank, int size, int device, ncclUniqueId const& id, NcclOptions const& options, Wait keep_waiting)
      : rank_(rank), device_(device) {
    cuda::DeviceGuard const guard(device);
    int least = 0, greatest = 0;
    cuda::check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    cuda::check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest),
                "cudaStreamCreateWithPriority");
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.maxCTAs = std::max(options.max_ctas, 1);
    try {
      check(ncclCommInitRankConfig(&comm_, size, id, rank, &config), "NCCL: make a communicator");
      for (;;) {
        ncclResult_t const now = state();
        check(now, "NCCL: make a communicator");
        if (now == ncclSuccess) break;
        keep_waiting();
      }
    } catch (...) {
      if (comm_) (void)ncclCommAbort(comm_);
      (void)cudaStreamDestroy(stream_);
      throw;
    }
  }

  NcclRing(NcclRing const&) = delete;
  NcclRing& operator=(NcclRing const&) = delete;

  ~NcclRing() {
    tear_down();
    for (auto const& g : all_) {
      (void)cudaEventDestroy(g->ready);
      (void)cudaEventDestroy(g->arrived);
    }
    (void)cudaStreamDestroy(stream_);
  }

  int rank() const { return rank_; }
  int device() const { return device_; }
  bool torn() const { return comm_ == nullptr; }

  /// Carries out what is enqueued, then ends the communicator: both may wait for peers, as long as `go_on()`. False if
  /// that was not long enough, or NCCL reports an error: then it is torn down.
  template <class GoOn> bool finish(GoOn go_on) {
    if (!comm_) return true;
    auto const ends = [&](auto under_way) {
      while (under_way()) {
        if (!go_on()) return false;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      return true;
    };
    bool done = ends([&] { return cudaStreamQuery(stream_) == cudaErrorNotReady; });
    if (done) {
      ncclResult_t const asked = ncclCommFinalize(comm_);
      done = (asked == ncclSuccess || asked == ncclInProgress) && ends([&] { return state() == ncclInProgress; }) &&
             state() == ncclSuccess;
    }
    if (done) (void)ncclCommDestroy(std::exchange(comm_, nullptr));
    tear_down();
    return done;
  }

  /// Ends what is under way on the device, on this rank; every rank must do it. The buffers are free afterwards.
  void tear_down() {
    if (!comm_) return;
    (void)ncclCommAbort(std::exchange(comm_, nullptr));
    (void)cudaStreamSynchronize(stream_);
    queue_.clear();
  }

  /// A group to go behind what `stream` has so far, and behind earlier groups: `pump` enqueues it.
  Group* post(std::span<Send const> sends, std::span<Recv const> recvs, cudaStream_t stream) {
    Group* const g = take();
    g->messages.clear();
    // What is sent is only read: one type serves both lists.
    for (Send const& s : sends)
      if (!s.bytes.empty()) g->messages.push_back({s.to, const_cast<std::byte*>(s.bytes.data()), s.bytes.size(), true});
    for (Recv const& r : recvs)
      if (!r.bytes.empty()) g->messages.push_back({r.from, r.bytes.data(), r.bytes.size(), false});
    g->posted = g->launched = false;
    if (cudaError_t const e = cudaEventRecord(g->ready, stream); e != cudaSuccess) {
      free_.push_back(g);
      cuda::check(e, "post an exchange");
    }
    queue_.push_back(g);
    return g;
  }

  /// Goes on with what NCCL has in the making. Throws Error{transport}.
  void pump() {
    if (!comm_ || queue_.empty()) return;
    cuda::DeviceGuard const guard(device_);
    while (!queue_.empty()) {
      Group& g = *queue_.front();
      if (!g.posted) {
        cuda::check(cudaStreamWaitEvent(stream_, g.ready), "NCCL: wait for the backend");
        check(ncclGroupStart(), "ncclGroupStart");
        for (Message const& m : g.messages)
          note(m.is_send ? ncclSend(m.data, m.bytes, ncclInt8, m.peer, comm_, stream_)
                         : ncclRecv(m.data, m.bytes, ncclInt8, m.peer, comm_, stream_));
        note(ncclGroupEnd());
        g.posted = true;
        check(std::exchange(first_error_, ncclSuccess), "NCCL: send and receive");
      }
      ncclResult_t const now = state();
      if (now == ncclInProgress) return;
      check(now, "NCCL: send and receive");
      cuda::check(cudaEventRecord(g.arrived, stream_), "NCCL: arrival");
      g.launched = true;
      queue_.erase(queue_.begin());
    }
  }

  /// Throws Error{transport} if NCCL has noticed that something is wrong.
  void poll() {
    if (comm_) check(state(), "NCCL");
  }

  void order_behind(Group& g, cudaStream_t stream) {
    cuda::check(cudaStreamWaitEvent(stream, g.arrived), "wait for NCCL");
  }
  void give_back(Group& g) {
    std::erase(queue_, &g);
    free_.push_back(&g);
  }

 private:
  ncclResult_t state() const {
    ncclResult_t now = ncclSuccess;
    ncclResult_t const asked = ncclCommGetAsyncError(comm_, &now);
    return asked == ncclSuccess ? now : asked;
  }
  void check(ncclResult_t result, char const* what) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    char const* const more = comm_ ? ncclGetLastError(comm_) : nullptr;
    std::string text = ncclGetErrorString(result);
    if (more && *more) text += std::string(": ") + more;
    throw Error(ErrorCode::transport, rank_, what, "", text);
  }
  /// Inside a group an error must not leave it open.
  void note(ncclResult_t result) {
    if (result != ncclSuccess && result != ncclInProgress && first_error_ == ncclSuccess) first_error_ = result;
  }
  Group* take() {
    if (free_.empty()) {
      cuda::DeviceGuard const guard(device_);
      auto g = std::make_unique<Group>();
      cuda::check(cudaEventCreateWithFlags(&g->ready, cudaEventDisableTiming), "cudaEventCreateWithFlags");
      cuda::check(cudaEventCreateWithFlags(&g->arrived, cudaEventDisableTiming), "cudaEventCreateWithFlags");
      all_.push_back(std::move(g));
      free_.reserve(all_.size());
      queue_.reserve(all_.size());
      free_.push_back(all_.back().get());
    }
    Group* const g = free_.back();
    free_.pop_back();
    return g;
  }

  int rank_, device_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::vector<Group*> queue_;  // posted or to be posted, in order
  std::vector<std::unique_ptr<Group>> all_;
  std::vector<Group*> free_;
  ncclResult_t first_error_ = ncclSuccess;
};

}  // namespace detail

}  // namespace ringattn
