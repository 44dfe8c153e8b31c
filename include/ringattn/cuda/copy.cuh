// SPDX-License-Identifier: Apache-2.0
// The two kernels that only move and add: strided copies that convert, and the sum of gradients on their way.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../tensor.hpp"
#include "launch.hpp"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS {

/// Rounds to the element type of the target; what has it already is copied bit by bit.
template <class U, class T> RINGATTN_HD U convert(T x) {
  if constexpr (std::is_same_v<T, U>)
    return x;
  else if constexpr (std::is_same_v<T, double> || std::is_same_v<U, double>)
    return U(double(x));
  else
    return U(float(x));
}

namespace detail {

inline constexpr int move_threads = 256;

/// `n` elements that lie together.
template <class T, int n> struct alignas(n * sizeof(T) > 16 ? 16 : n * sizeof(T)) Together { T x[n]; };

/// One thread per `n` elements of a row; `units` of these per row.
template <int n, class T, class U>
RINGATTN_HIDDEN __global__ void __launch_bounds__(move_threads)
    copy_rows(View<T const, DeviceSpace> from, View<U, DeviceSpace> to, int64_t units) {
  Extents const e = from.extents;
  int64_t const all = e.batch * e.seq * e.heads * units, stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += stride) {
    int64_t const d = i % units * n, row = i / units;
    int64_t const h = row % e.heads, bs = row / e.heads, b = bs / e.seq, s = bs % e.seq;
    T const* const x = from.row(b, s, h) + d * from.stride[3];
    U* const y = to.row(b, s, h) + d * to.stride[3];
    if constexpr (n == 1) {
      *y = convert<U>(*x);
    } else {
      Together<T, n> const in = *reinterpret_cast<Together<T, n> const*>(x);
      Together<U, n> out;
#pragma unroll
      for (int e = 0; e < n; ++e) out.x[e] = convert<U>(in.x[e]);
      *reinterpret_cast<Together<U, n>*>(y) = out;
    }
  }
}

/// sum = W(mine + arriving), or W(mine) where nothing arrives.
template <class A, class W>
RINGATTN_HIDDEN __global__ void __launch_bounds__(move_threads)
    add_arriving(A const* mine, W const* arriving, W* sum, int64_t count) {
  int64_t const stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    sum[i] = convert<W>(arriving ? mine[i] + convert<A>(arriving[i]) : mine[i]);
}

/// Enough blocks to fill the device a few times, no more than there is work for.
inline dim3 move_grid(int64_t work, Launch const& launch) {
  int64_t const blocks = (work + move_threads - 1) / move_threads;
  return dim3(unsigned(std::min<int64_t>(blocks, 32 * int64_t(launch.multiprocessors))));
}

/// Do all rows start at a multiple of 16 bytes and consist of such pieces?
template <class T> bool in_pieces_of_16(View<T, DeviceSpace> const& v) {
  auto const whole = [](int64_t elements) { return elements * int64_t(sizeof(T)) % 16 == 0; };
  Extents const& e = v.extents;
  return v.stride[3] == 1 && whole(e.dim) && reinterpret_cast<std::uintptr_t>(v.data) % 16 == 0 &&
         (e.batch == 1 || whole(v.stride[0])) && (e.seq == 1 || whole(v.stride[1])) &&
         (e.heads == 1 || whole(v.stride[2]));
}

}  // namespace detail

/// Enqueues a copy between views of equal extents.
template <class T, class U>
void copy(View<T const, DeviceSpace> const& from, View<U, DeviceSpace> const& to, Launch const& where) {
  Extents const& e = from.extents;
  int64_t const rows = e.batch * e.seq * e.heads;
  // At least 16 bytes on the side with the smaller elements.
  constexpr int n = 16 / int(std::min(sizeof(T), sizeof(U)));
  if (detail::in_pieces_of_16(from) && detail::in_pieces_of_16(to) && e.dim % n == 0)
    return launch("copy", detail::copy_rows<n, T, U>, detail::move_grid(rows * (e.dim / n), where),
                  detail::move_threads, 0, where, from, to, e.dim / n);
  launch("copy", detail::copy_rows<1, T, U>, detail::move_grid(rows * e.dim, where), detail::move_threads, 0, where,
         from, to, e.dim);
}

/// Enqueues sum = W(mine + arriving), or W(mine) if `arriving` is null; `sum` may be `arriving`.
template <class A, class W>
void accumulate(A const* mine, W const* arriving, W* sum, int64_t count, Launch const& where) {
  launch("accumulate", detail::add_arriving<A, W>, detail::move_grid(count, where), detail::move_threads, 0, where,
         mine, arriving, sum, count);
}

}  // namespace ringattn::cuda
