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

namespace budget {

/// CPUs: as many keys, a power of two, as leave a quarter of the first-level cache beside their scores, for all else
/// streams through it whatever the head_dim is. Query rows are the lanes of vector registers, three of 16 floats, or of
/// two matrix registers; CPUs that have these have a larger cache.
constexpr Tile cpu_tile(int accumulator_bytes, bool matrix_registers) {
  int const q = matrix_registers ? 2 * 16 : 3 * 16, cache = (matrix_registers ? 48 : 32) * 1024;
  int kv = 16;
  while (2 * kv * q * accumulator_bytes <= cache / 4 * 3) kv *= 2;
  return {.q = q, .kv = kv};
}

// What `bench/tune` found to be within 2 % of the best on the whole.
static_assert(cpu_tile(4, false) == Tile{.q = 48, .kv = 128} && cpu_tile(8, false) == Tile{.q = 48, .kv = 64} &&
              cpu_tile(4, true) == Tile{.q = 32, .kv = 256});

}  // namespace budget

/// CPUs (arch 0): budget::cpu_tile. GPUs: the first of budget::candidates that fits in registers and shared memory.
struct DefaultTiles {
  constexpr Tile operator()(int arch, int head_dim, int value_dim, int element_bytes) const {
    if (arch >= 80) return budget::tensor_core_tile(arch, head_dim, value_dim, element_bytes);
    return budget::cpu_tile(element_bytes > 4 ? 8 : 4, false);
  }
  template <class Precision>
  constexpr Tile operator()(int arch, int head_dim, int value_dim, int element_bytes,
                            std::type_identity<Precision>) const {
    if (RINGATTN_AMX && arch == 0 && std::is_same_v<typename Precision::Element, BFloat16>)
      return budget::cpu_tile(sizeof(typename Precision::Accumulator), true);
    return (*this)(arch, head_dim, value_dim, element_bytes);
  }
};

static_assert(TilePolicy<DefaultTiles> && TilePolicy<FixedTiles<16, 16>>);

}  // namespace ringattn
