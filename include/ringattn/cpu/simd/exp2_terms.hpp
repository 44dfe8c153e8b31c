// SPDX-License-Identifier: Apache-2.0
// 2^f on [-1/2, 1/2]: near-minimax polynomials (Remez, relative error), highest power first.
#pragma once

#include "../../config.hpp"

namespace ringattn::inline RINGATTN_ABI::simd {

/// Degree 6, relative error 2e-9 before rounding.
inline constexpr int exp2_f32_terms = 7;
inline constexpr float exp2_f32[exp2_f32_terms] = {
    1.534581216e-4f, 1.339993121e-3f, 9.618488957e-3f, 5.550328777e-2f, 2.402264689e-1f, 6.931472057e-1f, 1.0f};

/// Degree 11, relative error 3e-18 before rounding.
inline constexpr int exp2_f64_terms = 12;
inline constexpr double exp2_f64[exp2_f64_terms] = {
    4.43528094461033616e-10, 7.07410562624565937e-9, 1.01781980333285277e-7, 1.3215433089594629e-6,
    1.52527334899608046e-5,  1.5403530462514613e-4,  1.33335581467899503e-3, 9.61812910758833508e-3,
    5.55041086648199215e-2,  2.40226506959101562e-1, 6.9314718055994533e-1,  1.0};

}  // namespace ringattn::simd
