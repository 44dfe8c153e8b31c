// SPDX-License-Identifier: Apache-2.0
// Puts device memory between the transports' conformance suite, which has bytes on the host, and a transport of
// devices.
#pragma once

#include <ringattn/cuda/error.hpp>

#include <memory>
#include <utility>
#include <vector>

#include "../comm/conformance.hpp"

namespace ringattn::test {

/// The least that a transport of devices needs of a backend: a stream on a device.
class StreamBackend {
 public:
  using Space = DeviceSpace;

  explicit StreamBackend(int device) : device_(device) {
    cuda::DeviceGuard const guard(device);
    cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  }
  StreamBackend(StreamBackend const&) = delete;
  ~StreamBackend() { (void)cudaStreamDestroy(stream_); }
  cudaStream_t stream() const { return stream_; }
  int device() const { return device_; }
  bool done() const {
    cudaError_t const state = cudaStreamQuery(stream_);
    if (state != cudaErrorNotReady) cuda::check(state, "query");
    return state == cudaSuccess;
  }
  void synchronize() const { cuda::check(cudaStreamSynchronize(stream_), "synchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
  int device_;
};

/// Memory in stream order.
class DeviceBytes {
 public:
  DeviceBytes(StreamBackend& backend, size_t size) : backend_(&backend), size_(size) {
    cuda::DeviceGuard const guard(backend.device());
    void* data = nullptr;
    cuda::check(cudaMallocAsync(&data, size + 1, backend.stream()), "allocate");
    data_ = static_cast<std::byte*>(data);
  }
  DeviceBytes(DeviceBytes&& o) noexcept
      : backend_(o.backend_), size_(o.size_), data_(std::exchange(o.data_, nullptr)) {}
  ~DeviceBytes() {
    if (data_) (void)cudaFreeAsync(data_, backend_->stream());
  }
  std::span<std::byte> span() const { return {data_, size_}; }
  void put(std::span<std::byte const> from) const {
    cuda::check(cudaMemcpyAsync(data_, from.data(), size_, cudaMemcpyHostToDevice, backend_->stream()), "to device");
  }
  void get(std::span<std::byte> to) const {
    cuda::check(cudaMemcpyAsync(to.data(), data_, size_, cudaMemcpyDeviceToHost, backend_->stream()), "to host");
    backend_->synchronize();
  }

 private:
  StreamBackend* backend_;
  size_t size_;
  std::byte* data_ = nullptr;
};

/// A communicator of host memory made of one of devices: what is sent is copied to the device before, what is received
/// from it after.
template <class C> class OnDevice {
  using Inner = decltype(std::declval<C&>().exchange(std::declval<StreamBackend&>(), {}, {}));

 public:
  class Transfer {
   public:
    Transfer() = default;
    Transfer(Transfer&&) = default;
    Transfer& operator=(Transfer&& o) {
      if (this == &o) return *this;
      inner_ = std::move(o.inner_);  // what is under way ends before its memory is given back
      backend_ = std::move(o.backend_);
      comm_ = o.comm_;
      ordered_ = o.ordered_;
      out_ = std::move(o.out_);
      in_ = std::move(o.in_);
      to_ = std::move(o.to_);
      return *this;
    }
    ~Transfer() { inner_ = Inner(); }

    bool wait_for(HostControl& host, std::chrono::nanoseconds slice) {
      if (!backend_) return inner_.wait_for(host, slice);  // host memory, or complete
      auto const end = std::chrono::steady_clock::now() + slice;
      if (!ordered_ && !inner_.wait_for(*backend_, slice)) return false;
      ordered_ = true;
      while (!backend_->done()) {
        if (std::chrono::steady_clock::now() >= end || comm_->aborted()) return false;
        std::this_thread::yield();
      }
      if (comm_->aborted()) return false;  // then the stream goes on without the bytes
      for (size_t i = 0; i < in_.size(); ++i) in_[i].get(to_[i]);
      out_.clear();
      in_.clear();
      to_.clear();
      backend_.reset();
      return true;
    }

   private:
    friend class OnDevice;
    C* comm_ = nullptr;
    bool ordered_ = false;
    std::shared_ptr<StreamBackend> backend_;
    std::vector<DeviceBytes> out_, in_;
    std::vector<std::span<std::byte>> to_;
    Inner inner_;  // last: destroyed first
  };

  OnDevice(C& comm, int device) : comm_(comm), backend_(std::make_shared<StreamBackend>(device)) {}

  int rank() const { return comm_.rank(); }
  int size() const { return comm_.size(); }

  Transfer exchange(HostControl&, std::span<Send const> sends, std::span<Recv const> recvs) {
    Transfer t;
    t.comm_ = &comm_;
    t.backend_ = backend_;
    std::vector<Send> device_sends;
    std::vector<Recv> device_recvs;
    for (Send const& s : sends) {
      t.out_.emplace_back(*backend_, s.bytes.size());
      t.out_.back().put(s.bytes);
      device_sends.push_back({s.to, t.out_.back().span()});
    }
    for (Recv const& r : recvs) {
      t.in_.emplace_back(*backend_, r.bytes.size());
      t.to_.push_back(r.bytes);
      device_recvs.push_back({r.from, t.in_.back().span()});
    }
    t.inner_ = comm_.exchange(*backend_, device_sends, device_recvs);
    return t;
  }
  Transfer all_gather(std::span<std::byte const> mine, std::span<std::byte> all) {
    Transfer t;
    t.inner_ = comm_.all_gather(mine, all);
    return t;
  }
  void progress() { comm_.progress(); }
  void abort(std::string reason) { comm_.abort(std::move(reason)); }
  std::optional<std::string> aborted() const { return comm_.aborted(); }
  std::chrono::nanoseconds deadline() const { return comm_.deadline(); }
  int64_t messages() const { return comm_.messages(); }
  int64_t bytes() const { return comm_.bytes(); }
  int64_t control_messages() const { return comm_.control_messages(); }

 private:
  C& comm_;
  std::shared_ptr<StreamBackend> backend_;
};

}  // namespace ringattn::test
