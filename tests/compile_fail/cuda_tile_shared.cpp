// SPDX-License-Identifier: Apache-2.0
// Keys and values in three stages.
// expect: ringattn: Tile needs more shared memory than a block can have on any card
#include "cuda_tiles.hpp"

using K = KernelWith<Tiles<ringattn::Tile{.q = 128, .kv = 64, .stages = 3, .warps = 8}, small>, ringattn::Bf16, 256>;
static_assert(ringattn::cuda::tile_of<K, 80>.q > 0);
