// SPDX-License-Identifier: Apache-2.0
// Pre-norm transformer layers over one rank's shard: activations that outlive a block of tokens are the layer's input
// and, if that is wished, the attention's output.
#pragma once

#include "attention_block.hpp"
#include "feed_forward.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// The feed-forward half of a layer, y += FFN(norm(y)), in place; a block of tokens at a time.
template <class T> struct FeedForwardHalfWeights {
  Matrix<T> norm;  // [1, width]
  FeedForwardWeights<T> ffn;

  operator FeedForwardHalfWeights<T const>() const requires(!std::is_const_v<T>) { return {norm, ffn}; }
};

template <Real T, class Activation, class G> class FeedForwardHalf {
 public:
  using FFN = FeedForward<T, Activation, G>;
  using Weights = FeedForwardHalfWeights<T>;
  using ConstWeights = FeedForwardHalfWeights<T const>;

  FeedForwardHalf(typename FFN::Options const& o, double epsilon)
      : epsilon_(epsilon), ffn_(o), scratch_(size_t(2 * o.block * o.width)) {
    normed_ = {scratch_.data(), o.block, o.width};
    dnormed_ = {scratch_.data() + o.block * o.width, o.block, o.width};
  }

  static Weights weights(Carver<T>& c, typename FFN::Options const& o) {
    return {.norm = c.take(1, o.width), .ffn = FFN::weights(c, o)};
  }
  size_t workspace_bytes() const { return scratch_.size() * sizeof(T) + ffn_.workspace_bytes(); }

  void forward(ConstWeights const& w, Matrix<T> y) {  // [n <= block, width]
    Matrix<T> const normed = normed_.middle_rows(0, y.rows);
    rms_norm(y, w.norm, epsilon_, normed);
    ffn_.forward(w.ffn, normed, y);
  }
  /// `x`: what forward was given; `dy` becomes dx.
  void backward(ConstWeights const& w, Weights const& g, Matrix<T const> x, Matrix<T> dy) {  // [n <= block, width]
    Matrix<T> const normed = normed_.middle_rows(0, x.rows), dnormed = dnormed_.middle_rows(0, x.rows);
    rms_norm(x, w.norm, epsilon_, normed);
    ffn_.backward(w.ffn, g.ffn, normed, dy, dnormed);
    rms_norm_backward(x, w.norm, epsilon_, dnormed, dy, g.norm);
  }

 private:
  double epsilon_;
  FFN ffn_;
  std::vector<T> scratch_;
  Matrix<T> normed_, dnormed_;  // [block, width]
};

/// Weights of a Layer, or their gradients.
template <class T> struct LayerWeights {
  AttentionWeights<T> attention;
  FeedForwardHalfWeights<T> feed_forward;

  operator LayerWeights<T const>() const requires(!std::is_const_v<T>) { return {attention, feed_forward}; }
};

/// h = x + Attention(norm x), y = h + FFN(norm h). A decoder layer with Mask = Causal, an encoder layer with Full.
///
/// The object is the machinery, not the weights: one serves all layers of a model. Between forward and backward a layer
/// keeps its checkpoint; everything else is computed again, h and the feed-forward one block at a time.
///
/// Calls are collective, allocate nothing and throw as RingAttention; outputs are complete on return. One thread at a
/// time per object. On an error, y, the checkpoint and the gradients are of no use.
template <class P, class Activation = SwiGlu, class G = DefaultGemm> class Layer {
 public:
  using Attention = AttentionBlock<P, G>;
  using T = typename Attention::T;
  using Half = FeedForwardHalf<T, Activation, G>;
  using Weights = LayerWeights<T>;
  using ConstWeights = LayerWeights<T const>;

  struct Options {
    typename Attention::Options attention;
    int64_t hidden = 0;

    typename FeedForward<T, Activation, G>::Options ffn() const {
      return {.width = attention.width, .hidden = hidden, .block = attention.block};
    }
  };
  struct Checkpoint {
    Matrix<T> x;  // [tokens, width], the layer's input: the caller writes it
    KeptAttention<T> attention;
  };

  /// Collective. Throws as AttentionBlock and FeedForward.
  Layer(typename P::Backend& backend, typename P::Communicator& comm, Options const& o)
      : attention_(backend, comm, agreed(comm, o).attention),
        width_(o.attention.width),
        block_(std::clamp<int64_t>(attention_.tokens(), 1, o.attention.block)),
        half_({.width = width_, .hidden = o.hidden, .block = block_}, o.attention.epsilon),
        scratch_(size_t(block_ * width_)) {}

  /// Lays the weights out in a flat buffer.
  static Weights weights(Carver<T>& c, Options const& o) {
    return {.attention = Attention::weights(c, o.attention), .feed_forward = Half::weights(c, o.ffn())};
  }
  /// Lays out what the caller keeps for one layer.
  Checkpoint checkpoint(Carver<T>& c) const { return {.x = c.take(tokens(), width_), .attention = attention_.kept(c)}; }

  int64_t tokens() const { return attention_.tokens(); }  ///< on this rank
  RingAttention<P> const& ring() const { return attention_.ring(); }
  /// Bytes of this object; shared by all layers that use it.
  size_t workspace_bytes() const {
    return attention_.workspace_bytes() + half_.workspace_bytes() + scratch_.size() * sizeof(T);
  }
  /// Bytes that one layer keeps from forward to backward.
  size_t activation_bytes() const {
    Carver<T> c;
    checkpoint(c);
    return size_t(c.used()) * sizeof(T);
  }

  void forward(ConstWeights const& w, Checkpoint const& c, Matrix<T> y) {  // y: [tokens, width], not x
    attention_.project(w.attention, c.x);
    attention_.attend(c.attention);
    for_blocks(tokens(), block_, [&](int64_t i, int64_t n) {
      Matrix<T> const part = y.middle_rows(i, n);
      after_attention(w, c, i, part);
      half_.forward(w.feed_forward, part);
    });
  }

  /// `d`: dy comes in, dx goes out. g += the weights' gradient.
  void backward(ConstWeights const& w, Weights const& g, Checkpoint const& c, Matrix<T> d) {  // [tokens, width]
    attention_.project(w.attention, c.x);
    attention_.attend(c.attention, true);
    for_blocks(tokens(), block_, [&](int64_t i, int64_t n) {
      Matrix<T> const h(scratch_.data(), n, width_), part = d.middle_rows(i, n);
      after_attention(w, c, i, h);
      half_.backward(w.feed_forward, g.feed_forward, h, part);
      attention_.out_backward(w.attention, g.attention, i, part);
    });
    attention_.attend_backward();
    attention_.project_backward(w.attention, g.attention, c.x, d);
  }

 private:
  static Options const& agreed(typename P::Communicator& comm, Options const& o) {
    detail::agree_on(comm, {{"layer: hidden", double(o.hidden)}});
    return o;
  }

  /// h = x + Attention(norm x) of a block of tokens.
  void after_attention(ConstWeights const& w, Checkpoint const& c, int64_t i, Matrix<T> h) {
    for (int64_t r = 0; r < h.rows; ++r) std::copy_n(c.x.row(i + r), width_, h.row(r));
    attention_.add_out(w.attention, i, h);
  }

  Attention attention_;
  int64_t width_, block_;
  Half half_;
  std::vector<T> scratch_;  // h [block, width]
};

}  // namespace ringattn
