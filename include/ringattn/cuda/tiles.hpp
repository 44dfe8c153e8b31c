// SPDX-License-Identifier: Apache-2.0
// The tile of a kernel on an architecture, checked against what the architecture has.
#pragma once

#include "../policy/tile.hpp"
#include "cards.hpp"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS {

namespace detail {

/// The arithmetic stands in the name of this type, which compilers print with the message.
template <int q, int kv, int stages, int warps, int head_dim, int value_dim, int element_bytes, int registers_needed,
          int registers_there, int shared_bytes_needed, int shared_bytes_there>
struct FitOfTile {
  static_assert(q > 0 && warps > 0 && q % (16 * warps) == 0 && kv > 0 && kv % 16 == 0 && stages > 0,
                "ringattn: Tile on a GPU: q must be a multiple of 16 warps, kv of 16, stages at least 1");
  static_assert(
      registers_needed <= registers_there,
      "ringattn: Tile needs more registers per thread than there are: value_dim / 2 (outputs) + kv / 2 "
      "(scores; twice for fp32) per 16 query rows of a warp, and 50 to 90 for the rest, where 8 warps and fewer have "
      "255, 16 warps 128; lower Tile.kv or Tile.q / Tile.warps");
  static_assert(shared_bytes_needed <= shared_bytes_there,
                "ringattn: Tile needs more shared memory than a block can have on any card: element_bytes * (q * "
                "head_dim + stages * kv * (head_dim + value_dim)) + 512; lower Tile.q, Tile.kv or Tile.stages");
  static constexpr bool checked = true;
};

/// Tiles that name no warps (one is the default) get one per 16 query rows, at most 8.
constexpr Tile with_warps(Tile t) {
  if (t.warps == 1) t.warps = t.q % 128 == 0 ? 8 : t.q % 64 == 0 ? 4 : t.q % 32 == 0 ? 2 : 1;
  return t;
}

}  // namespace detail

template <class K, int arch> consteval Tile checked_tile() {
  constexpr Tile t = detail::with_warps(K::tile(arch));
  constexpr budget::Forward b{t, K::head_dim, K::value_dim, int(sizeof(typename K::Element))};
  constexpr int registers = t.q > 0 && t.warps > 0 ? b.registers() : 0;
  static_assert(
      detail::FitOfTile<t.q, t.kv, t.stages, t.warps, K::head_dim, K::value_dim, b.element_bytes, registers,
                        budget::registers_of_thread(t.warps), b.shared_bytes(), budget::most_shared_bytes>::checked);
  return t;
}

/// Kernels read this, not a function: nvcc takes no host functions in device code, constexpr or not.
template <class K, int arch> inline constexpr Tile tile_of = checked_tile<K, arch>();

}  // namespace ringattn::cuda
