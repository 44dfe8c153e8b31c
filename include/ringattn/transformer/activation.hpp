// SPDX-License-Identifier: Apache-2.0
// Activations of the feed-forward block, as policies.
#pragma once

#include "exp.hpp"
#include "matrix.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// `inputs`: columns that one hidden unit takes from the up projection. `forward(u, a, hidden)` writes a[hidden] from
/// u[inputs * hidden]; `backward(u, a, hidden)`, given the gradient of a in a, replaces u by its gradient and a by what
/// forward writes, so that no value is computed twice. Rows do not overlap.
template <class A>
concept ActivationPolicy = requires(float* u, float* a, float const* in, int64_t n) {
  { A::inputs } -> std::convertible_to<int>;
  A::forward(in, a, n);
  A::backward(u, a, n);
};

/// x Phi(x), exact (Hendrycks and Gimpel 2016).
struct Gelu {
  static constexpr int inputs = 1;

  template <Real T> static void forward(T const* u, T* a, int64_t hidden) {
    for (int64_t i = 0; i < hidden; ++i) a[i] = u[i] * phi(u[i]);
  }
  template <Real T> static void backward(T* u, T* a, int64_t hidden) {
    constexpr double density_at_0 = 0.3989422804014327;  // 1 / sqrt(2 pi)
    for (int64_t i = 0; i < hidden; ++i) {
      T const x = u[i], p = phi(x);
      u[i] = a[i] * (p + x * T(density_at_0) * detail::vector_exp(x * x * T(-0.5)));
      a[i] = x * p;
    }
  }

 private:
  template <class T> static T phi(T x) { return T(0.5) * std::erfc(x * T(-0.7071067811865476)); }
};

/// silu(gate) * value with silu(x) = x / (1 + e^-x) (Shazeer 2020). u = [gate | value].
struct SwiGlu {
  static constexpr int inputs = 2;

  template <Real T> static void forward(T const* RINGATTN_RESTRICT u, T* RINGATTN_RESTRICT a, int64_t hidden) {
    T const* RINGATTN_RESTRICT const value = u + hidden;
    for (int64_t i = 0; i < hidden; ++i) a[i] = u[i] * value[i] / (T(1) + detail::vector_exp(-u[i]));
  }
  template <Real T> static void backward(T* RINGATTN_RESTRICT u, T* RINGATTN_RESTRICT a, int64_t hidden) {
    T* RINGATTN_RESTRICT const value = u + hidden;
    for (int64_t i = 0; i < hidden; ++i) {
      T const gate = u[i], v = value[i], da = a[i];
      T const sigmoid = T(1) / (T(1) + detail::vector_exp(-gate)), silu = gate * sigmoid;
      u[i] = da * v * (sigmoid + silu * (T(1) - sigmoid));
      value[i] = da * silu;
      a[i] = silu * v;
    }
  }
};

static_assert(ActivationPolicy<Gelu> && ActivationPolicy<SwiGlu>);

}  // namespace ringattn
