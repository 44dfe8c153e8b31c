// SPDX-License-Identifier: Apache-2.0
// A decoder over bytes, sharded along the sequence: embedding, layers, norm, head. Weights are replicated.
#pragma once

#include <ringattn/cpu/backend.hpp>
#include <ringattn/transformer/cross_entropy.hpp>
#include <ringattn/transformer/layer.hpp>

#include <cmath>
#include <span>
#include <string_view>
#include <vector>

#include "adamw.hpp"
#include "random.hpp"

namespace example {

using ringattn::Matrix;
using ringattn::Rows;
using std::int64_t;

template <class Precision_, class Communicator_, int head_dim_> struct DecoderPolicy : ringattn::Policy {
  using Precision = Precision_;
  using Communicator = Communicator_;
  using Mask = ringattn::Causal;
  using Shard = ringattn::ZigZag;
  static constexpr int head_dim = head_dim_;
};

struct ModelShape {
  int64_t batch = 1, seq = 2048, layers = 4, width = 128, heads = 4, kv_heads = 2, hidden = 344;
  int64_t block = 64;  ///< tokens at a time in everything but attention
  bool tied = false;   ///< the head is the embedding
  bool keep_attention = false;
  bool zero_attention = false;  ///< ablation: the attention's output is zero and stays so
};

template <class P> class LanguageModel {
 public:
  using T = typename P::Precision::Element;
  using Layer = ringattn::Layer<P>;
  static constexpr int64_t vocabulary = 256;

  /// Collective.
  LanguageModel(typename P::Backend& backend, typename P::Communicator& comm, ModelShape const& s)
      : s_(s),
        layer_(backend, comm, layer_options(s)),
        head_({.vocabulary = vocabulary, .token_block = block(), .vocabulary_block = vocabulary}) {
    ringattn::Carver<T> count;
    lay_out(count, weights_);
    parameters_.resize(size_t(count.used()));
    gradient_.resize(size_t(count.used()));
    ringattn::Carver<T> w(parameters_.data()), g(gradient_.data());
    lay_out(w, weights_);
    lay_out(g, gradients_);

    ringattn::Carver<T> needed;
    keep(needed);
    activations_.resize(size_t(needed.used()));
    ringattn::Carver<T> kept(activations_.data());
    keep(kept);
    inputs_.resize(size_t(tokens()));
    targets_.resize(size_t(tokens()));
  }

  int64_t tokens() const { return layer_.tokens(); }  ///< of a step, on this rank
  std::span<T> parameters() { return parameters_; }
  std::span<T> gradient() { return gradient_; }
  ringattn::Timings const& timings() const { return layer_.ring().timings(); }
  /// What grows with the shard: the layers' inputs, the stream and its gradient, workspaces, this rank's tokens.
  size_t activation_bytes() const {
    return activations_.size() * sizeof(T) + layer_.workspace_bytes() + head_.workspace_bytes() +
           (inputs_.size() + targets_.size()) * sizeof(std::int32_t);
  }
  size_t weight_bytes() const { return (parameters_.size() + gradient_.size()) * sizeof(T); }

  /// The stretches of the flat buffer, for the optimiser: matrices decay; norms and the embedding do not.
  std::vector<ParameterGroup> groups() const {
    std::vector<ParameterGroup> all;
    each(weights_, [&](Matrix<T> m, double, bool decay) {
      all.push_back({m.data - parameters_.data(), m.rows * m.cols, decay});
    });
    return all;
  }

  /// The same weights on every rank and for every number of ranks.
  void initialise(std::uint64_t seed) {
    each(weights_, [&](Matrix<T> m, double deviation, bool) {
      int64_t const begin = m.data - parameters_.data();
      for (int64_t i = 0; i < m.rows * m.cols; ++i)
        m.data[i] = T(deviation == 0 ? 1 : deviation * random_normal(seed, std::uint64_t(begin + i)));
    });
    if (s_.zero_attention) clear_attention(weights_);
  }

  /// This rank's part of windows of seq + 1 bytes, one per batch entry.
  void load(std::span<std::string_view const> windows) {
    size_t t = 0;
    for (std::string_view const window : windows)
      for (Rows const& run : layer_.ring().rows())
        for (int64_t i = 0; i < run.count; ++i, ++t) {
          inputs_[t] = static_cast<unsigned char>(window[size_t(run.at(i))]);
          targets_[t] = static_cast<unsigned char>(window[size_t(run.at(i) + 1)]);
        }
  }

  /// This rank's sum of the loss, nats. Collective.
  double forward() {
    run_layers();
    double sum = 0;
    ringattn::for_blocks(tokens(), block(), [&](int64_t i, int64_t n) { sum += loss(i, n).sum; });
    return sum;
  }

  /// As forward; adds up this rank's gradient of the mean over all ranks' tokens. Collective.
  double forward_backward() {
    std::fill(gradient_.begin(), gradient_.end(), T(0));
    run_layers();
    T const scale = T(1.0 / double(s_.batch * s_.seq));
    double sum = 0;
    ringattn::for_blocks(tokens(), block(), [&](int64_t i, int64_t n) {
      sum += loss(i, n).sum;
      Matrix<T> const normed = normed_.middle_rows(0, n), dnormed = dnormed_.middle_rows(0, n);
      Matrix<T> const d = d_.middle_rows(i, n);
      head_.backward(normed, weights_.head, targets(i, n), lse(n), scale, dnormed, gradients_.head);
      for (int64_t r = 0; r < n; ++r) std::fill_n(d.row(r), s_.width, T(0));
      rms_norm_backward(stream_.middle_rows(i, n), weights_.norm, epsilon, dnormed, d, gradients_.norm);
    });
    for (size_t l = weights_.layers.size(); l-- > 0;)
      layer_.backward(weights_.layers[l], gradients_.layers[l], checkpoints_[l], d_);
    for (int64_t t = 0; t < tokens(); ++t) {
      T* const row = gradients_.embedding.row(inputs_[size_t(t)]);
      for (int64_t j = 0; j < s_.width; ++j) row[j] += d_(t, j);
    }
    if (s_.zero_attention) clear_attention(gradients_);
    return sum;
  }

 private:
  static constexpr double epsilon = 1e-5;

  struct Weights {
    Matrix<T> embedding;  // [vocabulary, width]
    std::vector<ringattn::LayerWeights<T>> layers;
    Matrix<T> norm;  // [1, width]
    Matrix<T> head;  // [vocabulary, width]
  };

  static typename Layer::Options layer_options(ModelShape const& s) {
    return {
        .attention = {.ring = {.problem = {.batch = s.batch, .seq = s.seq, .heads = s.heads, .kv_heads = s.kv_heads}},
                      .width = s.width,
                      .rope_base = 10000,
                      .epsilon = epsilon,
                      .block = s.block,
                      .keep = s.keep_attention},
        .hidden = s.hidden};
  }
  int64_t block() const { return std::clamp<int64_t>(layer_.tokens(), 1, s_.block); }

  void lay_out(ringattn::Carver<T>& c, Weights& w) const {
    w.embedding = c.take(vocabulary, s_.width);
    w.layers.clear();
    for (int64_t l = 0; l < s_.layers; ++l) w.layers.push_back(Layer::weights(c, layer_options(s_)));
    w.norm = c.take(1, s_.width);
    w.head = s_.tied ? w.embedding : c.take(vocabulary, s_.width);
  }

  /// f(matrix, standard deviation of its start (0: all ones), does it decay).
  template <class F> void each(Weights const& w, F f) const {
    double const in = 1 / std::sqrt(double(s_.width)), hidden = 1 / std::sqrt(double(s_.hidden));
    double const residual = 1 / std::sqrt(2.0 * double(s_.layers));  // the stream's variance stays bounded with depth
    f(w.embedding, s_.tied ? in : 0.5, false);
    for (auto const& l : w.layers) {
      f(l.attention.norm, 0, false);
      f(l.attention.query, in, true);
      f(l.attention.key, in, true);
      f(l.attention.value, in, true);
      f(l.attention.out, in * residual, true);
      f(l.feed_forward.norm, 0, false);
      f(l.feed_forward.ffn.up, in, true);
      f(l.feed_forward.ffn.down, hidden * residual, true);
    }
    f(w.norm, 0, false);
    if (!s_.tied) f(w.head, 0.2 * in, true);
  }
  static void clear_attention(Weights const& w) {
    for (auto const& l : w.layers) std::fill_n(l.attention.out.data, l.attention.out.rows * l.attention.out.cols, T(0));
  }

  void keep(ringattn::Carver<T>& c) {
    checkpoints_.clear();
    for (int64_t l = 0; l < s_.layers; ++l) checkpoints_.push_back(layer_.checkpoint(c));
    stream_ = c.take(tokens(), s_.width);
    d_ = c.take(tokens(), s_.width);
    normed_ = c.take(block(), s_.width);
    dnormed_ = c.take(block(), s_.width);
    lse_ = c.take(1, block());
  }

  void run_layers() {
    Matrix<T> const first = checkpoints_.empty() ? stream_ : checkpoints_[0].x;
    for (int64_t t = 0; t < tokens(); ++t)
      std::copy_n(weights_.embedding.row(inputs_[size_t(t)]), s_.width, first.row(t));
    for (size_t l = 0; l < checkpoints_.size(); ++l)
      layer_.forward(weights_.layers[l], checkpoints_[l],
                     l + 1 < checkpoints_.size() ? checkpoints_[l + 1].x : stream_);
  }
  /// Leaves the block's last norm in normed_ and its logsumexp in lse_.
  typename ringattn::CrossEntropy<T>::Loss loss(int64_t i, int64_t n) {
    rms_norm(stream_.middle_rows(i, n), weights_.norm, epsilon, normed_.middle_rows(0, n));
    return head_.forward(normed_.middle_rows(0, n), weights_.head, targets(i, n), lse(n));
  }
  std::span<std::int32_t const> targets(int64_t i, int64_t n) const {
    return std::span<std::int32_t const>(targets_).subspan(size_t(i), size_t(n));
  }
  std::span<T> lse(int64_t n) const { return {lse_.data, size_t(n)}; }

  ModelShape s_;
  Layer layer_;
  ringattn::CrossEntropy<T> head_;
  std::vector<T> parameters_, gradient_;  // flat
  Weights weights_, gradients_;           // views of them
  std::vector<T> activations_;
  std::vector<typename Layer::Checkpoint> checkpoints_;  // [layers]
  Matrix<T> stream_, d_;                                 // [tokens, width]: the layers' output; the gradient
  Matrix<T> normed_, dnormed_;                           // [block, width]
  Matrix<T> lse_;                                        // [1, block]
  std::vector<std::int32_t> inputs_, targets_;           // [tokens]
};

}  // namespace example
