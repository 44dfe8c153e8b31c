// SPDX-License-Identifier: Apache-2.0
// The architectures that nvcc compiles a file for, as the name of an inline namespace.
//
// Kernels and the layout of what they keep in memory depend on them. So files of one program that are compiled for
// different cards each have kernels, and functions that launch them, of their own: with equal names the linker would
// keep one of each, and a step could be taken by one file's kernels, the result written by the other's.
#pragma once

#include "../config.hpp"

// cards_ and the numbers of __CUDA_ARCH_LIST__ in a row, 800 or 1200: where one ends is plain from where it starts.
#define RINGATTN_CARDS_IN_A_ROW(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ...) \
  cards_##a##b##c##d##e##f##g##h##i##j##k##l##m##n##o##p
#define RINGATTN_CARDS_OF(...) RINGATTN_CARDS_IN_A_ROW(__VA_ARGS__)

#if defined(__CUDA_ARCH_LIST__)
#define RINGATTN_CARDS RINGATTN_CARDS_OF(__CUDA_ARCH_LIST__, , , , , , , , , , , , , , , , )
#else
#define RINGATTN_CARDS cards_any
#endif
