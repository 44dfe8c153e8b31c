// SPDX-License-Identifier: Apache-2.0
// How kernels are launched: what their host side may know of the device, and one function that checks.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <tuple>
#include <utility>

#include "cards.hpp"
#include "error.hpp"

/// Two shared libraries that embed this one must not launch each other's kernels.
#define RINGATTN_HIDDEN __attribute__((visibility("hidden")))

namespace ringattn::inline RINGATTN_ABI::cuda {

/// Where and on what kernels run.
struct Launch {
  cudaStream_t stream = nullptr;
  int device = 0;                ///< current on the calling thread while kernels are launched
  std::size_t shared_limit = 0;  ///< bytes of shared memory that a block can have when it opts in
  int multiprocessors = 1;
};

/// Throws Error{invalid_argument} unless a block can have so much shared memory: what a policy's tiles take beyond 99
/// KB some cards have and others have not.
inline void check_shared(std::size_t bytes, char const* what, Launch const& launch) {
  if (bytes <= launch.shared_limit) return;
  throw Error(ErrorCode::invalid_argument, -1, what,
              "tiles that take at most " + std::to_string(launch.shared_limit) +
                  " bytes of shared memory, which a block can have on this card",
              std::to_string(bytes) + " bytes");
}

/// Shared memory that every kernel may use without opting in.
inline constexpr std::size_t shared_without_asking = 48 * 1024;

/// Enqueues one kernel on launch.stream; throws as check() does. A grid without blocks launches nothing. `shared`:
/// dynamic bytes per block. Only grid.x may exceed 65535. Legal while the stream is captured.
template <class... Parameters, class... Arguments>
void launch(char const* what, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared,
            Launch const& launch, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "ringattn: a kernel gets all of its arguments");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  auto const* const function = reinterpret_cast<void const*>(kernel);
  if (shared > shared_without_asking)
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)), what);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = launch.stream;
  std::tuple<std::remove_cv_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {static_cast<void*>(&value)..., nullptr};
        check(cudaLaunchKernelExC(&config, function, pointers), what);
      },
      values);
}

}  // namespace ringattn::cuda
