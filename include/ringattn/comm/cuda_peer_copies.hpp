// SPDX-License-Identifier: Apache-2.0
// Copies between devices of one process: each is carried by a stream and an event of its own, taken from a pool.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "../cuda/error.hpp"
#include "in_process_ring.hpp"

namespace ringattn::inline RINGATTN_ABI::detail {

/// The stream of one copy under way. A stream of its own: no copy waits behind one whose data is not ready yet.
struct Courier {
  int device = 0;
  cudaStream_t stream = nullptr;
  cudaEvent_t arrived = nullptr;
  std::atomic<int> users{0};  ///< ranks that still have to wait for `arrived`
};

/// Idle couriers, by device. Streams and events are made when there are too few, and used again.
class Couriers {
 public:
  Couriers() = default;
  Couriers(Couriers const&) = delete;
  ~Couriers() {
    for (auto const& c : all_) {
      (void)cudaEventDestroy(c->arrived);
      (void)cudaStreamDestroy(c->stream);
    }
  }

  Courier& take(int device) {
    {
      std::lock_guard lock(mutex_);
      for (size_t i = idle_.size(); i-- > 0;)
        if (idle_[i]->device == device) {
          Courier* const c = idle_[i];
          idle_.erase(idle_.begin() + std::ptrdiff_t(i));
          return *c;
        }
    }
    auto made = make(device);
    std::lock_guard lock(mutex_);
    all_.push_back(std::move(made));
    idle_.reserve(all_.size());
    return *all_.back();
  }

  /// One of the courier's users needs it no more.
  void release(Courier& c) {
    if (c.users.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    std::lock_guard lock(mutex_);
    idle_.push_back(&c);
  }

  /// Lets the copy engines of two devices reach each other's memory where they can; elsewhere the runtime stages.
  void connect(int a, int b) {
    std::lock_guard lock(mutex_);
    if (a == b || !connected_.insert(std::minmax(a, b)).second) return;
    enable(a, b);
    enable(b, a);
  }

 private:
  static std::unique_ptr<Courier> make(int device) {
    cuda::DeviceGuard const guard(device);
    auto c = std::make_unique<Courier>();
    c->device = device;
    int least = 0, greatest = 0;
    cuda::check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    cuda::check(cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, greatest),
                "cudaStreamCreateWithPriority");
    cuda::check(cudaEventCreateWithFlags(&c->arrived, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    return c;
  }

  /// Best effort: without access copies are slower, not wrong.
  static void enable(int device, int peer) {
    int possible = 0;
    if (cudaDeviceCanAccessPeer(&possible, device, peer) != cudaSuccess || !possible) return;
    cuda::DeviceGuard const guard(device);
    if (cudaDeviceEnablePeerAccess(peer, 0) != cudaSuccess) (void)cudaGetLastError();
    cudaMemPool_t pool = nullptr;  // of stream-ordered memory, which has access rights of its own
    cudaMemAccessDesc access{};
    access.location.type = cudaMemLocationTypeDevice;
    access.location.id = device;
    access.flags = cudaMemAccessFlagsProtReadWrite;
    if (cudaDeviceGetDefaultMemPool(&pool, peer) != cudaSuccess ||
        cudaMemPoolSetAccess(pool, &access, 1) != cudaSuccess)
      (void)cudaGetLastError();
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Courier>> all_;
  std::vector<Courier*> idle_;
  std::set<std::pair<int, int>> connected_;
};

/// The device side of one exchange of one rank.
struct DeviceExchange {
  /// Of one message.
  struct Place {
    DeviceExchange* exchange = nullptr;
    Courier* courier = nullptr;  ///< once the copy is enqueued
  };

  Couriers* couriers = nullptr;
  int device = 0;
  cudaStream_t stream = nullptr;  ///< of the backend that posted it
  cudaEvent_t ready = nullptr;    ///< what is sent has been computed, what is received into is free
  std::vector<Place> places;

  DeviceExchange(Couriers& pool, int on) : couriers(&pool), device(on) {
    cuda::DeviceGuard const guard(device);
    cuda::check(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  DeviceExchange(DeviceExchange const&) = delete;
  ~DeviceExchange() { (void)cudaEventDestroy(ready); }

  /// The mover of the ring: enqueues the copy of a matched message behind both sides' `ready`, on the sender's device.
  static void move(InProcessRing::Post& send, InProcessRing::Post& receive) {
    auto *const from = static_cast<Place*>(send.place), *const to = static_cast<Place*>(receive.place);
    if (!from || !to)
      throw Error(ErrorCode::transport, send.record->rank, "message", "device memory on both sides",
                  "host memory on one");
    DeviceExchange &sender = *from->exchange, &receiver = *to->exchange;
    cuda::DeviceGuard const guard(sender.device);
    sender.couriers->connect(sender.device, receiver.device);
    Courier& c = sender.couriers->take(sender.device);
    c.users.store(2, std::memory_order_relaxed);
    from->courier = to->courier = &c;  // from here on the two transfers give it back
    cuda::check(cudaStreamWaitEvent(c.stream, sender.ready), "copy to a peer: sender");
    cuda::check(cudaStreamWaitEvent(c.stream, receiver.ready), "copy to a peer: receiver");
    if (sender.device == receiver.device)
      cuda::check(cudaMemcpyAsync(receive.to, send.from, send.bytes, cudaMemcpyDeviceToDevice, c.stream),
                  "copy to a peer");
    else
      cuda::check(cudaMemcpyPeerAsync(receive.to, receiver.device, send.from, sender.device, send.bytes, c.stream),
                  "copy to a peer");
    cuda::check(cudaEventRecord(c.arrived, c.stream), "copy to a peer: event");
  }

  /// Orders later work of `stream` behind the copies.
  void wait(cudaStream_t stream) {
    for (Place& place : places)
      if (place.courier) cuda::check(cudaStreamWaitEvent(stream, place.courier->arrived), "wait for a peer's copy");
  }
  /// Waits until `end` for copies that were enqueued. True: none touches a buffer any more. False: one waits for a
  /// device that hangs; then later work of `stream` is ordered behind it, and with it what memory is given back there.
  bool drain(std::chrono::steady_clock::time_point end) {
    bool all = true;
    for (Place& place : places) {
      if (!place.courier) continue;
      cudaError_t state;
      while ((state = cudaStreamQuery(place.courier->stream)) == cudaErrorNotReady &&
             std::chrono::steady_clock::now() < end)
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      if (state != cudaErrorNotReady) continue;
      cuda::DeviceGuard const guard(device, std::nothrow);
      (void)cudaStreamWaitEvent(stream, place.courier->arrived);
      all = false;
    }
    return all;
  }
  void release() {
    for (Place& place : places)
      if (place.courier) couriers->release(*std::exchange(place.courier, nullptr));
  }
};

}  // namespace ringattn::detail
