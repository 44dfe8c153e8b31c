// SPDX-License-Identifier: Apache-2.0
// What a tile of tensor-core attention takes of registers and shared memory, and the default tiles that fit.
#pragma once

#include "../concepts.hpp"

namespace ringattn::inline RINGATTN_ABI::budget {

/// Bytes of shared memory that a block can have.
constexpr int shared_bytes_of(int arch) {
  switch (arch) {
    case 80:
    case 87:
      return 163 * 1024;
    case 90:
    case 100:
    case 103:
      return 227 * 1024;
    default:
      return 99 * 1024;  // 86, 89, 120
  }
}

/// ... and on the card that has the most of those which run the kernels of sm_80. A tile that needs more fits nowhere;
/// one that needs less may still be too large for the card at hand, which is known at run time only.
inline constexpr int most_shared_bytes = shared_bytes_of(90);

/// What the hardware gives one thread of a block of so many warps: by eights, of 65,536 for all.
constexpr int registers_of_thread(int warps) {
  int const all = 65536 / (32 * (warps > 0 ? warps : 1)) / 8 * 8;
  return all < 255 ? all : 255;
}
static_assert(registers_of_thread(8) == 255 && registers_of_thread(16) == 128 && registers_of_thread(32) == 64);

/// Addresses, counters, the running maximum and sum, and what the compiler needs to keep loads in flight.
inline constexpr int registers_aside = 35;

/// ... and to split operands of 3xTF32.
inline constexpr int registers_to_split = 32;
/// Per block, for what its threads have in common.
inline constexpr int shared_bytes_aside = 512;

/// The forward kernel of sm_80. Warps share the queries; each has rows of its own against all keys of the tile.
struct Forward {
  Tile tile;
  int head_dim, value_dim, element_bytes;

  /// 16-row fragments per warp.
  constexpr int fragments() const { return tile.q / (16 * tile.warps); }
  /// fp32 may be split in two tf32 (3xTF32): two sums per score, two fragments per operand.
  constexpr int parts() const { return element_bytes == 4 ? 2 : 1; }
  /// Per thread: outputs and scores as 16 x 8 accumulators of 4 registers, a fragment of A, two of B. Masks and
  /// exponentials under way take more where there are more scores.
  constexpr int registers() const {
    int const outputs = fragments() * value_dim / 2, scores = parts() * fragments() * tile.kv / 2;
    return outputs + scores * 9 / 8 + parts() * (4 * fragments() + 4) + registers_aside +
           (parts() - 1) * registers_to_split;
  }
  /// Per block: queries, and `stages` tiles each of keys and values.
  constexpr int shared_bytes() const {
    return element_bytes * (tile.q * head_dim + tile.stages * tile.kv * (head_dim + value_dim)) + shared_bytes_aside;
  }
  constexpr bool well_formed() const {
    return tile.q > 0 && tile.kv > 0 && tile.stages > 0 && tile.warps > 0 && tile.q % (16 * tile.warps) == 0 &&
           tile.kv % 16 == 0 && tile.warps <= 32;
  }
  constexpr bool fits(int shared) const {
    return well_formed() && registers() <= registers_of_thread(tile.warps) && shared_bytes() <= shared;
  }
};

/// Best first. Two 16-row fragments per warp use each key fragment twice; where the outputs are too wide for that, more
/// warps share a key tile.
inline constexpr Tile candidates[] = {
    {.q = 128, .kv = 128, .stages = 1, .warps = 4}, {.q = 128, .kv = 64, .stages = 1, .warps = 4},
    {.q = 128, .kv = 64, .stages = 1, .warps = 8},  {.q = 64, .kv = 64, .stages = 1, .warps = 4},
    {.q = 128, .kv = 32, .stages = 1, .warps = 8},  {.q = 64, .kv = 32, .stages = 1, .warps = 4},
    {.q = 32, .kv = 32, .stages = 1, .warps = 2},   {.q = 32, .kv = 16, .stages = 1, .warps = 2},
    {.q = 16, .kv = 16, .stages = 1, .warps = 1},
};

/// The first candidate that fits. `kv`: 0, or the only number of keys that will do.
constexpr Tile first_fit(int shared, int head_dim, int value_dim, int element_bytes, int kv = 0) {
  for (Tile const& t : candidates)
    if ((kv == 0 || t.kv == kv) && Forward{t, head_dim, value_dim, element_bytes}.fits(shared)) return t;
  return {.q = 16, .kv = kv == 0 ? 16 : kv, .stages = 1, .warps = 1};
}

/// Cards with more shared memory take more queries per block, never more keys: the number of keys decides rounding, and
/// a ring may have different cards.
constexpr Tile tensor_core_tile(int arch, int head_dim, int value_dim, int element_bytes) {
  int const kv = first_fit(shared_bytes_of(86), head_dim, value_dim, element_bytes).kv;
  return first_fit(shared_bytes_of(arch), head_dim, value_dim, element_bytes, kv);
}

}  // namespace ringattn::budget
