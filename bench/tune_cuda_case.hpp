// SPDX-License-Identifier: Apache-2.0
// The grids of tiles on a GPU: every candidate is a kernel of its own, compiled in tune_cuda_case.cu.
#pragma once

#include <ringattn/cuda/backward_tiles.hpp>
#include <ringattn/policy/tile.hpp>

#include <functional>
#include <string>
#include <vector>

namespace bench {

using namespace ringattn;

/// What is timed: a problem on a card.
struct CudaShape {
  Problem problem;
  bool causal, backward;
  int device;
};

/// A kernel with one tile. `milliseconds(repeat)`: of one call, the mean of `repeat` after one that does not count.
struct CudaCandidate {
  Tile tile;
  int shared_bytes;
  std::function<double(int repeat)> milliseconds;
};

/// What was compiled for one precision and head_dim.
struct CudaTuneEntry {
  std::string precision;
  int head_dim, element_bytes;
  /// The first candidate is DefaultTiles. Tiles that need more shared memory than the card has are not among them.
  std::function<std::vector<CudaCandidate>(CudaShape const&)> candidates;
};

inline std::vector<CudaTuneEntry>& cuda_tune_entries() {
  static std::vector<CudaTuneEntry> entries;
  return entries;
}

}  // namespace bench
