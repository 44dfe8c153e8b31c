// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding (Su et al. 2021) from global positions: right under every shard.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "matrix.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Rotates the pair (x[i], x[i + dim/2]) of a head at global position p by the angle p * base^(-2 i / dim).
///
/// Angles, sines and cosines are computed in double, once, for the rows of the plan (2 x rows x dim/2 numbers), and
/// rounded to T. Calls allocate nothing; a const object may be used by several threads.
template <Real T> class Rope {
 public:
  Rope() = default;
  /// `rows`: this rank's global positions, local order. Throws Error{invalid_argument} unless head_dim is even and
  /// base positive.
  Rope(std::span<Rows const> rows, int64_t head_dim, double base) : half_(head_dim / 2) {
    if (head_dim < 2 || head_dim % 2 != 0)
      throw Error(ErrorCode::invalid_argument, -1, "rope: head_dim", "an even number", std::to_string(head_dim));
    if (!(base > 0))
      throw Error(ErrorCode::invalid_argument, -1, "rope: base", "a positive number", std::to_string(base));
    rows_ = count_rows(rows);
    cos_.reserve(size_t(rows_ * half_));
    sin_.reserve(size_t(rows_ * half_));
    for (Rows const& run : rows)
      for (int64_t s = 0; s < run.count; ++s)
        for (int64_t i = 0; i < half_; ++i) {
          double const angle = double(run.at(s)) * std::pow(base, -double(i) / double(half_));
          cos_.push_back(T(std::cos(angle)));
          sin_.push_back(T(std::sin(angle)));
        }
  }

  /// Rotates in place.
  void forward(View<T> x) const { rotate(x, T(1)); }  // [batch, rows, heads, head_dim], last stride 1
  /// The gradient: rotates back, in place.
  void backward(View<T> dx) const { rotate(dx, T(-1)); }  // [batch, rows, heads, head_dim], last stride 1

  size_t workspace_bytes() const { return (cos_.size() + sin_.size()) * sizeof(T); }

 private:
  void rotate(View<T> const& x, T direction) const {
    Extents const& e = x.extents;
    if (e.seq != rows_ || e.dim != 2 * half_ || (x.stride[3] != 1 && e.count() > 0))
      throw Error(ErrorCode::invalid_argument, -1, "rope",
                  std::to_string(rows_) + " rows of dense heads of " + std::to_string(2 * half_), to_string(e));
    for (int64_t b = 0; b < e.batch; ++b)
      for (int64_t s = 0; s < e.seq; ++s) {
        T const* const c = cos_.data() + s * half_;
        T const* const sine = sin_.data() + s * half_;
        for (int64_t h = 0; h < e.heads; ++h) {
          T* RINGATTN_RESTRICT const low = x.row(b, s, h);
          T* RINGATTN_RESTRICT const high = low + half_;
          for (int64_t i = 0; i < half_; ++i) {
            T const l = low[i], u = high[i], t = direction * sine[i];
            low[i] = l * c[i] - u * t;
            high[i] = u * c[i] + l * t;
          }
        }
      }
  }

  int64_t half_ = 0, rows_ = 0;
  std::vector<T> cos_, sin_;  // [rows, half]
};

}  // namespace ringattn
