// SPDX-License-Identifier: Apache-2.0
// The backend Cuda without the kernels of any architecture: one device, one stream, its memory. Calls allocate nothing
// and never wait.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "../concepts.hpp"
#include "copy.cuh"
#include "launch.hpp"

namespace ringattn::inline RINGATTN_ABI {

inline namespace RINGATTN_CARDS {
struct sm80;  // cuda/backend.cuh
}

/// Where workspaces come from instead of the device's own pool; both or neither. Memory is used on the stream that is
/// given, from the allocation until the release, in stream order; `allocate` returns null, or throws, if there is none.
/// Both are called with the backend's device current.
struct CudaAllocator {
  std::function<void*(size_t bytes, cudaStream_t)> allocate{};
  std::function<void(void*, size_t bytes, cudaStream_t)> release{};
};

struct CudaOptions {
  /// The user's, on `device`; it must outlive the backend and its buffers. None: a stream of the backend's own.
  std::optional<cudaStream_t> stream{};
  /// -1: the calling thread's current device.
  int device = -1;
  CudaAllocator allocator{};
};

/// Gradients of the queries are summed in a fixed order: every call gives the same bits.
struct OrderedGradients {
  template <class Arch, class K> using Backward = typename Arch::template Backward<K>;
};

/// Blocks add to dQ by floating-point atomics, in whatever order they come: none waits for another, and **dQ is not
/// bitwise reproducible**, neither from run to run nor between a ring and one device. out, lse, dK and dV still are.
struct AtomicGradients {
  template <class Arch, class K> using Backward = typename Arch::template AtomicBackward<K>;
};

namespace detail {

template <class Gradients>
inline constexpr bool is_gradients =
    std::is_same_v<Gradients, OrderedGradients> || std::is_same_v<Gradients, AtomicGradients>;

template <class Arch, class Gradients, class K>
concept HasBackward = requires {
  typename Gradients::template Backward<Arch, K>;
};

}  // namespace detail

/// Computes in device memory. Every call enqueues on the stream and returns; `synchronize` waits. An error of earlier
/// work can be thrown by any call, as Error{device}. Kernels may be captured in a CUDA graph. One thread at a time may
/// use an object; several objects, on several devices or on one, are independent. The calling thread's current device
/// is left as it was. `Arch`: `number`, its compute capability times 10, and the templates Forward<K> and Backward<K>,
/// perhaps also AtomicBackward<K> (cuda/sm80 shows what they have). `Gradients`: OrderedGradients or AtomicGradients.
template <class Arch = sm80, class Gradients = OrderedGradients> class Cuda {
  static_assert(detail::is_gradients<Gradients>,
                "ringattn: Cuda<Arch, Gradients>: Gradients is OrderedGradients (the default: the same bits at every "
                "run) or AtomicGradients (nobody waits; dQ is not reproducible)");
  struct Shared;
  template <class K> struct Gradient {
    static_assert(detail::HasBackward<Arch, Gradients, K>,
                  "ringattn: Cuda<Arch, AtomicGradients>: this Arch has no AtomicBackward<K>; take Cuda<Arch>, whose "
                  "gradients are summed in order");
    using Backward = typename Gradients::template Backward<Arch, K>;
  };

 public:
  using Space = DeviceSpace;
  using Options = CudaOptions;
  static constexpr int arch = Arch::number;

  /// Memory from `allocate`, given back in stream order when it goes out of scope.
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& o) noexcept { swap(o); }
    Buffer& operator=(Buffer&& o) noexcept {
      Buffer(std::move(o)).swap(*this);
      return *this;
    }
    ~Buffer() {
      if (data_) shared_->release(data_, bytes_);
    }
    std::byte* data() const { return data_; }
    size_t size() const { return bytes_; }

   private:
    friend class Cuda;
    Buffer(std::shared_ptr<Shared> shared, size_t bytes)
        : shared_(std::move(shared)), data_(shared_->allocate(bytes)), bytes_(bytes) {}
    void swap(Buffer& o) noexcept {
      std::swap(shared_, o.shared_);
      std::swap(data_, o.data_);
      std::swap(bytes_, o.bytes_);
    }

