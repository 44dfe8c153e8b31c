// SPDX-License-Identifier: Apache-2.0
// Block sizes of the kernels.
#pragma once

#include "budget.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// One block size for every architecture and dimension.
template <int q_, int kv_> struct FixedTiles {
  static_assert(q_ > 0 && kv_ > 0, "ringattn: FixedTiles<q, kv> needs positive block sizes");
  constexpr Tile operator()(int /*arch*/, int /*head_dim*/, int /*value_dim*/, int /*element_bytes*/) const {
    return {.q = q_, .kv = kv_};
  }
};

/// CPUs (arch 0): blocks that keep one panel of queries and one of scores in the first-level cache. GPUs: the first of
/// budget::candidates that fits in registers and shared memory.
struct DefaultTiles {
  constexpr Tile operator()(int arch, int head_dim, int value_dim, int element_bytes) const {
    if (arch >= 80) return budget::tensor_core_tile(arch, head_dim, value_dim, element_bytes);
    if (RINGATTN_AMX && element_bytes == 2) return {.q = 96, .kv = 128};
    return element_bytes > 4 ? Tile{.q = 48, .kv = 64} : Tile{.q = 48, .kv = 128};
  }
};

static_assert(TilePolicy<DefaultTiles> && TilePolicy<FixedTiles<16, 16>>);

}  // namespace ringattn
