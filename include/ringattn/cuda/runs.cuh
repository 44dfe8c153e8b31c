// SPDX-License-Identifier: Apache-2.0
// How runs of rows reach a kernel: cut into tiles that start at each run's start and never cross it.
#pragma once

#include <algorithm>
#include <span>

#include "../rows.hpp"
#include "launch.hpp"
#include "ptx.cuh"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS {

/// One tile of rows: their global positions (rows.count of them, at most the tile size), the local row of the first,
/// and how many rows of its run come before and after it.
struct RowTile {
  Rows rows;
  int64_t local, before, after;
};

/// The runs of one rank, cut into tiles; passed to kernels by value. Declare the parameter
/// `__grid_constant__ RunTable const`, or the compiler copies it to local memory when it is indexed.
///
/// Up to `capacity` runs are carried in the parameters themselves. More lie in device memory that the caller provides
/// (`bytes`), where `write` puts them by kernels that carry them in their parameters: no host memory is read after the
/// call, so that a captured graph can be replayed.
class RunTable {
 public:
  static constexpr int capacity = 16;

  struct Run {
    Rows rows;
    int64_t local;  ///< first local row
    int64_t tile;   ///< index of the first tile
  };

  /// Device memory for so many runs, a multiple of 256.
  static constexpr size_t bytes(int64_t runs) {
    return runs <= capacity ? 0 : (size_t(runs) * sizeof(Run) + 255) / 256 * 256;
  }

  RunTable() = default;
  /// `space`: bytes(runs.size()) of device memory, 16-byte aligned; not touched here. Empty runs are left out.
  RunTable(std::span<Rows const> runs, int tile, std::byte* space) : tile_(tile) {
    for_each(runs, tile, [&](Run const& run) {
      if (count_ < capacity) run_[count_] = run;
      ++count_;
      tiles_ = run.tile + (run.rows.count + tile - 1) / tile;
      rows_ = run.local + run.rows.count;
    });
    if (count_ > capacity) more_ = reinterpret_cast<Run*>(space);
  }
  /// Puts runs that do not fit in the parameters where kernels find them, in stream order. No launch if all fit.
  void write(std::span<Rows const> runs, Launch const& launch) const;

  RINGATTN_HD int64_t tiles() const { return tiles_; }
  RINGATTN_HD int64_t rows() const { return rows_; }  ///< of all runs together
  RINGATTN_HD int tile_size() const { return tile_; }

  /// Tile i, 0 <= i < tiles(). Tiles are numbered in local order. On the device only, unless all runs fit.
  RINGATTN_HD RowTile tile(int64_t i) const {
    Run const* const runs = more_ ? more_ : run_;
    int low = 0, high = count_ - 1;  // the last run whose first tile is <= i
    while (low < high) {
      int const middle = (low + high + 1) / 2;
      if (runs[middle].tile <= i)
        low = middle;
      else
        high = middle - 1;
    }
    Run const& run = runs[low];
    int64_t const begin = (i - run.tile) * tile_, left = run.rows.count - begin, count = left < tile_ ? left : tile_;
    return {run.rows.slice(begin, count), run.local + begin, begin, left - count};
  }
  /// Tile i from its neighbour, i - 1 or i + 1: no search within a run.
  RINGATTN_HD RowTile next(RowTile const& t, int64_t i) const {
    if (t.after == 0) return tile(i);
    int64_t const count = t.after < tile_ ? t.after : tile_;
    return {{t.rows.at(tile_), t.rows.stride, count}, t.local + tile_, t.before + tile_, t.after - count};
  }
  RINGATTN_HD RowTile previous(RowTile const& t, int64_t i) const {
    if (t.before == 0) return tile(i);
    return {{t.rows.at(-tile_), t.rows.stride, tile_}, t.local - tile_, t.before - tile_, t.after + t.rows.count};
  }

 private:
  template <class F> static void for_each(std::span<Rows const> runs, int tile, F&& f) {
    Run run{{}, 0, 0};
    for (Rows const& rows : runs) {
      if (rows.count == 0) continue;
      run.rows = rows;
      f(run);
      run.local += rows.count;
      run.tile += (rows.count + tile - 1) / tile;
    }
  }

  Run* more_ = nullptr;
  int64_t tiles_ = 0, rows_ = 0;
  int count_ = 0, tile_ = 1;
  Run run_[capacity] = {};
};

/// The first of `count` numbers i = begin, begin + by, ... for which f holds, or -1: 32 at a time. All lanes of a warp
/// ask together.
template <int by, class F> __device__ inline int64_t first_of(int64_t begin, int64_t count, F f) {
  for (int64_t n = 0; n < count; n += 32) {
    int64_t const mine = n + ptx::lane();
    if (unsigned const found = __ballot_sync(~0u, mine < count && f(begin + by * mine)))
      return begin + by * (n + __ffs(int(found)) - 1);
  }
  return -1;
}

namespace detail {

/// What one launch of write_runs carries.
struct RunChunk {
  static constexpr int capacity = 64;
  RunTable::Run run[capacity];
};

template <class Chunk>
RINGATTN_HIDDEN __global__ void write_runs(__grid_constant__ Chunk const chunk, RunTable::Run* to, int count) {
  if (int const i = int(threadIdx.x); i < count) to[i] = chunk.run[i];
}

}  // namespace detail

inline void RunTable::write(std::span<Rows const> runs, Launch const& where) const {
  if (!more_) return;
  detail::RunChunk chunk;
  int filled = 0;
  int64_t written = 0;
  auto const flush = [&] {
    if (filled == 0) return;
    launch("write runs", detail::write_runs<detail::RunChunk>, 1, detail::RunChunk::capacity, 0, where, chunk,
           more_ + written, filled);
    written += filled;
    filled = 0;
  };
  for_each(runs, tile_, [&](Run const& run) {
    chunk.run[filled++] = run;
    if (filled == detail::RunChunk::capacity) flush();
  });
  flush();
}

}  // namespace ringattn::cuda
