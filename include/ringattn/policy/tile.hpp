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

/// CPUs (arch 0): blocks that keep one panel of queries and one of scores in the first-level cache; with matrix
/// registers twice the keys, since sums are read and written once for each block. GPUs: the first of budget::candidates
/// that fits in registers and shared memory.
struct DefaultTiles {
  constexpr Tile operator()(int arch, int head_dim, int value_dim, int element_bytes) const {
    if (arch >= 80) return budget::tensor_core_tile(arch, head_dim, value_dim, element_bytes);
    return element_bytes > 4 ? Tile{.q = 48, .kv = 64} : Tile{.q = 48, .kv = 128};
  }
  template <class Precision>
  constexpr Tile operator()(int arch, int head_dim, int value_dim, int element_bytes,
                            std::type_identity<Precision>) const {
    if (RINGATTN_AMX && arch == 0 && std::is_same_v<typename Precision::Element, BFloat16>) return {.q = 32, .kv = 256};
    return (*this)(arch, head_dim, value_dim, element_bytes);
  }
};

static_assert(TilePolicy<DefaultTiles> && TilePolicy<FixedTiles<16, 16>>);

}  // namespace ringattn
