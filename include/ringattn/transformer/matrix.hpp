// SPDX-License-Identifier: Apache-2.0
// Row-major matrices as the blocks of the transformer see them, and how they share one flat buffer.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../concepts.hpp"
#include "../error.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// A non-owning row-major matrix. `stride`: elements from one row to the next.
template <class T> struct Matrix {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;

  Matrix() = default;
  constexpr Matrix(T* p, int64_t r, int64_t c) : Matrix(p, r, c, c) {}
  constexpr Matrix(T* p, int64_t r, int64_t c, int64_t s) : data(p), rows(r), cols(c), stride(s) {}
  template <class U>
  requires(std::is_same_v<T, U const> && !std::is_same_v<T, U>) constexpr Matrix(Matrix<U> const& o)
      : data(o.data), rows(o.rows), cols(o.cols), stride(o.stride) {}

  T* row(int64_t i) const { return data + i * stride; }
  T& operator()(int64_t i, int64_t j) const { return data[i * stride + j]; }
  Matrix middle_rows(int64_t begin, int64_t n) const { return {data ? row(begin) : nullptr, n, cols, stride}; }
  Matrix middle_cols(int64_t begin, int64_t n) const { return {data ? data + begin : nullptr, rows, n, stride}; }
};

/// Hands out matrices one after another from a flat buffer, each aligned to 64 bytes if the buffer is. Without a buffer
/// it only counts, so that the same function sizes a buffer and lays it out. Gaps between matrices belong to nobody: a
/// buffer that starts as zeros keeps them zero.
template <class T> class Carver {
 public:
  explicit Carver(T* data = nullptr) : data_(data) {}

  Matrix<T> take(int64_t rows, int64_t cols) {
    Matrix<T> const m(data_ ? data_ + used_ : nullptr, rows, cols);
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    used_ += (rows * cols + line - 1) / line * line;
    return m;
  }
  int64_t used() const { return used_; }  ///< elements handed out

 private:
  T* data_;
  int64_t used_ = 0;
};

/// The types in which the blocks around attention compute.
template <class T>
concept Real = std::is_same_v<T, float> || std::is_same_v<T, double>;

/// Runs f(begin, count) over 0 .. n - 1 in blocks of at most `block`.
template <class F> void for_blocks(int64_t n, int64_t block, F&& f) {
  for (int64_t begin = 0; begin < n; begin += block) f(begin, std::min(block, n - begin));
}

namespace detail {

/// A sum of n products in 16 fixed lanes: vectorises without licence to reassociate, and has the same bits everywhere.
template <class T> T dot(T const* a, T const* b, int64_t n) {
  constexpr int lanes = 16;
  T sum[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int j = 0; j < lanes; ++j) sum[j] += a[i + j] * b[i + j];
  for (int j = 0; i + j < n; ++j) sum[j] += a[i + j] * b[i + j];
  for (int width = lanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) sum[j] += sum[j + width];
  return sum[0];
}

/// Throws invalid_argument unless `actual` is at least `least`.
inline void check_at_least(int64_t actual, int64_t least, char const* argument) {
  if (actual < least)
    throw Error(ErrorCode::invalid_argument, -1, argument, "at least " + std::to_string(least), std::to_string(actual));
}

}  // namespace detail

}  // namespace ringattn
