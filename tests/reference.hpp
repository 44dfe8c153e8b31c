// SPDX-License-Identifier: Apache-2.0
// The oracle: dense softmax attention and its analytic gradients, in fp64 or long double, from the same mask objects.
#pragma once

#include <ringattn/policy.hpp>
#include <ringattn/softmax.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace ringattn::test {

/// A whole problem on one device, dense [batch, seq, heads, dim].
template <class Real> struct DenseInputs { std::vector<Real> q, k, v, dout; };

/// What came out, and the sizes that errors are measured by.
template <class Real> struct DenseResults {
  std::vector<Real> out, lse, dq, dk, dv;
  Real largest_score = 0;  ///< of the finite, visible ones
  /// Per gradient: the largest sum of |terms| over its elements. Where a gradient is all cancellation (a row that sees
  /// one key has dq = 0 exactly), this is what rounding errors are proportional to.
  Real dq_terms = 0, dk_terms = 0;
  /// Per gradient: how far an `out` that is off by independent relative errors of size 1 moves it, through D = dO.out.
  /// Times the unit roundoff this is the error that storing `out` in 16 bits alone accounts for.
  Real dq_of_out = 0, dk_of_out = 0;
};

/// Keeps what it is given: the oracle itself.
struct Exact {
  template <class Real> Real operator()(Real x) const { return x; }
};
/// Rounds to a format: with it, the dense computation is the one that a plain 16-bit implementation does.
template <class Element> struct RoundTo {
  template <class Real> Real operator()(Real x) const { return Real(float(Element(float(x)))); }
};

/// P = softmax(score(scale q.k)), out = P v; D = dO.out, dS = P (dO v^T - D) slope; dq = scale dS k, dk = scale dS^T q,
/// dv = P^T dO. Only visible pairs take part: what is invisible cannot contribute, not even a NaN. A row that sees no
/// key has out 0, lse -inf and gradient 0. `round` is applied to P, dS, out and the gradients.
template <class Real, class Mask, class Score = Plain, class Round = Exact>
DenseResults<Real> dense_attention(Problem problem, int head_dim, int value_dim, Mask const& mask, Score const& score,
                                   double scale_, DenseInputs<Real> const& in, Round round = {}) {
  Problem const p = problem.resolved();
  int64_t const D = head_dim, E = value_dim, group = p.heads / p.kv_heads;
  Real const scale = scale_ != 0 ? Real(scale_) : Real(1) / std::sqrt(Real(D));
  DenseResults<Real> r;
  r.out.assign(size_t(p.batch * p.seq * p.heads * E), 0);
  r.lse.assign(size_t(p.batch * p.seq * p.heads), -std::numeric_limits<Real>::infinity());
  r.dq.assign(in.q.size(), 0);
  r.dk.assign(in.k.size(), 0);
  r.dv.assign(in.v.size(), 0);
  std::vector<Real> dq_terms(in.q.size()), dk_terms(in.k.size()), dq_of_out(in.q.size()), dk_of_out(in.k.size());
  std::vector<int64_t> seen;
  std::vector<Real> weight, slope;

  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t i = 0; i < p.seq; ++i) {
        auto const q_at = [&](int64_t dim) { return size_t(((b * p.seq + i) * p.heads + h) * dim); };
        auto const k_at = [&](int64_t j, int64_t dim) {
          return size_t(((b * p.kv_seq + j) * p.kv_heads + h / group) * dim);
        };
        seen.clear();
        weight.clear();
        slope.clear();
        for (int64_t j = 0; j < p.kv_seq; ++j)
          if (mask.visible(i, j)) seen.push_back(j);
        if (seen.empty()) continue;

        Real const* const q = &in.q[q_at(D)];
        Real largest = -std::numeric_limits<Real>::infinity();
        for (int64_t j : seen) {
          Real const* const k = &in.k[k_at(j, D)];
          Real raw = 0;
          for (int64_t d = 0; d < D; ++d) raw += q[d] * k[d];
          raw *= scale;
          slope.push_back(score.slope(raw, h, i, j));
          weight.push_back(score.apply(raw, h, i, j));
          largest = softmax::max(largest, weight.back());
          if (std::isfinite(weight.back())) r.largest_score = std::max(r.largest_score, std::abs(weight.back()));
        }
        Real sum = 0;
        for (Real& w : weight) sum += w = std::exp(w - largest);
        r.lse[q_at(1)] = largest + std::log(sum);
        Real* const out = &r.out[q_at(E)];
        for (size_t n = 0; n < seen.size(); ++n) {
          weight[n] = round(weight[n] / sum);
          Real const* const v = &in.v[k_at(seen[n], E)];
          for (int64_t d = 0; d < E; ++d) out[d] += weight[n] * v[d];
        }

        Real const* const dout = &in.dout[q_at(E)];
        Real delta = 0, delta_terms = 0, delta_squares = 0;
        for (int64_t d = 0; d < E; ++d) {
          out[d] = round(out[d]);
          delta += dout[d] * out[d];
          delta_terms += std::abs(dout[d] * out[d]);
          delta_squares += dout[d] * out[d] * dout[d] * out[d];
        }
        for (size_t n = 0; n < seen.size(); ++n) {
          size_t const at_k = k_at(seen[n], D), at_v = k_at(seen[n], E);
          Real dp = 0, dp_terms = 0;
          for (int64_t d = 0; d < E; ++d) {
            Real const term = dout[d] * in.v[at_v + size_t(d)];
            dp += term;
            dp_terms += std::abs(term);
            r.dv[at_v + size_t(d)] += weight[n] * dout[d];
          }
          Real const ds = round(weight[n] * (dp - delta) * slope[n]) * scale;
          Real const ds_terms = std::abs(weight[n] * (dp_terms + delta_terms) * slope[n] * scale);
          Real const of_out = std::abs(weight[n] * std::sqrt(delta_squares) * slope[n] * scale);
          for (int64_t d = 0; d < D; ++d) {
            r.dq[q_at(D) + size_t(d)] += ds * in.k[at_k + size_t(d)];
            r.dk[at_k + size_t(d)] += ds * q[d];
            dq_terms[q_at(D) + size_t(d)] += ds_terms * std::abs(in.k[at_k + size_t(d)]);
            dk_terms[at_k + size_t(d)] += ds_terms * std::abs(q[d]);
            dq_of_out[q_at(D) + size_t(d)] += of_out * std::abs(in.k[at_k + size_t(d)]);
            dk_of_out[at_k + size_t(d)] += of_out * std::abs(q[d]);
          }
        }
      }
  for (auto* tensor : {&r.dq, &r.dk, &r.dv})
    for (Real& x : *tensor) x = round(x);
  auto const largest_of = [](std::vector<Real> const& all) {
    return all.empty() ? Real(0) : *std::max_element(all.begin(), all.end());
  };
  r.dq_terms = largest_of(dq_terms);
  r.dk_terms = largest_of(dk_terms);
  r.dq_of_out = largest_of(dq_of_out);
  r.dk_of_out = largest_of(dk_of_out);
  return r;
}

