// SPDX-License-Identifier: Apache-2.0
// The backend Cuda with the kernels of every architecture; adding one adds a folder and a tag here.
#pragma once

#include "device.cuh"
#include "sm80/attention.cuh"
#include "sm80/attention_backward.cuh"

namespace ringattn::inline RINGATTN_ABI {

inline namespace RINGATTN_CARDS {

/// Devices of compute capability 8.0 and up: mma.sync, cp.async, ldmatrix.
struct sm80 {
  static constexpr int number = 80;
  template <class K> using Forward = cuda::sm80::Forward<K>;
  template <class K> using Backward = cuda::sm80::Backward<K>;
  template <class K> using AtomicBackward = cuda::sm80::Backward<K, cuda::sm80::Adding::atomic>;
};

}  // namespace RINGATTN_CARDS

static_assert(DeviceBackend<Cuda<sm80>> && DeviceBackend<Cuda<sm80, AtomicGradients>>);

}  // namespace ringattn
