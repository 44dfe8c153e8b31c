// SPDX-License-Identifier: Apache-2.0
// Test inputs: the same numbers from the same seed with every compiler, in the shapes that bugs of this kind need.
#pragma once

#include <ringattn/tensor.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "reference.hpp"

namespace ringattn::test {

/// SplitMix64 (Steele, Lea and Flood 2014): small, and defined bit for bit, unlike the standard distributions.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// U[0, 1)
  double uniform() { return double(bits() >> 11) * 0x1p-53; }
  /// 0 .. n - 1
  int64_t below(int64_t n) { return int64_t(bits() % std::uint64_t(n)); }
  /// N(0, 1), Box and Muller 1958
  double normal() {
    double const u = 1 - uniform(), v = uniform();
    return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  }

 private:
  std::uint64_t state_;
};

enum class InputClass {
  normal,      ///< N(0, 1)
  uniform01,   ///< U[0, 1)
  uniform02,   ///< U[0, 2]: no zero mean that hides errors
  clamped,     ///< N(0, 1) clamped to [-1, 1]
  huge_lse,    ///< blocks of keys whose scores differ by hundreds (fp32) or thousands (fp64)
  one_hot_v,   ///< out is a column of P: an index error shows as itself
  constant_k,  ///< uniform softmax: out is the mean of the visible values
  huge_row,    ///< one query and one key row are 30 times as large as the others
};
inline constexpr std::array<char const*, 8> input_class_names = {"normal",   "uniform01", "uniform02",  "clamped",
                                                                 "huge_lse", "one_hot_v", "constant_k", "huge_row"};

/// q, k, v, dout of a whole problem, already rounded by `round` to what memory can hold.
/// `spread`: how far apart, in natural units of the score, the blocks of huge_lse are.
template <class Real, class Round>
DenseInputs<Real> make_inputs(InputClass kind, Problem problem, int head_dim, int value_dim, std::uint64_t seed,
                              double spread, Round round) {
  Problem const p = problem.resolved();
  Random random(seed);
  auto const draw = [&](int64_t count, InputClass what) {
    std::vector<Real> x(static_cast<size_t>(count));
    for (Real& e : x) {
      double y = 0;
      if (what == InputClass::uniform01)
        y = random.uniform();
      else if (what == InputClass::uniform02)
        y = 2 * random.uniform();
      else if (what == InputClass::clamped)
        y = std::clamp(random.normal(), -1.0, 1.0);
      else
        y = random.normal();
      e = Real(y);
    }
    return x;
  };
  DenseInputs<Real> in;
  in.q = draw(p.batch * p.seq * p.heads * head_dim, kind);
  in.k = draw(p.batch * p.kv_seq * p.kv_heads * head_dim, kind);
  in.v = draw(p.batch * p.kv_seq * p.kv_heads * value_dim, kind);
  in.dout = draw(p.batch * p.seq * p.heads * value_dim, InputClass::normal);

  auto const each_row = [](auto& x, int64_t seq, int64_t heads, int64_t dim, auto f) {
    for (size_t row = 0; row < x.size() / size_t(dim); ++row)
      f(int64_t(row) / heads % seq, int64_t(row) % heads, &x[row * size_t(dim)]);
  };
  if (kind == InputClass::huge_lse) {
    // The first component of q times that of k adds 0, spread or 2 spread to the score, by eighths of the keys.
    Real const factor = 16;
    each_row(in.q, p.seq, p.heads, head_dim,
             [&](int64_t, int64_t, Real* q) { q[0] = factor * std::sqrt(Real(head_dim)); });
    each_row(in.k, p.kv_seq, p.kv_heads, head_dim,
             [&](int64_t j, int64_t, Real* k) { k[0] = Real((j * 8 / p.kv_seq) * 5 % 3) * Real(spread) / factor; });
  }
  if (kind == InputClass::one_hot_v)
    each_row(in.v, p.kv_seq, p.kv_heads, value_dim, [&](int64_t j, int64_t h, Real* v) {
      for (int64_t d = 0; d < value_dim; ++d) v[d] = d == (j + h) % value_dim ? Real(1) : Real(0);
    });
  if (kind == InputClass::constant_k)
    each_row(in.k, p.kv_seq, p.kv_heads, head_dim, [&](int64_t, int64_t h, Real* k) {
      for (int64_t d = 0; d < head_dim; ++d) k[d] = Real((d + h) % 3 - 1);
    });
  if (kind == InputClass::huge_row) {
    each_row(in.q, p.seq, p.heads, head_dim, [&](int64_t i, int64_t, Real* q) {
      for (int64_t d = 0; d < head_dim && i == p.seq / 2; ++d) q[d] *= 30;
    });
    each_row(in.k, p.kv_seq, p.kv_heads, head_dim, [&](int64_t j, int64_t, Real* k) {
      for (int64_t d = 0; d < head_dim && j == p.kv_seq / 3; ++d) k[d] *= 30;
    });
  }
  for (auto* x : {&in.q, &in.k, &in.v, &in.dout})
    for (Real& e : *x) e = round(e);
  return in;
}

}  // namespace ringattn::test
