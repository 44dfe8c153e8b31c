// SPDX-License-Identifier: Apache-2.0
// Runs the backend Cpu by itself, step by step, and the dense oracle beside it.
#pragma once

#include <ringattn/cpu/backend.hpp>
#include <ringattn/policy.hpp>

#include <doctest/doctest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "inputs.hpp"
#include "reference.hpp"

namespace ringattn::test {

/// A tensor in one of several memory layouts.
template <class T> class Strided {
 public:
  Strided() = default;
  Strided(Extents e, int layout) {
    int64_t const s = e.seq, h = e.heads, d = e.dim;
    std::array<int64_t, 4> stride{s * h * d, h * d, d, 1};                                         // [b, s, h, d]
    if (layout == 1) stride = {h * s * d, d, s * d, 1};                                            // [b, h, s, d]
    if (layout == 2) stride = {d * s * h, 1, s, s * h};                                            // [b, d, h, s]
    if (layout == 3) stride = {2 * s * (h + 1) * (d + 3), 2 * (h + 1) * (d + 3), 2 * (d + 3), 2};  // padded everywhere
    values_.resize(size_t(e.batch * std::max(stride[0], int64_t(1)) + 1), T(-77.f));
    view_ = {nullptr, e, stride};
  }
  View<T> view() {
    view_.data = values_.data();
    return view_;
  }
  View<T const> view() const {
    View<T const> v(view_);
    v.data = values_.data();
    return v;
  }
  /// Dense [batch, seq, heads, dim].
  template <class R> void set(std::vector<R> const& dense) {
    size_t i = 0;
    each([&](T& x) { x = cpu::convert<T>(dense[i++]); });
  }
  template <class R = T> std::vector<R> get() const {
    std::vector<R> dense;
    const_cast<Strided*>(this)->each([&](T& x) { dense.push_back(cpu::convert<R>(x)); });
    return dense;
  }

 private:
  template <class F> void each(F f) {
    auto const v = view();
    auto const e = v.extents;
    for (int64_t b = 0; b < e.batch; ++b)
      for (int64_t s = 0; s < e.seq; ++s)
        for (int64_t h = 0; h < e.heads; ++h)
          for (int64_t d = 0; d < e.dim; ++d) f(v(b, s, h, d));
  }

  std::vector<T> values_;
  View<T> view_;
};

/// The oracle counts rows from 0; these tell it where the rows are.
template <class Mask> struct MaskAt {
  Mask mask;
  std::vector<int64_t> const *q, *k;
  bool visible(int64_t i, int64_t j) const { return mask.visible((*q)[size_t(i)], (*k)[size_t(j)]); }
};
template <class Score> struct ScoreAt {
  Score score;
  std::vector<int64_t> const *q, *k;
  template <class A> A apply(A x, int64_t h, int64_t i, int64_t j) const {
    return score.apply(x, h, (*q)[size_t(i)], (*k)[size_t(j)]);
  }
  template <class A> A slope(A x, int64_t h, int64_t i, int64_t j) const {
    return score.slope(x, h, (*q)[size_t(i)], (*k)[size_t(j)]);
  }
};

inline std::vector<int64_t> positions_of(std::vector<Rows> const& runs) {
  std::vector<int64_t> at;
  for (Rows const& r : runs)
    for (int64_t i = 0; i < r.count; ++i) at.push_back(r.at(i));
  return at;
}

/// tanh(x / 3) * 3, and a bias by head and distance.
struct Soft {
  static constexpr bool identity = false;
  template <class A> A apply(A x, int64_t h, int64_t q, int64_t k) const {
    return A(3) * std::tanh(x / A(3)) - A(0.01) * A(h + 1) * A(q > k ? q - k : k - q);
  }
  template <class A> A slope(A x, int64_t, int64_t, int64_t) const {
    A const t = std::tanh(x / A(3));
    return A(1) - t * t;
  }
  std::uint64_t fingerprint() const { return fingerprint_of("soft"); }
};

template <class E> struct Outputs {
  std::vector<E> out, dq;
  std::vector<double> lse, dk, dv;  // accumulators, widened without loss

  bool operator==(Outputs const& o) const {
    auto const same = [](auto const& x, auto const& y) {
      return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof x[0]) == 0);
    };
    return same(out, o.out) && same(dq, o.dq) && same(lse, o.lse) && same(dk, o.dk) && same(dv, o.dv);
  }
};

