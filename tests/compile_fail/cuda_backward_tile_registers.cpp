// SPDX-License-Identifier: Apache-2.0
// One warp for dK and dV of 32 keys.
// expect: ringattn: Tile of the backward pass needs more registers per thread than there are
#include "cuda_tiles.hpp"

using K = KernelWith<Tiles<small, ringattn::Tile{.q = 32, .kv = 32, .stages = 1, .warps = 1}>, ringattn::Bf16, 256>;
static_assert(ringattn::cuda::backward_tile_of<K, 80>.q > 0);
