// SPDX-License-Identifier: Apache-2.0
// Root-mean-square normalisation (Zhang and Sennrich 2019), row by row: nothing depends on how rows are blocked.
#pragma once

#include <cmath>

#include "matrix.hpp"

namespace ringattn::inline RINGATTN_ABI {

namespace detail {
template <Real T> T inverse_rms(T const* x, int64_t width, double epsilon) {
  return T(1) / std::sqrt(dot(x, x, width) / T(width) + T(epsilon));
}
}  // namespace detail

/// y = gain * x / sqrt(mean(x^2) + epsilon). y may be x.
template <Real T>
void rms_norm(std::type_identity_t<Matrix<T const>> x,     // [rows, width]
              std::type_identity_t<Matrix<T const>> gain,  // [1, width]
              double epsilon,                              //
              Matrix<T> y) {                               // [rows, width]
  T const* const g = gain.data;
  for (int64_t i = 0; i < x.rows; ++i) {
    T const* const in = x.row(i);
    T* const out = y.row(i);
    T const r = detail::inverse_rms(in, x.cols, epsilon);
    for (int64_t j = 0; j < x.cols; ++j) out[j] = in[j] * r * g[j];
  }
}

/// dx += and dgain += the gradients of rms_norm. dx must not be dy or x.
template <Real T>
void rms_norm_backward(std::type_identity_t<Matrix<T const>> x,     // [rows, width]
                       std::type_identity_t<Matrix<T const>> gain,  // [1, width]
                       double epsilon,                              //
                       std::type_identity_t<Matrix<T const>> dy,    // [rows, width]
                       Matrix<T> dx,                                // [rows, width]
                       Matrix<T> dgain) {                           // [1, width]
  T const* RINGATTN_RESTRICT const g = gain.data;
  T* RINGATTN_RESTRICT const dg = dgain.data;
  constexpr int64_t strip = 64;
  for (int64_t i = 0; i < x.rows; ++i) {
    T const* RINGATTN_RESTRICT const in = x.row(i);
    T const* RINGATTN_RESTRICT const d = dy.row(i);
    T* RINGATTN_RESTRICT const out = dx.row(i);
    T const r = detail::inverse_rms(in, x.cols, epsilon);
    T along = 0;  // sum of dy gain x
    for_blocks(x.cols, strip, [&](int64_t begin, int64_t n) {
      T scaled[strip];
      for (int64_t j = 0; j < n; ++j) scaled[j] = d[begin + j] * g[begin + j];
      along += detail::dot(scaled, in + begin, n);
    });
    T const pull = along * r * r * r / T(x.cols);
    for (int64_t j = 0; j < x.cols; ++j) {
      dg[j] += d[j] * in[j] * r;
      out[j] += d[j] * g[j] * r - in[j] * pull;
    }
  }
}

}  // namespace ringattn
