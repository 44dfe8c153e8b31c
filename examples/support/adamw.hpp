// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter 2019) over one flat buffer of parameters, and the learning rate's course.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace example {

/// A stretch of the flat buffer with its own weight decay.
struct ParameterGroup {
  std::int64_t begin, count;
  bool decay;
};

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-9, weight_decay = 0.1;
  double clip = 1;  ///< largest norm of the gradient; 0: any
};

template <class T> class AdamW {
 public:
  AdamW(std::vector<ParameterGroup> groups, std::int64_t count, AdamWOptions options = {})
      : o_(options), groups_(std::move(groups)), mean_(size_t(count)), square_(size_t(count)) {}

  std::size_t bytes() const { return (mean_.size() + square_.size()) * sizeof(T); }

  /// One step; the same bits on every rank, because the gradient is.
  void step(std::span<T> parameters, std::span<T const> gradient, double learning_rate) {
    ++steps_;
    double norm = 0;
    for (T g : gradient) norm += double(g) * double(g);
    norm = std::sqrt(norm);
    T const scale = T(o_.clip > 0 && norm > o_.clip ? o_.clip / norm : 1);
    T const b1 = T(o_.beta1), b2 = T(o_.beta2);
    T const rate = T(learning_rate / (1 - std::pow(o_.beta1, double(steps_))));
    T const unbias = T(1 / (1 - std::pow(o_.beta2, double(steps_)))), epsilon = T(o_.epsilon);
    for (ParameterGroup const& group : groups_) {
      T const keep = T(group.decay ? 1 - learning_rate * o_.weight_decay : 1);
      for (std::int64_t i = group.begin; i < group.begin + group.count; ++i) {
        T const g = scale * gradient[size_t(i)];
        T& m = mean_[size_t(i)];
        T& s = square_[size_t(i)];
        m = b1 * m + (T(1) - b1) * g;
        s = b2 * s + (T(1) - b2) * g * g;
        parameters[size_t(i)] = keep * parameters[size_t(i)] - rate * m / (std::sqrt(s * unbias) + epsilon);
      }
    }
  }

 private:
  AdamWOptions o_;
  std::vector<ParameterGroup> groups_;
  std::vector<T> mean_, square_;
  std::int64_t steps_ = 0;
};

/// Linear warm-up, then half a cosine down to a tenth. `progress`: share of the run that is done.
inline double learning_rate(double peak, std::int64_t step, std::int64_t warm_up, double progress) {
  double const rise = std::min(1.0, double(step + 1) / double(warm_up));
  double const fall = 0.1 + 0.9 * 0.5 * (1 + std::cos(3.141592653589793 * std::clamp(progress, 0.0, 1.0)));
  return peak * rise * fall;
}

}  // namespace example
