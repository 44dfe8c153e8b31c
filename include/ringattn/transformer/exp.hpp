// SPDX-License-Identifier: Apache-2.0
// e^x for loops over many numbers.
#pragma once

#include "../cpu/exp2.hpp"
#include "../softmax.hpp"

namespace ringattn::inline RINGATTN_ABI::detail {

/// Vectorises. Relative error below |x| units of roundoff: far out it is larger than exp2's, where e^x is 0 or inf
/// soon.
template <class T> RINGATTN_INLINE T vector_exp(T x) { return cpu::exp2(x * T(softmax::log2_e)); }

}  // namespace ringattn::detail
