// SPDX-License-Identifier: Apache-2.0
// The smallest legal backend: row by row, pair by pair, no tiles. It shows what the contract asks for and checks the
// ring without the CPU backend's kernels.
#pragma once

#include <cstring>
#include <memory>
#include <ringattn/policy.hpp>
#include <ringattn/softmax.hpp>

namespace naive {

using namespace ringattn;

class Buffer {
 public:
  explicit Buffer(size_t bytes) : memory_(new (std::align_val_t(64)) std::byte[bytes + 1]) {}
  std::byte* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  std::unique_ptr<std::byte[], Free> memory_;
};

class Backend {
 public:
  using Space = HostSpace;
  static constexpr int arch = 0;

  Buffer allocate(size_t bytes) { return Buffer(bytes); }
  void synchronize() {}
  template <class T, class U> void copy(View<T, Space> const& from, View<U, Space> const& to) {
    each(from.extents, [&](int64_t b, int64_t s, int64_t h) {
      for (int64_t d = 0; d < from.extents.dim; ++d) to(b, s, h, d) = U(from(b, s, h, d));
    });
  }

  // State: o [b, h, q, value_dim], max, sum (backward: delta, dq [.., head_dim]) as Accumulators.
  template <class K> size_t attend_bytes(AttendShape const& s) {
    return size_t(rows(s) * (K::value_dim + 2)) * sizeof(typename K::Accumulator);
  }
  template <class K> size_t attend_backward_bytes(AttendShape const& s) {
    return size_t(rows(s) * (K::head_dim + 1)) * sizeof(typename K::Accumulator);
  }

  template <class K> void begin(AttendStep<K, Space> const& s) {
    using A = typename K::Accumulator;
    int64_t const n = s.q.extents.batch * s.q.extents.heads * s.q.extents.seq;
    State<A> const st(s.state, n);
    std::fill_n(st.max, n, softmax::minus_infinity<A>);
    std::fill_n(st.sum, n, A(0));
    std::fill_n(st.wide, n * K::value_dim, A(0));
  }
  template <class K> void step(AttendStep<K, Space> const& s) {
    using A = typename K::Accumulator;
    auto const e = s.q.extents;
    State<A> const st(s.state, e.batch * e.heads * e.seq);
    int64_t const group = e.heads / s.k.extents.heads;
    pairs(s, [&](int64_t b, int64_t h, int64_t i, int64_t gi, int64_t j, int64_t gj) {
      int64_t const row = (b * e.heads + h) * e.seq + i;
      A const score = value<K>(s, b, h, i, gi, j, gj) * A(softmax::log2_e);
      A const m = softmax::max(st.max[row], score), f = softmax::rescale(st.max[row], m), p = softmax::weight(score, m);
      st.sum[row] = st.sum[row] * f + p;
      st.max[row] = m;
      for (int64_t d = 0; d < K::value_dim; ++d) {
        A& o = st.wide[row * K::value_dim + d];
        o = o * f + p * A(s.v(b, j, h / group, d));
      }
    });
    s.progress();
  }
  template <class K> void finish(AttendStep<K, Space> const& s, AttendResult<K, Space> const& out) {
    using A = typename K::Accumulator;
    auto const e = s.q.extents;
    State<A> const st(s.state, e.batch * e.heads * e.seq);
    each(e, [&](int64_t b, int64_t i, int64_t h) {
      int64_t const row = (b * e.heads + h) * e.seq + i;
      for (int64_t d = 0; d < K::value_dim; ++d)
        out.out(b, i, h, d) = typename K::Element(st.wide[row * K::value_dim + d] * softmax::normaliser(st.sum[row]));
      if (out.lse) out.lse(b, i, h, 0) = softmax::lse(st.max[row], st.sum[row]);
    });
  }

