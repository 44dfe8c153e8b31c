// SPDX-License-Identifier: Apache-2.0
// Two bfloat16 that lie side by side: the operand of dot-product instructions.
#pragma once

#include <cstdint>

#include "../../float16.hpp"

namespace ringattn::inline RINGATTN_ABI::simd {

struct BFloat16Pair {
  std::uint32_t bits;  ///< the first in the low half

  RINGATTN_INLINE static BFloat16Pair of(BFloat16 first, BFloat16 second) {
    return {std::uint32_t(first.bits) | std::uint32_t(second.bits) << 16};
  }
  RINGATTN_INLINE float first() const { return __builtin_bit_cast(float, bits << 16); }
  RINGATTN_INLINE float second() const { return __builtin_bit_cast(float, bits & 0xffff0000u); }
};

}  // namespace ringattn::simd
