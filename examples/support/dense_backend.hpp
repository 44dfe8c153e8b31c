// SPDX-License-Identifier: Apache-2.0
// Attention as it was before it was blockwise: a backend that keeps all scores and all probabilities in memory. For
// comparison, on a ring of one.
#pragma once

#include <cmath>
#include <limits>
#include <ringattn/policy.hpp>
#include <ringattn/transformer/gemm.hpp>
#include <type_traits>

#include "limited_memory.hpp"

namespace example {

using ringattn::Matrix;
using ringattn::Op;
using ringattn::View;

class DenseBackend {
 public:
  using Space = ringattn::HostSpace;
  static constexpr int arch = 0;

  explicit DenseBackend(std::pmr::memory_resource& memory) : memory_(memory) {}

  Bytes allocate(size_t bytes) {
    try {
      return Bytes(memory_, bytes);
    } catch (std::bad_alloc const&) {
      throw ringattn::Error(ringattn::ErrorCode::out_of_memory, -1, "allocate", std::to_string(bytes) + " bytes", "");
    }
  }
  void synchronize() {}
  template <class T, class U> void copy(View<T> const& from, View<U> const& to) {
    auto const e = from.extents;
    for (int64_t b = 0; b < e.batch; ++b)
      for (int64_t s = 0; s < e.seq; ++s)
        for (int64_t h = 0; h < e.heads; ++h)
          for (int64_t d = 0; d < e.dim; ++d) to(b, s, h, d) = U(from(b, s, h, d));
  }

  /// Two matrices [q rows, key rows] for every head: N^2.
  template <class K> size_t attend_bytes(ringattn::AttendShape const& s) {
    return size_t(2 * s.batch * s.heads * count_rows(s.q_rows) * s.kv_count) * sizeof(typename K::Accumulator);
  }
  template <class K> size_t attend_backward_bytes(ringattn::AttendShape const& s) { return attend_bytes<K>(s); }

  template <class K> void begin(ringattn::AttendStep<K, Space> const&) {}
  template <class K> void step(ringattn::AttendStep<K, Space> const& s) {
    heads(s, [&](int64_t b, int64_t h, int64_t g, auto scores, auto) { score<K>(s, b, h, g, scores); });
  }
  template <class K>
  void finish(ringattn::AttendStep<K, Space> const& s, ringattn::AttendResult<K, Space> const& result) {
    using A = typename K::Accumulator;
    heads(s, [&](int64_t b, int64_t h, int64_t g, auto scores, auto probabilities) {
      for (int64_t i = 0; i < scores.rows; ++i) {
        A const* const x = scores.row(i);
        A* const p = probabilities.row(i);
        A const most = *std::max_element(x, x + scores.cols);
        A sum = 0;
        for (int64_t j = 0; j < scores.cols; ++j) sum += p[j] = most == -infinity<A> ? A(0) : std::exp(x[j] - most);
        for (int64_t j = 0; j < scores.cols; ++j) p[j] /= sum > 0 ? sum : A(1);
        if (result.lse) result.lse(b, i, h, 0) = most + std::log(sum);
      }
      gemm_(Op::plain, probabilities, Op::plain, head(s.v, b, g), A(0), head(result.out, b, h));
    });
  }

  template <class K> void begin_backward(ringattn::BackwardStep<K, Space> const&) {}
  template <class K> void step_backward(ringattn::BackwardStep<K, Space> const& s) {
    using A = typename K::Accumulator;
    heads(s, [&](int64_t b, int64_t h, int64_t g, auto scores, auto probabilities) {
      A const beta = h % (s.q.extents.heads / s.k.extents.heads) == 0 ? A(0) : A(1);  // heads of a group add up
      score<K>(s, b, h, g, scores);
      for (int64_t i = 0; i < scores.rows; ++i)
        for (int64_t j = 0; j < scores.cols; ++j)
          probabilities(i, j) = scores(i, j) == -infinity<A> ? A(0) : std::exp(scores(i, j) - s.lse(b, i, h, 0));
      gemm_(Op::transposed, probabilities, Op::plain, head(s.dout, b, h), beta, head(s.dv, b, g));
      gemm_(Op::plain, head(s.dout, b, h), Op::transposed, head(s.v, b, g), A(0), scores);  // dP
      for (int64_t i = 0; i < scores.rows; ++i) {
        A row = 0;
        for (int64_t d = 0; d < s.out.extents.dim; ++d) row += s.out(b, i, h, d) * s.dout(b, i, h, d);
        for (int64_t j = 0; j < scores.cols; ++j) scores(i, j) = probabilities(i, j) * (scores(i, j) - row) * s.scale;
      }
      gemm_(Op::transposed, scores, Op::plain, head(s.q, b, h), beta, head(s.dk, b, g));
    });
  }
  template <class K>
  void finish_backward(ringattn::BackwardStep<K, Space> const& s, View<typename K::Element> const& dq) {
    using A = typename K::Accumulator;
    heads(s, [&](int64_t b, int64_t h, int64_t g, auto dscores, auto) {
      gemm_(Op::plain, dscores, Op::plain, head(s.k, b, g), A(0), head(dq, b, h));
    });
  }
  template <class A, class W> void accumulate(A const* mine, W const* arriving, W* sum, int64_t n) {
    for (int64_t i = 0; i < n; ++i) sum[i] = arriving ? W(mine[i] + A(arriving[i])) : W(mine[i]);
  }

 private:
  template <class A> static constexpr A infinity = std::numeric_limits<A>::infinity();

  /// One head's rows as a matrix.
  template <class T> static Matrix<T> head(View<T> const& t, int64_t b, int64_t h) {
    return {t.row(b, 0, h), t.extents.seq, t.extents.dim, t.stride[1]};
  }
  /// f(batch, head, key head, scores, probabilities).
  template <class S, class F> static void heads(S const& s, F f) {
    using A = std::remove_const_t<decltype(s.scale)>;
    int64_t const rows = s.q.extents.seq, cols = s.k.extents.seq, heads = s.q.extents.heads;
    A* p = reinterpret_cast<A*>(s.state);
    for (int64_t b = 0; b < s.q.extents.batch; ++b)
      for (int64_t h = 0; h < heads; ++h, p += 2 * rows * cols)
        f(b, h, h / (heads / s.k.extents.heads), Matrix<A>(p, rows, cols), Matrix<A>(p + rows * cols, rows, cols));
  }
  template <class K>
  void score(ringattn::AttendStep<K, Space> const& s, int64_t b, int64_t h, int64_t g,
             Matrix<typename K::Accumulator> scores) {
    using A = typename K::Accumulator;
    gemm_(Op::plain, head(s.q, b, h), Op::transposed, head(s.k, b, g), A(0), scores);
    int64_t i = 0;
    for (auto const& q : s.q_rows)
      for (int64_t a = 0; a < q.count; ++a, ++i) {
        int64_t j = 0;
        for (auto const& k : s.k_rows)
          for (int64_t c = 0; c < k.count; ++c, ++j)
            scores(i, j) = s.mask.visible(q.at(a), k.at(c)) ? scores(i, j) * s.scale : -infinity<A>;
      }
  }

  std::pmr::memory_resource& memory_;
  [[no_unique_address]] ringattn::DefaultGemm gemm_;
};

}  // namespace example
