// SPDX-License-Identifier: Apache-2.0
// The grid of block sizes: every candidate is a kernel of its own, compiled in tune_case.cpp.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "measure.hpp"

namespace bench {

/// A pipeline with one Tile and a problem's tensors, ready to be timed.
struct Candidate {
  Tile tile;
  std::function<void(bool backward)> call;
};

/// What was compiled for one precision and head_dim.
struct TuneEntry {
  std::string precision;
  int head_dim, element_bytes;
  Unit unit;
  /// The first candidate is DefaultTiles.
  std::function<std::vector<Candidate>(bool causal, Problem, int threads)> candidates;
};

inline std::vector<TuneEntry>& tune_entries() {
  static std::vector<TuneEntry> entries;
  return entries;
}

}  // namespace bench
