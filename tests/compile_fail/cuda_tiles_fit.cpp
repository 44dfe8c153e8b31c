// SPDX-License-Identifier: Apache-2.0
// The largest tiles that some card runs.
// expect: nothing
#include "cuda_tiles.hpp"

using K = KernelWith<Tiles<ringattn::Tile{.q = 128, .kv = 64, .stages = 1, .warps = 4},
                           ringattn::Tile{.q = 128, .kv = 128, .stages = 1, .warps = 8, .keys_per_warp = 32}>,
                     ringattn::Bf16, 128>;
static_assert(ringattn::cuda::tile_of<K, 80>.q == 128 && ringattn::cuda::backward_tile_of<K, 80>.keys_per_warp == 32);
