// SPDX-License-Identifier: Apache-2.0
// Head and cross-entropy, block by block over tokens and vocabulary: the logits never exist whole.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "exp.hpp"
#include "gemm.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Sum over tokens of logsumexp(logits) - logits[target], with logits = x W^T. Natural logarithm.
///
/// The logsumexp is continued from one block of the vocabulary to the next, as attention does with keys; `backward`
/// recomputes the logits. Calls allocate nothing; one thread at a time per object.
template <Real T, class G = DefaultGemm> class CrossEntropy {
  static_assert(Gemm<G, T>, "ringattn: CrossEntropy's matrix product needs g(op, a, op, b, beta, c)");

 public:
  struct Options {
    int64_t vocabulary = 0;
    int64_t token_block = 128, vocabulary_block = 1024;
    std::int32_t ignore = -1;  ///< targets with this value count for nothing
  };
  struct Loss {
    double sum = 0;      ///< nats
    int64_t tokens = 0;  ///< that were not ignored
  };

  /// Throws Error{invalid_argument} if a size is not positive.
  explicit CrossEntropy(Options o) : o_(o) {
    detail::check_at_least(o.vocabulary, 1, "cross-entropy: vocabulary");
    detail::check_at_least(o.token_block, 1, "cross-entropy: token_block");
    detail::check_at_least(o.vocabulary_block, 1, "cross-entropy: vocabulary_block");
    o_.vocabulary_block = std::min(o.vocabulary_block, o.vocabulary);
    logits_.resize(size_t(o_.token_block * o_.vocabulary_block));
    state_.resize(size_t(3 * o_.token_block));
  }

  size_t workspace_bytes() const { return (logits_.size() + state_.size()) * sizeof(T); }

  /// Returns the loss and writes every token's logsumexp (of ignored tokens, too) for backward.
  /// Throws Error{invalid_argument} for a target outside the vocabulary.
  Loss forward(Matrix<T const> x,                      // [tokens, width]
               Matrix<T const> w,                      // [vocabulary, width]
               std::span<std::int32_t const> targets,  // [tokens]
               std::span<T> lse) {                     // [tokens]
    check(x, w, targets, lse.size());
    Loss loss;
    for_blocks(x.rows, o_.token_block, [&](int64_t i, int64_t n) {
      T *const max = state_.data(), *const sum = max + o_.token_block, *const hit = sum + o_.token_block;
      std::fill_n(max, n, -std::numeric_limits<T>::infinity());
      std::fill_n(sum, n, T(0));
      std::fill_n(hit, n, T(0));
      for_blocks(o_.vocabulary, o_.vocabulary_block, [&](int64_t v, int64_t m) {
        Matrix<T> const l = logits(x.middle_rows(i, n), w.middle_rows(v, m));
        for (int64_t r = 0; r < n; ++r) {
          resume(l.row(r), m, max[r], sum[r]);
          int64_t const column = targets[size_t(i + r)] - v;
          if (column >= 0 && column < m && targets[size_t(i + r)] != o_.ignore) hit[r] = l(r, column);
        }
      });
      for (int64_t r = 0; r < n; ++r) {
        lse[size_t(i + r)] = max[r] + std::log(sum[r]);
        if (targets[size_t(i + r)] == o_.ignore) continue;
        loss.sum += double(lse[size_t(i + r)]) - double(hit[r]);
        ++loss.tokens;
      }
    });
    return loss;
  }

  /// dx = and dw += the gradients of `scale` times the loss; scale = 1 / tokens makes it the mean.
  void backward(Matrix<T const> x, Matrix<T const> w, std::span<std::int32_t const> targets, std::span<T const> lse,
                T scale,         //
                Matrix<T> dx,    // [tokens, width]
                Matrix<T> dw) {  // [vocabulary, width]
    check(x, w, targets, lse.size());
    for_blocks(x.rows, o_.token_block, [&](int64_t i, int64_t n) {
      Matrix<T const> const in = x.middle_rows(i, n);
      for_blocks(o_.vocabulary, o_.vocabulary_block, [&](int64_t v, int64_t m) {
        Matrix<T const> const part = w.middle_rows(v, m);
        Matrix<T> const l = logits(in, part);
        for (int64_t r = 0; r < n; ++r) slope(l.row(r), m, targets[size_t(i + r)], v, lse[size_t(i + r)], scale);
        gemm_(Op::plain, l, Op::plain, part, T(v == 0 ? 0 : 1), dx.middle_rows(i, n));
        gemm_(Op::transposed, l, Op::plain, in, T(1), dw.middle_rows(v, m));
      });
    });
  }

 private:
  Matrix<T> logits(Matrix<T const> x, Matrix<T const> w) {
    Matrix<T> const l(logits_.data(), x.rows, w.rows);
    gemm_(Op::plain, x, Op::transposed, w, T(0), l);
    return l;
  }

  /// Continues (max, sum) with m logits. A NaN logit makes the sum NaN, as a dense computation would.
  static void resume(T const* l, int64_t m, T& max, T& sum) {
    T next = max;
    for (int64_t j = 0; j < m; ++j) next = l[j] > next ? l[j] : next;
    T const shift = next == -std::numeric_limits<T>::infinity() ? T(0) : next;  // -inf - -inf would be NaN
    T part[16] = {};
    int64_t j = 0;
    for (; j + 16 <= m; j += 16)
      for (int lane = 0; lane < 16; ++lane) part[lane] += detail::vector_exp(l[j + lane] - shift);
    for (int lane = 0; j + lane < m; ++lane) part[lane] += detail::vector_exp(l[j + lane] - shift);
    T added = 0;
    for (T p : part) added += p;
    sum = (sum == T(0) ? T(0) : sum * std::exp(max - next)) + added;
    max = next;
  }

  /// Replaces logits by scale (softmax - one-hot).
  void slope(T* l, int64_t m, std::int32_t target, int64_t first, T lse, T scale) const {
    if (target == o_.ignore) {
      std::fill_n(l, m, T(0));
      return;
    }
    for (int64_t j = 0; j < m; ++j) l[j] = scale * detail::vector_exp(l[j] - lse);
    int64_t const column = target - first;
    if (column >= 0 && column < m) l[column] -= scale;
  }

  void check(Matrix<T const> x, Matrix<T const> w, std::span<std::int32_t const> targets, size_t lse) const {
    auto const fail = [](char const* argument, std::string expected, int64_t actual) {
      throw Error(ErrorCode::invalid_argument, -1, argument, std::move(expected), std::to_string(actual));
    };
    if (int64_t(targets.size()) != x.rows) fail("targets", std::to_string(x.rows) + " tokens", int64_t(targets.size()));
    if (int64_t(lse) != x.rows) fail("lse", std::to_string(x.rows) + " tokens", int64_t(lse));
    if (w.rows != o_.vocabulary) fail("w", std::to_string(o_.vocabulary) + " rows", w.rows);
    if (w.cols != x.cols) fail("w", std::to_string(x.cols) + " columns", w.cols);
    for (std::int32_t t : targets)
      if (t != o_.ignore && (t < 0 || t >= o_.vocabulary))
        fail("targets", "0 .. " + std::to_string(o_.vocabulary - 1) + " or " + std::to_string(o_.ignore), t);
  }

  Options o_;
  [[no_unique_address]] G gemm_;
  std::vector<T> logits_;  // [token_block, vocabulary_block]
  std::vector<T> state_;   // max, sum, hit: [token_block] each
};

}  // namespace ringattn
