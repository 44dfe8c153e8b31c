// SPDX-License-Identifier: Apache-2.0
// Two stages of 256 queries and dO.
// expect: ringattn: Tile of the backward pass needs more shared memory than a block can have on any card
#include "cuda_tiles.hpp"

using K = KernelWith<Tiles<small, ringattn::Tile{.q = 256, .kv = 64, .stages = 2, .warps = 8}>, ringattn::Bf16, 128>;
static_assert(ringattn::cuda::backward_tile_of<K, 80>.q > 0);
