// SPDX-License-Identifier: Apache-2.0
// What examples compare with: inputs that are functions of global positions, and attention by plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <ringattn/rows.hpp>
#include <span>
#include <vector>

namespace example {

using ringattn::Extents;
using ringattn::Rows;
using ringattn::Tensor;
using ringattn::View;

/// A number in [-1, 1) that looks random and depends on its place only, so that every rank can make its own rows.
inline float noise(int tensor, int64_t batch, int64_t position, int64_t head, int64_t d) {
  std::uint64_t z = std::uint64_t(tensor);
  for (int64_t part : {batch, position, head, d}) {
    z = (z + std::uint64_t(part) + 1) * 0x9e3779b97f4a7c15u;
    z ^= z >> 29;
  }
  return float(double(z >> 11) * 0x1p-52 - 1);
}

/// f(batch, local row, global position, head, d) for every element of a rank's tensor.
template <class F> void each(Extents const& e, std::span<Rows const> rows, F f) {
  int64_t s = 0;
  for (Rows const& run : rows)
    for (int64_t i = 0; i < run.count; ++i, ++s)
      for (int64_t b = 0; b < e.batch; ++b)
        for (int64_t h = 0; h < e.heads; ++h)
          for (int64_t d = 0; d < e.dim; ++d) f(b, s, run.at(i), h, d);
}

/// Fills a rank's rows of tensor number `tensor`.
inline void fill(View<float> const& t, std::span<Rows const> rows, int tensor) {
  each(t.extents, rows, [&](int64_t b, int64_t s, int64_t position, int64_t h, int64_t d) {
    t(b, s, h, d) = noise(tensor, b, position, h, d);
  });
}
/// The whole of it: all positions in order.
inline Tensor<float> whole(Extents e, int tensor) {
  Tensor<float> t(e);
  Rows const all{0, 1, e.seq};
  fill(t.view(), {&all, 1}, tensor);
  return t;
}

/// The largest difference of a rank's rows from the whole tensor.
inline double worst(View<float const> const& mine, std::span<Rows const> rows, Tensor<double> const& all) {
  double most = 0;
  each(mine.extents, rows, [&](int64_t b, int64_t s, int64_t position, int64_t h, int64_t d) {
    double const error = std::abs(double(mine(b, s, h, d)) - all(b, position, h, d));
    if (!(error <= most)) most = error;  // a NaN stays
  });
  return most;
}

struct Dense {
  Tensor<double> out, dq, dk, dv;
};

/// softmax(q k^T / sqrt(head_dim)) v over the visible pairs, and its gradients, one row of scores at a time.
template <class Mask>
Dense dense_attention(Tensor<float> const& q, Tensor<float> const& k, Tensor<float> const& v, Tensor<float> const& dout,
                      Mask const& mask) {
  auto const [batch, seq, heads, dim] = q.extents();
  int64_t const kv_seq = k.extents().seq, group = heads / k.extents().heads, value_dim = v.extents().dim;
  double const scale = 1 / std::sqrt(double(dim));
  Dense r{Tensor<double>(dout.extents()), Tensor<double>(q.extents()), Tensor<double>(k.extents()),
          Tensor<double>(v.extents())};
  std::vector<double> p(static_cast<size_t>(kv_seq));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < seq; ++i) {
        int64_t const g = h / group;
        double most = -std::numeric_limits<double>::infinity(), sum = 0, row = 0;
        for (int64_t j = 0; j < kv_seq; ++j) {
          double score = 0;
          for (int64_t d = 0; d < dim; ++d) score += double(q(b, i, h, d)) * double(k(b, j, g, d));
          p[size_t(j)] = mask.visible(i, j) ? score * scale : -std::numeric_limits<double>::infinity();
          most = std::max(most, p[size_t(j)]);
        }
        if (std::isinf(most)) continue;  // sees nothing
        for (double& x : p) sum += x = std::exp(x - most);
        for (double& x : p) x /= sum;
        for (int64_t j = 0; j < kv_seq; ++j)
          for (int64_t d = 0; d < value_dim; ++d) r.out(b, i, h, d) += p[size_t(j)] * double(v(b, j, g, d));
        for (int64_t d = 0; d < value_dim; ++d) row += r.out(b, i, h, d) * double(dout(b, i, h, d));
        for (int64_t j = 0; j < kv_seq; ++j) {
          double dp = 0;
          for (int64_t d = 0; d < value_dim; ++d) {
            dp += double(dout(b, i, h, d)) * double(v(b, j, g, d));
            r.dv(b, j, g, d) += p[size_t(j)] * double(dout(b, i, h, d));
          }
          double const ds = p[size_t(j)] * (dp - row) * scale;
          for (int64_t d = 0; d < dim; ++d) {
            r.dq(b, i, h, d) += ds * double(k(b, j, g, d));
            r.dk(b, j, g, d) += ds * double(q(b, i, h, d));
          }
        }
      }
  return r;
}

}  // namespace example
