// SPDX-License-Identifier: Apache-2.0
// Three stages, which the backward kernel has no room to order.
// expect: ringattn: Tile of the backward pass on a GPU: q, kv and warps are powers of 2
#include "cuda_tiles.hpp"

using K = KernelWith<Tiles<small, ringattn::Tile{.q = 32, .kv = 64, .stages = 3, .warps = 4}>, ringattn::Bf16, 64>;
static_assert(ringattn::cuda::backward_tile_of<K, 80>.q > 0);
