// SPDX-License-Identifier: Apache-2.0
// Sixteen warps leave a thread 128 registers, which 256 columns of outputs do not fit in.
// expect: ringattn: Tile needs more registers per thread than there are: value_dim / 2 (outputs) + kv / 2
#include "cuda_tiles.hpp"

using K = KernelWith<Tiles<ringattn::Tile{.q = 256, .kv = 64, .stages = 1, .warps = 16}, small>, ringattn::Bf16, 256>;
static_assert(ringattn::cuda::tile_of<K, 80>.q > 0);