    std::shared_ptr<Shared> shared_;
    std::byte* data_ = nullptr;
    size_t bytes_ = 0;
  };

  Cuda() : Cuda(Options{}) {}
  /// Throws Error{invalid_argument} for a device that there is not, or one that is older than Arch, and Error{device}.
  explicit Cuda(Options options) : shared_(std::make_shared<Shared>(std::move(options))) {}

  cudaStream_t stream() const { return shared_->launch.stream; }
  int device() const { return shared_->launch.device; }

  /// Aligned to 256 bytes, not initialised, usable on the stream. Throws Error{out_of_memory}.
  Buffer allocate(size_t bytes) { return Buffer(shared_, bytes > 0 ? bytes : 1); }

  /// Waits for everything on the stream. Throws what went wrong there.
  void synchronize() {
    cuda::DeviceGuard const guard(device());
    cuda::check(cudaStreamSynchronize(stream()), "synchronize");
  }
  /// Waits for at most `slice`; true once everything on the stream is done.
  bool synchronize_for(std::chrono::nanoseconds slice) {
    cuda::DeviceGuard const guard(device());
    auto const begin = std::chrono::steady_clock::now();
    for (;;) {
      cudaError_t const state = cudaStreamQuery(stream());
      if (state != cudaErrorNotReady) {
        cuda::check(state, "synchronize");
        return true;
      }
      if (std::chrono::steady_clock::now() - begin >= slice) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

  /// Between views of equal extents, any strides; rounds to the element type of `to`.
  template <class T, class U> void copy(View<T, Space> const& from, View<U, Space> const& to) {
    if (from.extents != to.extents)
      throw Error(ErrorCode::invalid_argument, -1, "copy", "views of equal extents",
                  to_string(from.extents) + " and " + to_string(to.extents));
    cuda::DeviceGuard const guard(device());
    cuda::copy<std::remove_const_t<T>, U>(from, to, shared_->launch);
  }

  /// Workspace of a forward pass: the running state of every query row.
  template <class K> static constexpr size_t attend_bytes(AttendShape const& shape) {
    return Arch::template Forward<K>::bytes(shape);
  }
  /// The tiles that this card's shared memory leaves, which ranks compare: what they do in which order follows from
  /// them. Throws Error{invalid_argument} if a policy's tiles do not fit on this card.
  template <class K>
  requires requires(cuda::Launch const& l) { Arch::template Forward<K>::tile(l); }
  Tile attend_tile() const { return Arch::template Forward<K>::tile(shared_->launch); }
  template <class K>
  requires requires(cuda::Launch const& l) { Arch::template Backward<K>::tile(l); }
  Tile attend_backward_tile() const { return Arch::template Backward<K>::tile(shared_->launch); }

  /// Workspace of a backward pass.
  template <class K> static constexpr size_t attend_backward_bytes(AttendShape const& shape) {
    return Gradient<K>::Backward::bytes(shape);
  }

  template <class K> void begin(AttendStep<K, Space> const& step) {
    cuda::DeviceGuard const guard(device());
    Arch::template Forward<K>::begin(step, shared_->launch);
  }
  template <class K> void step(AttendStep<K, Space> const& step) {
    if (count_rows(step.k_rows) == 0) return;
    cuda::DeviceGuard const guard(device());
    Arch::template Forward<K>::step(step, shared_->launch);
  }
  /// A step that begins and ends the call itself, if it is the first, the last, or both.
  template <class K>
  requires requires(AttendStep<K, Space> const& s, Part<K, Space> const& p, cuda::Launch const& l) {
    Arch::template Forward<K>::step(s, p, l);
  }
  void step(AttendStep<K, Space> const& step, Part<K, Space> const& part) {
    cuda::DeviceGuard const guard(device());
    Arch::template Forward<K>::step(step, part, shared_->launch);
  }
  template <class K> void finish(AttendStep<K, Space> const& step, AttendResult<K, Space> const& result) {
    cuda::DeviceGuard const guard(device());
    Arch::template Forward<K>::finish(step, result, shared_->launch);
  }

  template <class K> void begin_backward(BackwardStep<K, Space> const& step) {
    cuda::DeviceGuard const guard(device());
    Gradient<K>::Backward::begin(step, shared_->launch);
  }
  template <class K> void step_backward(BackwardStep<K, Space> const& step) {
    if (count_rows(step.k_rows) == 0) return;
    cuda::DeviceGuard const guard(device());
    Gradient<K>::Backward::step(step, shared_->launch);
  }
  template <class K>
  void finish_backward(BackwardStep<K, Space> const& step, View<typename K::Element, Space> const& dq) {
    cuda::DeviceGuard const guard(device());
    Gradient<K>::Backward::finish(step, dq, shared_->launch);
  }
  /// sum = W(mine + arriving), or W(mine) if nothing arrives.
  template <class A, class W> void accumulate(A const* mine, W const* arriving, W* sum, int64_t n) {
    cuda::DeviceGuard const guard(device());
    cuda::accumulate(mine, arriving, sum, n, shared_->launch);
  }

 private:
  /// What a backend and its buffers share: the stream lives as long as either.
  struct Shared {
    cuda::Launch launch;
    CudaAllocator allocator;
    bool own_stream = false;

    explicit Shared(Options&& options) : allocator(std::move(options.allocator)) {
      int devices = 0;
      cuda::check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
      launch.device = options.device;
      if (launch.device == -1) cuda::check(cudaGetDevice(&launch.device), "cudaGetDevice");
      if (launch.device < 0 || launch.device >= devices)
        throw Error(ErrorCode::invalid_argument, -1, "device", "0 .. " + std::to_string(devices - 1),
                    std::to_string(launch.device));
      if (!allocator.allocate != !allocator.release)
        throw Error(ErrorCode::invalid_argument, -1, "allocator", "both allocate and release, or neither", "one");
      int const capability =
          10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
      if (capability < arch)
        throw Error(ErrorCode::invalid_argument, -1, "device",
                    "compute capability " + std::to_string(arch) + " or more", std::to_string(capability));
      launch.shared_limit = size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
      launch.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
      own_stream = !options.stream;
      if (options.stream) launch.stream = *options.stream;
      cuda::DeviceGuard const guard(launch.device);
      if (own_stream)
        cuda::check(cudaStreamCreateWithFlags(&launch.stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    }
    Shared(Shared const&) = delete;
    ~Shared() {
      if (own_stream) (void)cudaStreamDestroy(launch.stream);  // what is enqueued still runs
    }

    int attribute(cudaDeviceAttr which) const {
      int value = 0;
      cuda::check(cudaDeviceGetAttribute(&value, which, launch.device), "cudaDeviceGetAttribute");
      return value;
    }
    std::byte* allocate(size_t bytes) {
      cuda::DeviceGuard const guard(launch.device);
      void* data = nullptr;
      if (allocator.allocate) {
        data = allocator.allocate(bytes, launch.stream);
        if (!data) throw Error(ErrorCode::out_of_memory, -1, "allocate", std::to_string(bytes) + " bytes", "none");
        if (reinterpret_cast<std::uintptr_t>(data) % 256 != 0) {
          allocator.release(data, bytes, launch.stream);
          throw Error(ErrorCode::invalid_argument, -1, "allocator", "memory aligned to 256 bytes", "less");
        }
      } else {
        cuda::check(cudaMallocAsync(&data, bytes, launch.stream), "cudaMallocAsync");
      }
      return static_cast<std::byte*>(data);
    }
    void release(std::byte* data, size_t bytes) noexcept {
      cuda::DeviceGuard const guard(launch.device, std::nothrow);  // the null stream is the current device's
      if (allocator.release) return allocator.release(data, bytes, launch.stream);
      (void)cudaFreeAsync(data, launch.stream);  // an error here is an earlier one, which others see as well
    }
  };

  std::shared_ptr<Shared> shared_;
};

}  // namespace ringattn
