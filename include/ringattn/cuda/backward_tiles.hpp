// SPDX-License-Identifier: Apache-2.0
// The tile of the backward kernel on an architecture: the first of a list that fits in registers and shared memory.
#pragma once

#include <algorithm>

#include "../policy/budget.hpp"
#include "cards.hpp"

namespace ringattn::inline RINGATTN_ABI {
namespace budget {

/// The backward kernel of sm_80. Warps stand in a grid: a row of them has `fragments()` times 16 keys of the tile,
/// `columns()` warps share the dimensions of dK and dV of these keys.
struct Backward {
  Tile tile;
  int head_dim, value_dim, element_bytes;

  constexpr int fragments() const {
    return tile.keys_per_warp > 0 ? tile.keys_per_warp / 16 : std::max(tile.kv / (tile.warps * 16), 1);
  }
  constexpr int columns() const { return std::max(tile.warps * 16 * fragments() / tile.kv, 1); }
  /// How many of the warps of a row share the queries for scores.
  constexpr int query_columns() const { return columns() < tile.q / 16 ? columns() : tile.q / 16; }
  /// 16-row tiles of dQ per warp, and how many warps share the dimensions of these. Two rather than one, so that a
  /// fragment of keys serves both, where registers and dimensions allow it.
  constexpr int dq_rows() const {
    int const images = tile.q / 16;
    if (images > tile.warps) return images / tile.warps;
    bool const two = element_bytes == 2 && images >= 4 && head_dim % (32 * tile.warps / images) == 0;
    return two ? 2 : 1;
  }
  constexpr int dq_columns() const {
    int const rows = tile.q / 16 / dq_rows();
    return tile.warps > rows ? tile.warps / rows : 1;
  }
  /// 8-column tiles of dQ that a warp sums at a time: at most 8, so that it takes no more registers than scores do.
  constexpr int dq_step() const {
    int const all = head_dim / 16 / dq_columns();
    for (int n = 4; n > 1; --n)
      if (all % n == 0) return 2 * n;
    return 2;
  }
  /// fp32 may be split in two tf32 (3xTF32): two sums per score, two fragments per operand.
  constexpr int parts() const { return element_bytes == 4 ? 2 : 1; }
  /// Per thread: dK and dV, P and dP (and the small products of one of them), fragments, and the rest. `passes`: the
  /// queries of a tile can be taken in parts, so that scores take fewer registers and keys are read more often.
  constexpr int registers(int passes) const {
    int const gradients = fragments() * (head_dim + value_dim) / 2 / columns();
    int const scores = fragments() * tile.q / 2 / query_columns() / passes;
    return gradients + (1 + parts()) * scores + parts() * (4 * fragments() + 4) + registers_aside + 16 +
           (parts() - 1) * registers_to_split;
  }
  /// As few as fit; at least 16 queries in each.
  constexpr int passes() const {
    int n = 1;
    while (registers(n) > registers_of_thread(tile.warps) && tile.q / query_columns() / n >= 32) n *= 2;
    return n;
  }
  /// Per block: keys, values, `stages` tiles each of queries and dO with two numbers per row, dS, and P where warps
  /// must share it.
  constexpr int shared_bytes() const {
    int const of_queries = tile.stages * tile.q * (element_bytes * (head_dim + value_dim) + 8);
    int const pairs = element_bytes * tile.kv * tile.q * (columns() > 1 ? 2 : 1);
    return element_bytes * tile.kv * (head_dim + value_dim) + of_queries + pairs + shared_bytes_aside;
  }
  constexpr bool well_formed() const {
    constexpr auto power_of_2 = [](int x) { return x > 0 && (x & (x - 1)) == 0; };
    if (!power_of_2(tile.q) || !power_of_2(tile.kv) || tile.q < 16 || tile.kv < 16) return false;
    if (tile.stages < 1 || tile.stages > 2 || !power_of_2(tile.warps)) return false;
    if (tile.keys_per_warp != 0 && tile.keys_per_warp != 16 && tile.keys_per_warp != 32) return false;
    if (fragments() > 2 || tile.warps * 16 * fragments() < tile.kv || 16 * fragments() > tile.kv) return false;
    return head_dim % (16 * columns()) == 0 && value_dim % (16 * columns()) == 0 && head_dim % (16 * dq_columns()) == 0;
  }
  constexpr bool fits(int shared) const {
    return well_formed() && registers(passes()) <= registers_of_thread(tile.warps) && shared_bytes() <= shared;
  }
};

/// Best first: many keys, since a tile of queries is loaded, and its dQ loaded and stored, once per tile of keys; then
/// many queries; then two stages; then 32 keys a warp where P goes through shared memory anyway, for a fragment of
/// queries or dO then serves twice as many.
inline constexpr Tile backward_candidates[] = {
    {.q = 128, .kv = 128, .stages = 1, .warps = 4},
    {.q = 128, .kv = 128, .stages = 1, .warps = 8},
    {.q = 64, .kv = 128, .stages = 2, .warps = 8},
    {.q = 64, .kv = 128, .stages = 1, .warps = 8},
    {.q = 32, .kv = 128, .stages = 2, .warps = 8},
    {.q = 32, .kv = 128, .stages = 1, .warps = 8},
    {.q = 64, .kv = 64, .stages = 2, .warps = 8, .keys_per_warp = 32},
    {.q = 64, .kv = 64, .stages = 2, .warps = 8},
    {.q = 64, .kv = 64, .stages = 1, .warps = 8, .keys_per_warp = 32},
    {.q = 64, .kv = 64, .stages = 1, .warps = 8},
    {.q = 64, .kv = 64, .stages = 1, .warps = 4},
    {.q = 32, .kv = 64, .stages = 1, .warps = 8},
    {.q = 32, .kv = 64, .stages = 1, .warps = 4},
    {.q = 32, .kv = 32, .stages = 1, .warps = 8},
    {.q = 32, .kv = 32, .stages = 1, .warps = 4},
    {.q = 16, .kv = 32, .stages = 1, .warps = 4},
    {.q = 16, .kv = 16, .stages = 1, .warps = 4},
    {.q = 16, .kv = 16, .stages = 1, .warps = 2},
};

constexpr Tile backward_tile(int shared, int head_dim, int value_dim, int element_bytes) {
  for (Tile const& t : backward_candidates)
    if (Backward{t, head_dim, value_dim, element_bytes}.fits(shared)) return t;
  return {.q = 16, .kv = 16, .stages = 1, .warps = 1};
}

}  // namespace budget

namespace cuda::inline RINGATTN_CARDS {
namespace detail {

/// The arithmetic stands in the name of this type, which compilers print with the message.
template <int q, int kv, int stages, int warps, int keys, int head_dim, int value_dim, int element_bytes,
          int registers_needed, int registers_there, int shared_bytes_needed, int shared_bytes_there>
struct FitOfBackwardTile {
  static_assert(registers_needed <= registers_there,
                "ringattn: Tile of the backward pass needs more registers per thread than there are: (head_dim + "
                "value_dim) / 2 (dK and dV) and q (scores and their gradients; three halves of it for fp32) per 16 "
                "keys of a warp, over the warps that share them, and 60 to 110 for the rest, where 8 warps and fewer "
                "have 255, 16 warps 128; lower kv or take more warps, up to 8");
  static_assert(shared_bytes_needed <= shared_bytes_there,
                "ringattn: Tile of the backward pass needs more shared memory than a block can have on any card: "
                "element_bytes * ((kv + stages * q) * (head_dim + value_dim) + kv * q, twice if warps > kv / keys) + "
                "stages * q * 8 + 512; lower kv, q or stages");
  static constexpr bool checked = true;
};

}  // namespace detail

/// A tile policy chooses for the backward pass by a member `backward(arch, head_dim, value_dim, element_bytes)`; one
/// without it gets the default, since what suits the forward kernel cannot fit here.
template <class K, int arch> consteval Tile checked_backward_tile() {
  using Tiles = typename K::Tiles;
  constexpr int bytes = int(sizeof(typename K::Element)), shared = budget::shared_bytes_of(arch);
  constexpr Tile t = [] {
    if constexpr (requires { Tiles{}.backward(arch, K::head_dim, K::value_dim, bytes); })
      return Tiles{}.backward(arch, K::head_dim, K::value_dim, bytes);
    else
      return budget::backward_tile(shared, K::head_dim, K::value_dim, bytes);
  }();
  constexpr budget::Backward b{t, K::head_dim, K::value_dim, bytes};
  static_assert(b.well_formed(),
                "ringattn: Tile of the backward pass on a GPU: q, kv and warps are powers of 2, q and kv at least 16, "
                "keys_per_warp 16, 32 or 0 and at most kv, warps at least kv over it (32 for 0), stages 1 or 2, "
                "and head_dim and value_dim divide among the warps by 16");
  static_assert(detail::FitOfBackwardTile < t.q, t.kv, t.stages, t.warps, b.well_formed() ? 16 * b.fragments() : 0,
                K::head_dim, K::value_dim, bytes, b.well_formed() ? b.registers(b.passes()) : 0,
                budget::registers_of_thread(t.warps), b.well_formed() ? b.shared_bytes() : 0,
                budget::most_shared_bytes > ::checked);
  return t;
}

template <class K, int arch> inline constexpr Tile backward_tile_of = checked_backward_tile<K, arch>();

}  // namespace cuda
}  // namespace ringattn
