// SPDX-License-Identifier: Apache-2.0
// Errors against fp64 on some rows of the last key/value head: accuracy stands beside speed, at any length.
#pragma once

#include <cmath>
#include <vector>

#include "measure.hpp"

namespace bench {

/// max |x - ref| / max |ref| and rms(x - ref) / rms(ref).
class ErrorNorms {
 public:
  void add(double x, double reference) {
    double const e = x - reference;
    if (!(std::abs(e) <= largest_)) largest_ = std::abs(e);  // a NaN stays
    scale_ = std::max(scale_, std::abs(reference));
    squares_ += e * e;
    reference_squares_ += reference * reference;
  }
  double max() const { return largest_ / scale_; }
  double rms() const { return std::sqrt(squares_ / reference_squares_); }
  Json json() const { return {{"max", max()}, {"rms", rms()}}; }

 private:
  double largest_ = 0, scale_ = 0, squares_ = 0, reference_squares_ = 0;
};

/// The tensors of a finished call; gradients may be null.
template <class P> struct Finished {
  using Element = typename P::Precision::Element;
  using Accumulator = typename P::Precision::Accumulator;
  View<Element const> q, k, v, out;
  View<Accumulator const> lse;
  View<Element const> dout{}, dq{}, dk{}, dv{};
};

/// Compares `rows` query rows (and, up to 4096 queries, as many key rows) spread over the sequence, of all query heads
/// that share the last key/value head of the last batch entry. One rank: local rows are global positions.
template <class P>
Json accuracy(Problem problem, typename P::Mask const& mask, Finished<P> const& f, int64_t rows = 32) {
  Problem const p = problem.resolved();
  int const D = P::head_dim, E = value_dim_of<P>;
  int64_t const b = p.batch - 1, g = p.kv_heads - 1, group = p.heads / p.kv_heads, n = p.kv_seq;
  double const scale = 1 / std::sqrt(double(D));
  bool const backward = bool(f.dout), all_rows = backward && p.seq <= 4096;
  auto const chosen = [&](int64_t i, int64_t count) {
    int64_t const r = std::min(rows, count);
    int64_t const t = r < 2 ? 0 : (i * (r - 1) + count - 2) / (count - 1);
    return r < 2 ? i == 0 : t * (count - 1) / (r - 1) == i;
  };

  // [dim, keys], so that loops over keys are long and in order; v also as [keys, dim].
  std::vector<double> kt(size_t(n * D)), vt(size_t(n * E)), vr(size_t(n * E));
  std::vector<int64_t> keys;
  for (int64_t j = 0; j < n; ++j) {
    for (int d = 0; d < D; ++d) kt[size_t(d * n + j)] = double(f.k(b, j, g, d));
    for (int d = 0; d < E; ++d) vt[size_t(d * n + j)] = vr[size_t(j * E + d)] = double(f.v(b, j, g, d));
    if (chosen(j, n)) keys.push_back(j);
  }
  std::vector<double> dk(keys.size() * size_t(D)), dv(keys.size() * size_t(E)), weight(static_cast<size_t>(n)),
      slope(static_cast<size_t>(n)), out(static_cast<size_t>(E)), dq(static_cast<size_t>(D));
  ErrorNorms out_error, lse_error, dq_error, dk_error, dv_error;

  for (int64_t h = g * group; h < (g + 1) * group; ++h)
    for (int64_t i = 0; i < p.seq; ++i) {
      bool const check = chosen(i, p.seq);
      if (!check && !all_rows) continue;
      int64_t end = n;  // the masks of the benchmarks show a prefix of the keys
      while (end > 0 && !mask.visible(i, end - 1)) --end;
      std::fill(weight.begin(), weight.end(), 0.0);
      for (int d = 0; d < D; ++d) {
        double const x = double(f.q(b, i, h, d)) * scale;
        double const* const row = &kt[size_t(d * n)];
        for (int64_t j = 0; j < end; ++j) weight[size_t(j)] += x * row[j];
      }
      double const largest = *std::max_element(weight.begin(), weight.begin() + end);
      double sum = 0;
      for (int64_t j = 0; j < end; ++j) sum += weight[size_t(j)] = std::exp(weight[size_t(j)] - largest);
      std::fill(out.begin(), out.end(), 0.0);
      for (int64_t j = 0; j < end; ++j) {
        double const w = weight[size_t(j)] /= sum;
        for (int d = 0; d < E; ++d) out[size_t(d)] += w * vr[size_t(j * E + d)];
      }
      if (check) {
        for (int d = 0; d < E; ++d) out_error.add(double(f.out(b, i, h, d)), out[size_t(d)]);
        if (f.lse) lse_error.add(double(f.lse(b, i, h, 0)), largest + std::log(sum));
      }
      if (!backward) continue;

      double delta = 0;
      std::fill(slope.begin(), slope.end(), 0.0);
      for (int d = 0; d < E; ++d) {
        double const x = double(f.dout(b, i, h, d));
        double const* const row = &vt[size_t(d * n)];
        delta += x * out[size_t(d)];
        for (int64_t j = 0; j < end; ++j) slope[size_t(j)] += x * row[j];
      }
      for (int64_t j = 0; j < end; ++j) slope[size_t(j)] = weight[size_t(j)] * (slope[size_t(j)] - delta) * scale;
      if (check) {
        for (int d = 0; d < D; ++d) {
          double x = 0;
          for (int64_t j = 0; j < end; ++j) x += slope[size_t(j)] * kt[size_t(d * n + j)];
          dq_error.add(double(f.dq(b, i, h, d)), x);
        }
      }
      for (size_t t = 0; all_rows && t < keys.size() && keys[t] < end; ++t) {
        for (int d = 0; d < D; ++d) dk[t * size_t(D) + size_t(d)] += slope[size_t(keys[t])] * double(f.q(b, i, h, d));
        for (int d = 0; d < E; ++d)
          dv[t * size_t(E) + size_t(d)] += weight[size_t(keys[t])] * double(f.dout(b, i, h, d));
      }
    }
  Json j = {{"out", out_error.json()}};
  if (f.lse) j.set("lse", lse_error.json());
  if (!backward) return j;
  j.set("dq", dq_error.json());
  if (!all_rows) return j;
  for (size_t t = 0; t < keys.size(); ++t) {
    for (int d = 0; d < D; ++d) dk_error.add(double(f.dk(b, keys[t], g, d)), dk[t * size_t(D) + size_t(d)]);
    for (int d = 0; d < E; ++d) dv_error.add(double(f.dv(b, keys[t], g, d)), dv[t * size_t(E) + size_t(d)]);
  }
  j.set("dk", dk_error.json());
  j.set("dv", dv_error.json());
  return j;
}

}  // namespace bench
