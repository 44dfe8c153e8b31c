// SPDX-License-Identifier: Apache-2.0
// The feed-forward block, block by block over tokens (Liu and Abbeel 2023): the hidden layer never exists whole.
#pragma once

#include <vector>

#include "activation.hpp"
#include "gemm.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Weights, or their gradients.
template <class T> struct FeedForwardWeights {
  Matrix<T> up;    // [width, inputs * hidden]
  Matrix<T> down;  // [hidden, width]

  operator FeedForwardWeights<T const>() const requires(!std::is_const_v<T>) { return {up, down}; }
};

/// y = down(activation(up(x))), without biases. Keeps scratch for one block of tokens.
///
/// Calls allocate nothing and recompute what they need; one thread at a time per object.
template <Real T, class Activation = SwiGlu, class G = DefaultGemm> class FeedForward {
  static_assert(ActivationPolicy<Activation>,
                "ringattn: FeedForward's Activation needs inputs, forward and backward; take Gelu or SwiGlu");
  static_assert(Gemm<G, T>, "ringattn: FeedForward's matrix product needs g(op, a, op, b, beta, c)");

 public:
  using Weights = FeedForwardWeights<T>;
  using ConstWeights = FeedForwardWeights<T const>;

  struct Options {
    int64_t width = 0, hidden = 0;
    int64_t block = 128;  ///< tokens at a time
  };

  /// Throws Error{invalid_argument} if a size is not positive.
  explicit FeedForward(Options o) : o_(o) {
    detail::check_at_least(o.width, 1, "feed-forward: width");
    detail::check_at_least(o.hidden, 1, "feed-forward: hidden");
    detail::check_at_least(o.block, 1, "feed-forward: block");
    scratch_.resize(size_t(o.block * o.hidden * (inputs + 1)));
  }

  /// Lays the weights out in a flat buffer.
  static Weights weights(Carver<T>& c, Options const& o) {
    return {.up = c.take(o.width, inputs * o.hidden), .down = c.take(o.hidden, o.width)};
  }
  size_t workspace_bytes() const { return scratch_.size() * sizeof(T); }

  /// y += FFN(x).
  void forward(ConstWeights const& w, Matrix<T const> x, Matrix<T> y) {  // [tokens, width] both
    for_blocks(x.rows, o_.block, [&](int64_t i, int64_t n) {
      Matrix<T> const u = up(w, x.middle_rows(i, n)), a = hidden(n);
      for (int64_t r = 0; r < n; ++r) Activation::forward(static_cast<T const*>(u.row(r)), a.row(r), o_.hidden);
      gemm_(Op::plain, a, Op::plain, w.down, T(1), y.middle_rows(i, n));
    });
  }

  /// dx = FFN'(x)^T dy; g += the weights' gradient. dx must not be x or dy.
  void backward(ConstWeights const& w, Weights const& g, Matrix<T const> x, Matrix<T const> dy,
                Matrix<T> dx) {  // [tokens, width] each
    for_blocks(x.rows, o_.block, [&](int64_t i, int64_t n) {
      Matrix<T const> const in = x.middle_rows(i, n), d = dy.middle_rows(i, n);
      Matrix<T> const u = up(w, in), a = hidden(n);
      gemm_(Op::plain, d, Op::transposed, w.down, T(0), a);                                 // a's gradient
      for (int64_t r = 0; r < n; ++r) Activation::backward(u.row(r), a.row(r), o_.hidden);  // now u's, and a itself
      gemm_(Op::transposed, a, Op::plain, d, T(1), g.down);
      gemm_(Op::transposed, in, Op::plain, u, T(1), g.up);
      gemm_(Op::plain, u, Op::transposed, w.up, T(0), dx.middle_rows(i, n));
    });
  }

 private:
  static constexpr int64_t inputs = Activation::inputs;

  Matrix<T> up(ConstWeights const& w, Matrix<T const> x) {
    Matrix<T> const u(scratch_.data(), x.rows, inputs * o_.hidden);
    gemm_(Op::plain, x, Op::plain, w.up, T(0), u);
    return u;
  }
  Matrix<T> hidden(int64_t rows) { return Matrix<T>(scratch_.data() + o_.block * inputs * o_.hidden, rows, o_.hidden); }

  Options o_;
  [[no_unique_address]] G gemm_;
  std::vector<T> scratch_;  // u [block, inputs * hidden], a [block, hidden]
};

}  // namespace ringattn
