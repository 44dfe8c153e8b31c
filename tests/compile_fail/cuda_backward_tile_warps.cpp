// SPDX-License-Identifier: Apache-2.0
// Sixteen warps, of which a thread has 128 registers.
// expect: ringattn: Tile of the backward pass needs more registers per thread than there are
#include "cuda_tiles.hpp"

using K = KernelWith<Tiles<small, ringattn::Tile{.q = 128, .kv = 128, .stages = 1, .warps = 16}>, ringattn::Bf16, 128>;
static_assert(ringattn::cuda::backward_tile_of<K, 80>.q > 0);
