// SPDX-License-Identifier: Apache-2.0
// One rank's part of training: windows of the text, gradients summed over the ring, the optimiser.
#pragma once

#include <ringattn/ring/all_reduce.hpp>

#include "corpus.hpp"
#include "language_model.hpp"

namespace example {

struct TrainOptions {
  std::uint64_t seed = 1;
  double peak_rate = 5e-3;
  int64_t warm_up = 20;  ///< steps
  AdamWOptions adamw;
};

/// All ranks make the same calls. Windows, weights and losses do not depend on the number of ranks but for rounding;
/// for a given number they are the same bits from run to run.
template <class P> class Trainer {
 public:
  using T = typename P::Precision::Element;

  Trainer(typename P::Backend& backend, typename P::Communicator& comm, ModelShape const& shape, TrainOptions const& o)
      : shape_(shape),
        o_(o),
        model_(backend, comm, shape),
        adamw_(model_.groups(), int64_t(model_.parameters().size()), o.adamw),
        sum_gradients_(comm, int64_t(model_.parameters().size())),
        sum_loss_(comm, 1),
        windows_(size_t(shape.batch)) {
    model_.initialise(o.seed);
  }

  LanguageModel<P>& model() { return model_; }
  /// Weights, their gradient, the optimiser's state, the all-reduce's scratch.
  size_t parameter_bytes() const { return model_.weight_bytes() + adamw_.bytes() + sum_gradients_.workspace_bytes(); }

  /// One step on random windows of `text`; returns their loss in bits per byte. `progress`: share of the run done.
  double step(std::string_view text, double progress) {
    std::uint64_t const places = text.size() - size_t(shape_.seq);
    for (size_t b = 0; b < windows_.size(); ++b) {
      auto const counter = std::uint64_t(step_) * windows_.size() + b;
      windows_[b] = text.substr(random_bits(o_.seed ^ 0x77696e646f7773u, counter) % places, size_t(shape_.seq) + 1);
    }
    model_.load(windows_);
    double const loss = mean_bits(model_.forward_backward());
    sum_gradients_(model_.gradient());
    adamw_.step(model_.parameters(), model_.gradient(), learning_rate(o_.peak_rate, step_, o_.warm_up, progress));
    ++step_;
    return loss;
  }

  /// Bits per byte of `count` batches of windows spread evenly over `text`.
  double evaluate(std::string_view text, int64_t count) {
    int64_t const all = count * shape_.batch, places = int64_t(text.size()) - shape_.seq;
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t b = 0; b < shape_.batch; ++b)
        windows_[size_t(b)] = text.substr(size_t((places - 1) * (i * shape_.batch + b) / std::max<int64_t>(1, all - 1)),
                                          size_t(shape_.seq) + 1);
      model_.load(windows_);
      sum += mean_bits(model_.forward());
    }
    return sum / double(count);
  }

 private:
  /// Of all ranks' tokens, from this rank's sum in nats.
  double mean_bits(double nats) {
    sum_loss_(std::span(&nats, 1));
    return nats / double(shape_.batch * shape_.seq) / 0.6931471805599453;
  }

  ModelShape shape_;
  TrainOptions o_;
  LanguageModel<P> model_;
  AdamW<T> adamw_;
  ringattn::AllReduce<T, typename P::Communicator> sum_gradients_;
  ringattn::AllReduce<double, typename P::Communicator> sum_loss_;
  std::vector<std::string_view> windows_;
  int64_t step_ = 0;
};

}  // namespace example
