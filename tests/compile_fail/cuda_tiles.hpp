// SPDX-License-Identifier: Apache-2.0
// Kernels of GPUs with tiles that each source here makes too large. No CUDA is needed: tiles are checked by any
// compiler.
#pragma once

#include <ringattn/cuda/backward_tiles.hpp>
#include <ringattn/cuda/tiles.hpp>
#include <ringattn/policy.hpp>

template <class Tiles, class Precision, int head_dim>
using KernelWith = ringattn::Kernel<Precision, ringattn::Causal, ringattn::Plain, Tiles, head_dim, head_dim>;

template <ringattn::Tile forward_, ringattn::Tile backward_> struct Tiles {
  constexpr ringattn::Tile operator()(int, int, int, int) const { return forward_; }
  constexpr ringattn::Tile backward(int, int, int, int) const { return backward_; }
};
inline constexpr ringattn::Tile small{.q = 32, .kv = 32, .stages = 1, .warps = 2};
