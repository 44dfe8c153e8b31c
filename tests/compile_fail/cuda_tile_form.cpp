// SPDX-License-Identifier: Apache-2.0
// Queries that do not divide among the warps.
// expect: ringattn: Tile on a GPU: q must be a multiple of 16 warps, kv of 16, stages at least 1
#include "cuda_tiles.hpp"

using K = KernelWith<Tiles<ringattn::Tile{.q = 48, .kv = 64, .stages = 1, .warps = 2}, small>, ringattn::Bf16, 64>;
static_assert(ringattn::cuda::tile_of<K, 80>.q > 0);
