// SPDX-License-Identifier: Apache-2.0
// Compiled for two architectures: what launches this file's kernels, and the kernels.
#include <ringattn/cuda/backend.cuh>
#include <ringattn/policy.hpp>

#include "use.hpp"

using namespace ringattn;

using K = Kernel<Bf16, Causal, Plain, DefaultTiles, 64, 64>;

Used RINGATTN_USE() {
  auto const step = &Cuda<>::step_backward<K>;
  Used used{};
  static_assert(sizeof step <= sizeof used.member);
  std::memcpy(used.member, &step, sizeof step);
  used.function = reinterpret_cast<void const*>(&cuda::sm80::Backward<K>::step);
  used.kernel = reinterpret_cast<void const*>(&cuda::sm80::write_dq<K, 80>);
  return used;
}
