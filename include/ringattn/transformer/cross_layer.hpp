// SPDX-License-Identifier: Apache-2.0
// The decoder layer of an encoder-decoder: attention to itself, attention to the encoder's output, feed-forward.
#pragma once

#include "layer.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Weights of a CrossLayer, or their gradients.
template <class T> struct CrossLayerWeights {
  AttentionWeights<T> self, cross;
  FeedForwardHalfWeights<T> feed_forward;

  operator CrossLayerWeights<T const>() const requires(!std::is_const_v<T>) { return {self, cross, feed_forward}; }
};

/// h = x + Self(norm x), z = h + Cross(norm h, memory), y = z + FFN(norm z). `memory` is the encoder's output after its
/// last norm, sharded over the same ring by Cross's KvShard. Both policies share backend and communicator.
///
/// Machinery, checkpoints, errors and threads as Layer.
template <class Self, class Cross, class Activation = SwiGlu, class G = DefaultGemm> class CrossLayer {
  static_assert(std::is_same_v<typename Self::Backend, typename Cross::Backend> &&
                    std::is_same_v<typename Self::Communicator, typename Cross::Communicator> &&
                    std::is_same_v<typename Self::Shard, typename Cross::Shard>,
                "ringattn: CrossLayer's two policies must agree on Backend, Communicator and Shard");

 public:
  using SelfAttention = AttentionBlock<Self, G>;
  using CrossAttention = AttentionBlock<Cross, G>;
  using T = typename SelfAttention::T;
  using Half = FeedForwardHalf<T, Activation, G>;
  using Weights = CrossLayerWeights<T>;
  using ConstWeights = CrossLayerWeights<T const>;
  static_assert(std::is_same_v<T, typename CrossAttention::T>,
                "ringattn: CrossLayer's two policies must agree on Precision");

  struct Options {
    typename SelfAttention::Options self;
    typename CrossAttention::Options cross;  ///< width and block as self's; source_width: the memory's
    int64_t hidden = 0;

    typename FeedForward<T, Activation, G>::Options ffn() const {
      return {.width = self.width, .hidden = hidden, .block = self.block};
    }
  };
  struct Checkpoint {
    Matrix<T> x;  // [tokens, width], the layer's input: the caller writes it
    KeptAttention<T> self, cross;
  };

  /// Collective. Throws as AttentionBlock and FeedForward.
  CrossLayer(typename Self::Backend& backend, typename Self::Communicator& comm, Options const& o)
      : self_(backend, comm, agreed(comm, o).self),
        cross_(backend, comm, matching(o)),
        width_(o.self.width),
        block_(std::clamp<int64_t>(std::max(self_.tokens(), cross_.source_tokens()), 1, o.self.block)),
        half_({.width = width_, .hidden = o.hidden, .block = block_}, o.self.epsilon),
        scratch_(size_t(block_ * width_)) {}

  /// Lays the weights out in a flat buffer.
  static Weights weights(Carver<T>& c, Options const& o) {
    return {.self = SelfAttention::weights(c, o.self),
            .cross = CrossAttention::weights(c, matching(o)),
            .feed_forward = Half::weights(c, o.ffn())};
  }
  /// Lays out what the caller keeps for one layer.
  Checkpoint checkpoint(Carver<T>& c) const {
    return {.x = c.take(tokens(), width_), .self = self_.kept(c), .cross = cross_.kept(c)};
  }

  int64_t tokens() const { return self_.tokens(); }                 ///< on this rank
  int64_t memory_tokens() const { return cross_.source_tokens(); }  ///< on this rank
  /// Bytes of this object; shared by all layers that use it.
  size_t workspace_bytes() const {
    return self_.workspace_bytes() + cross_.workspace_bytes() + half_.workspace_bytes() + scratch_.size() * sizeof(T);
  }
  /// Bytes that one layer keeps from forward to backward.
  size_t activation_bytes() const {
    Carver<T> c;
    checkpoint(c);
    return size_t(c.used()) * sizeof(T);
  }

  void forward(ConstWeights const& w, Checkpoint const& c,
               Matrix<T const> memory,  // [memory tokens, memory width]
               Matrix<T> y) {           // [tokens, width], not x
    attend(w, c, memory, false);
    for_blocks(tokens(), block_, [&](int64_t i, int64_t n) {
      Matrix<T> const part = y.middle_rows(i, n);
      after_self(w, c, i, part);
      cross_.add_out(w.cross, i, part);
      half_.forward(w.feed_forward, part);
    });
  }

  /// `d`: dy comes in, dx goes out. g += the weights' and dmemory += the memory's gradient.
  void backward(ConstWeights const& w, Weights const& g, Checkpoint const& c,
                Matrix<T const> memory,  // [memory tokens, memory width]
                Matrix<T> d,             // [tokens, width]
                Matrix<T> dmemory) {     // [memory tokens, memory width]
    attend(w, c, memory, true);
    for_blocks(tokens(), block_, [&](int64_t i, int64_t n) {
      Matrix<T> const z = scratch(n), part = d.middle_rows(i, n);
      after_self(w, c, i, z);
      cross_.add_out(w.cross, i, z);
      half_.backward(w.feed_forward, g.feed_forward, z, part);
      cross_.out_backward(w.cross, g.cross, i, part);
    });
    cross_.attend_backward();
    for_blocks(memory_tokens(), block_, [&](int64_t j, int64_t n) {
      cross_.keys_backward(w.cross, g.cross, j, memory.middle_rows(j, n), dmemory.middle_rows(j, n));
    });
    for_blocks(tokens(), block_, [&](int64_t i, int64_t n) {
      Matrix<T> const h = scratch(n), part = d.middle_rows(i, n);
      after_self(w, c, i, h);
      cross_.queries_backward(w.cross, g.cross, i, h, part);
      self_.out_backward(w.self, g.self, i, part);
    });
    self_.attend_backward();
    self_.project_backward(w.self, g.self, c.x, d);
  }

 private:
  static Options const& agreed(typename Self::Communicator& comm, Options const& o) {
    detail::agree_on(comm, {{"layer: hidden", double(o.hidden)}});
    return o;
  }
  static typename CrossAttention::Options matching(Options const& o) {
    typename CrossAttention::Options cross = o.cross;
    if (cross.source_width == 0) cross.source_width = cross.width;
    cross.width = o.self.width;
    cross.block = o.self.block;
    return cross;
  }

  Matrix<T> scratch(int64_t n) { return {scratch_.data(), n, width_}; }

  void attend(ConstWeights const& w, Checkpoint const& c, Matrix<T const> memory, bool recompute) {
    self_.project(w.self, c.x);
    self_.attend(c.self, recompute);
    for_blocks(tokens(), block_, [&](int64_t i, int64_t n) {
      Matrix<T> const h = scratch(n);
      after_self(w, c, i, h);
      cross_.queries(w.cross, i, h);
    });
    for_blocks(memory_tokens(), block_,
               [&](int64_t j, int64_t n) { cross_.keys(w.cross, j, memory.middle_rows(j, n)); });
    cross_.attend(c.cross, recompute);
  }
  /// h = x + Self(norm x) of a block of tokens.
  void after_self(ConstWeights const& w, Checkpoint const& c, int64_t i, Matrix<T> h) {
    for (int64_t r = 0; r < h.rows; ++r) std::copy_n(c.x.row(i + r), width_, h.row(r));
    self_.add_out(w.self, i, h);
  }

  SelfAttention self_;
  CrossAttention cross_;
  int64_t width_, block_;
  Half half_;
  std::vector<T> scratch_;  // [block, width]
};

}  // namespace ringattn
