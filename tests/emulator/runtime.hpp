// SPDX-License-Identifier: Apache-2.0
// What the files of the runtime's API share: locking, error codes, streams by handle.
#pragma once
#include <cuda_runtime_api.h>

#include <mutex>

#include "device.hpp"
#include "fatbin.hpp"

namespace emulator {

struct ThreadState {  // of a host thread
  int device = 0;
  cudaError_t last = cudaSuccess;
  Stream* own_stream = nullptr;  // cudaStreamPerThread
};
inline thread_local ThreadState this_thread;

cudaError_t sticky_error();              // after a fault every call fails, as with a real context
Stream* stream_of(cudaStream_t handle);  // throws cudaError_t
void wait_for(Stream* stream);
void wait_for_device(int device);
void refuse_capture(Stream* stream);  // throws when the stream is being captured

inline cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) this_thread.last = error;
  return error;
}

/// The frame of every call: lock, earlier faults, errors thrown.
template <class F> cudaError_t api(F&& body) {
  Runtime& runtime = Runtime::get();
  std::lock_guard guard(runtime.lock);
  struct Inside {
    explicit Inside(Runtime& r) : runtime(r) { ++r.callers; }
    ~Inside() {
      --runtime.callers;
      runtime.last_call = now_ms();
    }
    Runtime& runtime;
  } const inside(runtime);
  if (!runtime.fault_kind.empty()) return remember(sticky_error());
  try {
    return remember(body(runtime));
  } catch (cudaError_t error) {
    return remember(error);
  } catch (Fault const& fault) {
    runtime.fail(fault, "");
    return remember(sticky_error());
  }
}

}  // namespace emulator
