// SPDX-License-Identifier: Apache-2.0
// One measurement of attention; compiled once per precision, in attention_case.cpp.
#pragma once

#include "json.hpp"
#include "shapes.hpp"

namespace bench {

struct Settings {
  bool backward = false;
  int threads = 1;
  int repetitions = 9;
  int64_t rows = 32;  ///< checked against fp64; 0: none
};

/// Medians and spread of one shape, or null if this precision does not know the shape's mask or head_dim.
template <class Precision> Json run_shape(Shape const& shape, Settings const& settings);

}  // namespace bench
