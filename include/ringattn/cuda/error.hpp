// SPDX-License-Identifier: Apache-2.0
// Errors of the CUDA runtime as ringattn::Error; the one header that cuda/ and the CUDA transports of comm/ share.
#pragma once

#include <cuda_runtime_api.h>

#include <new>

#include "../error.hpp"

namespace ringattn::inline RINGATTN_ABI::cuda {

/// Throws unless `result` is success: Error{out_of_memory} where memory ran out, otherwise Error{device}. `what` names
/// the operation. An error of an earlier kernel can surface at any later call; then `what` is where it was seen.
inline void check(cudaError_t result, char const* what) {
  if (result == cudaSuccess) return;
  (void)cudaGetLastError();  // what is reported here must not be reported once more by somebody else's next check
  bool const memory = result == cudaErrorMemoryAllocation;
  throw Error(memory ? ErrorCode::out_of_memory : ErrorCode::device, -1, what, "",
              std::string(cudaGetErrorName(result)) + ": " + cudaGetErrorString(result));
}

/// The calling thread's current device is `device` as long as this lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = before_ != device;
  }
  /// Where nothing may be thrown: a device that cannot be had leaves the current one, and other calls see the error.
  DeviceGuard(int device, std::nothrow_t) noexcept {
    changed_ = cudaGetDevice(&before_) == cudaSuccess && before_ != device && cudaSetDevice(device) == cudaSuccess;
  }
  ~DeviceGuard() {
    if (changed_) (void)cudaSetDevice(before_);
  }
  DeviceGuard(DeviceGuard const&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace ringattn::cuda