  template <class K> void begin_backward(BackwardStep<K, Space> const& s) {
    using A = typename K::Accumulator;
    auto const e = s.q.extents;
    State<A> const st(s.state, e.batch * e.heads * e.seq, 1);
    std::fill_n(st.wide, e.count(), A(0));
    each(e, [&](int64_t b, int64_t i, int64_t h) {
      A x = 0;
      for (int64_t d = 0; d < K::value_dim; ++d) x += A(s.dout(b, i, h, d)) * A(s.out(b, i, h, d));
      st.max[(b * e.heads + h) * e.seq + i] = x;
    });
  }
  template <class K> void step_backward(BackwardStep<K, Space> const& s) {
    using A = typename K::Accumulator;
    auto const e = s.q.extents;
    State<A> const st(s.state, e.batch * e.heads * e.seq, 1);
    int64_t const group = e.heads / s.k.extents.heads;
    zero(s.dk);
    zero(s.dv);
    pairs(s, [&](int64_t b, int64_t h, int64_t i, int64_t gi, int64_t j, int64_t gj) {
      int64_t const row = (b * e.heads + h) * e.seq + i, g = h / group;
      A const x = value<K>(s, b, h, i, gi, j, gj, false), y = s.score.apply(x, h, gi, gj);
      A const p = softmax::weight(y * A(softmax::log2_e), A(s.lse(b, i, h, 0)) * A(softmax::log2_e));
      A dp = 0;
      for (int64_t d = 0; d < K::value_dim; ++d) {
        dp += A(s.dout(b, i, h, d)) * A(s.v(b, j, g, d));
        s.dv(b, j, g, d) += p * A(s.dout(b, i, h, d));
      }
      A const ds = p * (dp - st.max[row]) * s.score.slope(x, h, gi, gj) * s.scale;
      for (int64_t d = 0; d < K::head_dim; ++d) {
        st.wide[row * K::head_dim + d] += ds * A(s.k(b, j, g, d));
        s.dk(b, j, g, d) += ds * A(s.q(b, i, h, d));
      }
    });
    s.progress();
  }
  template <class K> void finish_backward(BackwardStep<K, Space> const& s, View<typename K::Element, Space> const& dq) {
    auto const e = s.q.extents;
    State<typename K::Accumulator> const st(s.state, e.batch * e.heads * e.seq, 1);
    each(e, [&](int64_t b, int64_t i, int64_t h) {
      for (int64_t d = 0; d < K::head_dim; ++d)
        dq(b, i, h, d) = typename K::Element(st.wide[((b * e.heads + h) * e.seq + i) * K::head_dim + d]);
    });
  }
  template <class A, class W> void accumulate(A const* mine, W const* arriving, W* sum, int64_t n) {
    for (int64_t i = 0; i < n; ++i) sum[i] = arriving ? W(mine[i] + A(arriving[i])) : W(mine[i]);
  }

 private:
  template <class A> struct State {
    A *max, *sum, *wide;
    State(std::byte* p, int64_t n, int64_t scalars = 2)
        : max(reinterpret_cast<A*>(p)), sum(max + n), wide(max + scalars * n) {}
  };
  static int64_t rows(AttendShape const& s) { return s.batch * s.heads * count_rows(s.q_rows); }
  template <class F> static void each(Extents const& e, F f) {
    for (int64_t b = 0; b < e.batch; ++b)
      for (int64_t s = 0; s < e.seq; ++s)
        for (int64_t h = 0; h < e.heads; ++h) f(b, s, h);
  }
  template <class T> static void zero(View<T, Space> const& v) {
    each(v.extents, [&](int64_t b, int64_t s, int64_t h) {
      for (int64_t d = 0; d < v.extents.dim; ++d) v(b, s, h, d) = 0;
    });
  }
  /// f(batch, head, q, global q, k, global k) for every visible pair, keys in order for each query.
  template <class S, class F> static void pairs(S const& s, F f) {
    int64_t i = 0;
    for (Rows const& q : s.q_rows)
      for (int64_t a = 0; a < q.count; ++a, ++i) {
        int64_t j = 0;
        for (Rows const& k : s.k_rows)
          for (int64_t c = 0; c < k.count; ++c, ++j)
            if (s.mask.visible(q.at(a), k.at(c)))
              for (int64_t b = 0; b < s.q.extents.batch; ++b)
                for (int64_t h = 0; h < s.q.extents.heads; ++h) f(b, h, i, q.at(a), j, k.at(c));
      }
  }
  template <class K, class S>
  static typename K::Accumulator value(S const& s, int64_t b, int64_t h, int64_t i, int64_t gi, int64_t j, int64_t gj,
                                       bool apply = true) {
    using A = typename K::Accumulator;
    int64_t const g = h / (s.q.extents.heads / s.k.extents.heads);
    A x = 0;
    for (int64_t d = 0; d < K::head_dim; ++d) x += A(s.q(b, i, h, d)) * A(s.k(b, j, g, d));
    x *= s.scale;
    return apply ? s.score.apply(x, h, gi, gj) : x;
  }
};

static_assert(DeviceBackend<Backend>);

}  // namespace naive
