// SPDX-License-Identifier: Apache-2.0
// Whole layers by plain loops in fp64, to hold the sharded, blockwise ones against.
#pragma once

#include <ringattn/transformer/cross_layer.hpp>

#include "gradients.hpp"
#include "reference.hpp"

namespace ringattn::test {

struct Shape {
  int64_t batch, seq, heads, kv_heads, head_dim, value_dim, width, hidden;
  int64_t memory_seq = 0, memory_width = 0;
  double rope_base = 0, epsilon = 1e-5;
};

inline Numbers product(Numbers const& a, Matrix<double const> b) {  // [n, k] x [k, m]
  int64_t const n = int64_t(a.size()) / b.rows;
  Numbers c(static_cast<size_t>(n * b.cols));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < b.rows; ++k)
      for (int64_t j = 0; j < b.cols; ++j) c[size_t(i * b.cols + j)] += a[size_t(i * b.rows + k)] * b(k, j);
  return c;
}

inline Numbers normed(Numbers const& x, Matrix<double const> gain, double epsilon) {
  Numbers y(x);
  int64_t const width = gain.cols;
  for (size_t i = 0; i < x.size(); i += size_t(width)) {
    double square = 0;
    for (int64_t j = 0; j < width; ++j) square += x[i + size_t(j)] * x[i + size_t(j)];
    for (int64_t j = 0; j < width; ++j)
      y[i + size_t(j)] = gain(0, j) * x[i + size_t(j)] / std::sqrt(square / double(width) + epsilon);
  }
  return y;
}

inline void add(Numbers& a, Numbers const& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
}

/// Rotates [batch, seq, heads, dim] by positions 0 .. seq - 1.
inline void rotate_whole(Numbers& x, int64_t seq, int64_t heads, int64_t dim, double base) {
  for (size_t at = 0; at < x.size(); at += size_t(dim)) {
    int64_t const position = int64_t(at) / dim / heads % seq;
    for (int64_t i = 0; i < dim / 2; ++i) {
      double const angle = double(position) * std::pow(base, -2.0 * double(i) / double(dim));
      double& low = x[at + size_t(i)];
      double& high = x[at + size_t(i + dim / 2)];
      double const l = low, h = high;
      low = l * std::cos(angle) - h * std::sin(angle);
      high = h * std::cos(angle) + l * std::sin(angle);
    }
  }
}

template <class Mask>
Numbers reference_attention(Shape const& s, int64_t source_seq, double rope_base,
                            AttentionWeights<double const> const& w, Mask mask, Numbers const& queries_from,
                            Numbers const& keys_from) {
  DenseInputs<double> in;
  in.q = product(queries_from, w.query);
  in.k = product(keys_from, w.key);
  in.v = product(keys_from, w.value);
  if (rope_base != 0) {
    rotate_whole(in.q, s.seq, s.heads, s.head_dim, rope_base);
    rotate_whole(in.k, source_seq, s.kv_heads, s.head_dim, rope_base);
  }
  in.dout.assign(size_t(s.batch * s.seq * s.heads * s.value_dim), 0);
  Problem const p{s.batch, s.seq, source_seq, s.heads, s.kv_heads};
  return product(dense_attention(p, int(s.head_dim), int(s.value_dim), mask, Plain{}, 0, in).out, w.out);
}

template <class Activation>
Numbers reference_feed_forward(Shape const& s, FeedForwardHalfWeights<double const> const& w, Numbers const& h) {
  Numbers u = product(normed(h, w.norm, s.epsilon), w.ffn.up), a(u.size() / Activation::inputs);
  for (int64_t t = 0; t < int64_t(a.size()) / s.hidden; ++t)
    Activation::forward(static_cast<double const*>(u.data() + t * s.hidden * Activation::inputs),
                        a.data() + t * s.hidden, s.hidden);
  return product(a, w.ffn.down);
}

template <class Activation, class Mask>
Numbers reference_layer(Shape const& s, LayerWeights<double const> const& w, Mask mask, Numbers const& x) {
  Numbers h = x;
  Numbers const n = normed(x, w.attention.norm, s.epsilon);
  add(h, reference_attention(s, s.seq, s.rope_base, w.attention, mask, n, n));
  Numbers y = h;
  add(y, reference_feed_forward<Activation>(s, w.feed_forward, h));
  return y;
}

template <class Activation, class Mask>
Numbers reference_cross_layer(Shape const& s, CrossLayerWeights<double const> const& w, Mask mask, Numbers const& x,
                              Numbers const& memory) {
  Numbers h = x;
  Numbers const n = normed(x, w.self.norm, s.epsilon);
  add(h, reference_attention(s, s.seq, s.rope_base, w.self, mask, n, n));
  Numbers z = h;
  add(z, reference_attention(s, s.memory_seq, 0, w.cross, Full{}, normed(h, w.cross.norm, s.epsilon), memory));
  Numbers y = z;
  add(y, reference_feed_forward<Activation>(s, w.feed_forward, z));
  return y;
}

}  // namespace ringattn::test