/// Normwise errors of one tensor: max|x - ref| / max|ref| and rms(x - ref) / rms(ref).
struct Errors {
  double max = 0, rms = 0;
  double largest = 0;         ///< max|ref|, or the floor
  bool same_specials = true;  ///< NaN exactly where the reference has NaN; infinities equal
};

/// `floor`: the least that max|ref| is taken to be.
template <class X, class Real> Errors errors_of(std::vector<X> const& x, std::vector<Real> const& ref, Real floor = 0) {
  Real worst = 0, largest = floor, squares = 0, ref_squares = 0;
  Errors e;
  for (size_t i = 0; i < ref.size(); ++i) {
    Real got;
    if constexpr (std::is_same_v<X, double> || std::is_same_v<X, long double>)
      got = Real(x[i]);
    else
      got = Real(float(x[i]));
    if (std::isnan(ref[i]) || std::isnan(got) || std::isinf(ref[i]) || std::isinf(got)) {
      e.same_specials = e.same_specials && (std::isnan(ref[i]) ? std::isnan(got) : got == ref[i]);
      continue;
    }
    Real const d = std::abs(got - ref[i]);
    worst = std::max(worst, d);
    largest = std::max(largest, std::abs(ref[i]));
    squares += d * d;
    ref_squares += ref[i] * ref[i];
  }
  if (x.size() != ref.size()) e.same_specials = false;
  e.largest = double(largest);
  e.max = worst == 0 ? 0 : double(worst / largest);
  e.rms = squares == 0 ? 0 : double(std::sqrt(squares / ref_squares));
  return e;
}

}  // namespace ringattn::test