/// One attention, as a backend sees it: some query runs, and key runs that come in one or several steps.
template <class K> struct Case {
  using E = typename K::Element;
  using A = typename K::Accumulator;
  using Real = std::conditional_t<std::is_same_v<E, double>, long double, double>;

  int64_t batch = 1, heads = 1, kv_heads = 1;
  std::vector<Rows> q_rows{}, k_rows{};
  typename K::Mask mask{};
  typename K::Score score{};
  int layout = 0;
  DenseInputs<Real> in{};

  int64_t q_count() const { return count_rows(q_rows); }
  int64_t k_count() const { return count_rows(k_rows); }
  Problem problem() const {
    return {.batch = batch, .seq = q_count(), .kv_seq = k_count(), .heads = heads, .kv_heads = kv_heads};
  }
  void fill(std::uint64_t seed, InputClass kind = InputClass::normal, double spread = 300) {
    in = make_inputs<Real>(kind, problem(), K::head_dim, K::value_dim, seed, spread,
                           [](auto x) { return Real(cpu::convert<A>(cpu::convert<E>(A(x)))); });
  }
  DenseResults<Real> oracle() const {
    auto const q = positions_of(q_rows), k = positions_of(k_rows);
    return dense_attention<Real>(problem(), K::head_dim, K::value_dim, MaskAt<typename K::Mask>{mask, &q, &k},
                                 ScoreAt<typename K::Score>{score, &q, &k}, 0, in);
  }
  AttendShape shape() const {
    return {.batch = batch,
            .heads = heads,
            .kv_heads = kv_heads,
            .q_rows = q_rows,
            .kv_count = k_count(),
            .kv_runs = int64_t(k_rows.size())};
  }

  /// `runs_per_step`: how many key runs each step brings; empty: all at once. `observe` is called around the steps.
  template <class Observe>
  Outputs<E> run(Cpu& cpu, std::vector<int> runs_per_step, Progress progress, Observe observe) const {
    if (runs_per_step.empty()) runs_per_step = {int(k_rows.size())};
    Extents const qe{batch, q_count(), heads, K::head_dim}, ke{batch, k_count(), kv_heads, K::head_dim},
        ve{batch, k_count(), kv_heads, K::value_dim}, oe{batch, q_count(), heads, K::value_dim};
    Strided<E> q(qe, layout), k(ke, layout), v(ve, layout), out(oe, layout), dout(oe, layout), dq(qe, layout);
    Strided<A> lse({batch, q_count(), heads, 1}, layout), dk(ke, 1), dv(ve, 1);
    q.set(in.q);
    k.set(in.k);
    v.set(in.v);
    dout.set(in.dout);

    BackwardStep<K, HostSpace> s;
    s.q = std::as_const(q).view();
    s.q_rows = q_rows;
    s.mask = mask;
    s.score = score;
    s.scale = A(1 / std::sqrt(double(K::head_dim)));
    s.progress = progress;
    auto const steps = [&](auto f) {
      int64_t row = 0;
      size_t run = 0;
      for (int n : runs_per_step) {
        s.k_rows = std::span<Rows const>(k_rows).subspan(run, size_t(n));
        int64_t const count = count_rows(s.k_rows);
        auto const part = [&](auto view) {
          view.data += row * view.stride[1];
          view.extents.seq = count;
          return view;
        };
        s.k = part(std::as_const(k).view());
        s.v = part(std::as_const(v).view());
        s.dk = part(dk.view());
        s.dv = part(dv.view());
        f();
        row += count;
        run += size_t(n);
      }
    };
    size_t const forward_bytes = cpu.attend_bytes<K>(shape()), backward_bytes = cpu.attend_backward_bytes<K>(shape());
    auto const state = guarded(cpu, forward_bytes);
    s.state = state.data();
    observe(true);
    cpu.begin<K>(s);
    steps([&] { cpu.step<K>(s); });
    cpu.finish<K>(s, {out.view(), lse.view()});
    observe(false);
    CHECK(intact(state, forward_bytes));

    auto const backward_state = guarded(cpu, backward_bytes);
    s.state = backward_state.data();
    s.out = std::as_const(out).view();
    s.dout = std::as_const(dout).view();
    s.lse = std::as_const(lse).view();
    observe(true);
    cpu.begin_backward<K>(s);
    steps([&] { cpu.step_backward<K>(s); });
    cpu.finish_backward<K>(s, dq.view());
    observe(false);
    CHECK(intact(backward_state, backward_bytes));
    return {out.get(), dq.get(), lse.template get<double>(), dk.template get<double>(), dv.template get<double>()};
  }
  Outputs<E> run(Cpu& cpu, std::vector<int> runs_per_step = {}, Progress progress = {}) const {
    return run(cpu, std::move(runs_per_step), progress, [](bool) {});
  }

 private:
  static constexpr size_t guard = 4096;
  /// Filled with NaN patterns, so that what is read unwritten shows, and longer than asked for.
  static Cpu::Buffer guarded(Cpu& cpu, size_t bytes) {
    auto b = cpu.allocate(bytes + guard);
    std::memset(b.data(), 0xff, bytes + guard);
    return b;
  }
  static bool intact(Cpu::Buffer const& b, size_t bytes) {
    for (size_t i = bytes; i < bytes + guard; ++i)
      if (b.data()[i] != std::byte(0xff)) return false;
    return true;
  }
};

/// Normwise errors against the oracle within the tolerances of the precision.
template <class K> void check_against_oracle(Case<K> const& c, Outputs<typename K::Element> const& got) {
  auto const ref = c.oracle();
  using E = typename K::Element;
  bool const fp64 = std::is_same_v<E, double>, narrow = sizeof(E) == 2;
  double const s = 1 + double(ref.largest_score);
  double const element = narrow ? std::ldexp(1., -mantissa_bits<E>) : 0;
  double const out = (fp64 ? 1e-13 : 16 * 6e-8) * s + element, grad = (fp64 ? 1e-13 : 64 * 6e-8) * s;
  auto const check = [](char const* name, auto const& x, auto const& r, double tolerance, double floor) {
    auto const e = errors_of(x, r, decltype(r[0] + 0)(floor));
    INFO(name << ": error " << e.max << ", tolerance " << tolerance);
    CHECK(e.max <= tolerance);
    CHECK(e.same_specials);
  };
  check("out", got.out, ref.out, out, 0);
  check("lse", got.lse, ref.lse, (fp64 ? 1e-13 : 16 * 6e-8) * s, 1);
  // The rounding of out and of a 16-bit out reaches the gradients by way of delta.
  double const by_out = narrow ? 4 * element : 0;
  // Where products multiply pairs of 16-bit numbers, P and dS are rounded to them: half a unit of each term, at most.
  double const by_pairs = cpu::Sizes<K>::terms == 2 ? element : 0;
  check("dq", got.dq, ref.dq, grad + element + by_out + by_pairs, double(ref.dq_terms));
  check("dk", got.dk, ref.dk, grad + by_out + by_pairs, double(ref.dk_terms));
  check("dv", got.dv, ref.dv, grad + by_pairs, 0);
}

}  // namespace ringattn::test
