// SPDX-License-Identifier: Apache-2.0
// Precisions: what is stored, what is summed in, what travels.
#pragma once

#include "../concepts.hpp"

namespace ringattn::inline RINGATTN_ABI {

struct Fp64 {
  using Element = double;
  using Accumulator = double;
  using Wire = double;
  static constexpr std::uint64_t fingerprint = fingerprint_of("fp64");
};

struct Fp32 {
  using Element = float;
  using Accumulator = float;
  using Wire = float;
  static constexpr std::uint64_t fingerprint = fingerprint_of("fp32");
};

/// fp32 in memory, multiplied on tensor cores as tf32 (11 significant bits), where a backend has them.
struct Tf32 {
  using Element = float;
  using Accumulator = float;
  using Wire = float;
  static constexpr std::uint64_t fingerprint = fingerprint_of("tf32");
};

struct Bf16 {
  using Element = BFloat16;
  using Accumulator = float;
  using Wire = float;
  static constexpr std::uint64_t fingerprint = fingerprint_of("bf16");
};

struct Fp16 {
  using Element = Float16;
  using Accumulator = float;
  using Wire = float;
  static constexpr std::uint64_t fingerprint = fingerprint_of("fp16");
};

static_assert(PrecisionPolicy<Fp64> && PrecisionPolicy<Fp32> && PrecisionPolicy<Tf32> && PrecisionPolicy<Bf16> &&
              PrecisionPolicy<Fp16>);

}  // namespace ringattn
