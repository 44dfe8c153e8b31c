// SPDX-License-Identifier: Apache-2.0
// The attention half of a layer: norm, projections, RoPE and the ring, over one rank's shard.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "../ring_attention.hpp"
#include "gemm.hpp"
#include "rms_norm.hpp"
#include "rope.hpp"

namespace ringattn::inline RINGATTN_ABI {

namespace detail {

struct NamedNumber {
  char const* name;
  double value;
};

/// Compares numbers that must be equal on every rank; where they are not, every rank throws the same
/// Error{contract_mismatch}. Collective.
template <class C, size_t N> void agree_on(C& comm, NamedNumber const (&numbers)[N]) {
  std::array<double, N> mine;
  for (size_t i = 0; i < N; ++i) mine[i] = numbers[i].value;
  std::vector<std::array<double, N>> all(static_cast<size_t>(comm.size()));
  all_gather(comm, mine, std::span(all), "plan: transformer");
  for (size_t i = 0; i < N; ++i)
    for (size_t r = 1; r < all.size(); ++r)
      if (all[r][i] != all[0][i])
        throw Error(ErrorCode::contract_mismatch, int(r), numbers[i].name, std::to_string(all[0][i]) + " as on rank 0",
                    std::to_string(all[r][i]));
}

}  // namespace detail

/// Weights, or their gradients.
template <class T> struct AttentionWeights {
  Matrix<T> norm;   // [1, width]
  Matrix<T> query;  // [width, heads * head_dim]
  Matrix<T> key;    // [source width, kv_heads * head_dim]
  Matrix<T> value;  // [source width, kv_heads * value_dim]
  Matrix<T> out;    // [heads * value_dim, width]

  operator AttentionWeights<T const>() const requires(!std::is_const_v<T>) { return {norm, query, key, value, out}; }
};

/// What attention keeps from forward to backward if it was planned with `keep`; else it is computed again.
template <class T> struct KeptAttention {
  Matrix<T> out;  // [tokens, heads * value_dim]
  Matrix<T> lse;  // [tokens, heads]
};

/// Attention with its projections, taken apart into the steps that layers put together block by block over tokens.
/// Tokens are this rank's rows of all batch entries, [batch, rows] flattened. Only q, k, v, out and their gradients
/// exist for the whole shard; all the rest is recomputed one block at a time.
///
/// One object serves any number of layers with the same shape, one after another. Calls allocate nothing. Collective
/// where it says so; one thread at a time per object. Errors as RingAttention.
template <class P, class G = DefaultGemm> class AttentionBlock {
 public:
  using T = typename P::Precision::Element;
  using Backend = typename P::Backend;
  using Communicator = typename P::Communicator;
  using Weights = AttentionWeights<T>;
  using ConstWeights = AttentionWeights<T const>;
  using Kept = KeptAttention<T>;
  static_assert(Real<T> && std::is_same_v<T, typename P::Precision::Accumulator>,
                "ringattn: transformer layers compute in float or double: take Fp32 or Fp64 as Policy::Precision");
  static_assert(std::is_same_v<typename Backend::Space, HostSpace>,
                "ringattn: transformer layers run on the host: take Cpu as Policy::Backend");
  static_assert(Gemm<G, T>, "ringattn: AttentionBlock's matrix product needs g(op, a, op, b, beta, c)");

  struct Options {
    PlanOptions<P> ring;
    int64_t width = 0;         ///< of the tokens
    int64_t source_width = 0;  ///< of the tokens that give keys and values; 0: width
    double rope_base = 0;      ///< 0: no rotation
    double epsilon = 1e-5;     ///< of the norm
    int64_t block = 128;       ///< tokens at a time
    bool keep = false;         ///< out and lse are kept by the caller from forward to backward

    Options resolved() const {
      Options o = *this;
      o.ring.problem = ring.problem.resolved();
      if (o.source_width == 0) o.source_width = width;
      return o;
    }
    int64_t q_width() const { return ring.problem.heads * P::head_dim; }
    int64_t k_width() const { return ring.problem.resolved().kv_heads * P::head_dim; }
    int64_t v_width() const { return ring.problem.resolved().kv_heads * value_dim_of<P>; }
    int64_t out_width() const { return ring.problem.heads * value_dim_of<P>; }
  };

  /// Lays the weights out in a flat buffer.
  static Weights weights(Carver<T>& c, Options const& options) {
    Options const o = options.resolved();
    return {.norm = c.take(1, o.width),
            .query = c.take(o.width, o.q_width()),
            .key = c.take(o.source_width, o.k_width()),
            .value = c.take(o.source_width, o.v_width()),
            .out = c.take(o.out_width(), o.width)};
  }

  /// Collective. Throws as RingAttention; the other options, too, must be legal and equal on every rank.
  AttentionBlock(Backend& backend, Communicator& comm, Options const& options)
      : o_(checked(comm, options.resolved())), ring_(backend, comm, o_.ring) {
    if (o_.rope_base != 0) {
      q_rope_ = Rope<T>(ring_.rows(), P::head_dim, o_.rope_base);
      k_rope_ = Rope<T>(ring_.kv_rows(), P::head_dim, o_.rope_base);
    }
    Carver<T> count;
    lay_out(count);
    elements_ = count.used();
    memory_.emplace(backend.allocate(size_t(elements_) * sizeof(T)));
    Carver<T> carver(reinterpret_cast<T*>(memory_->data()));
    lay_out(carver);
  }

  int64_t tokens() const { return o_.ring.problem.batch * ring_.local().q.seq; }         ///< on this rank
  int64_t source_tokens() const { return o_.ring.problem.batch * ring_.local().k.seq; }  ///< on this rank
  RingAttention<P> const& ring() const { return ring_; }
  /// Everything this object keeps: grows with the shard and the block, not with the sequence.
  size_t workspace_bytes() const {
    return size_t(elements_) * sizeof(T) + ring_.workspace_bytes() + q_rope_.workspace_bytes() +
           k_rope_.workspace_bytes();
  }
  /// Lays out what the caller keeps for one layer; empty without `keep`.
  Kept kept(Carver<T>& c) const {
    if (!o_.keep) return {};
    return {.out = c.take(tokens(), o_.out_width()), .lse = c.take(tokens(), o_.ring.problem.heads)};
  }

  // ------------------------------------------------------------ forward

  /// Queries of the tokens i .. i + x.rows - 1. Returns their norm (scratch, until the next call).
  Matrix<T> queries(ConstWeights const& w, int64_t i, Matrix<T const> x) {  // [n, width]
    Matrix<T> const normed = normed_.middle_rows(0, x.rows);
    rms_norm(x, w.norm, o_.epsilon, normed);
    gemm_(Op::plain, normed, Op::plain, w.query, T(0), q_.middle_rows(i, x.rows));
    return normed;
  }
  /// Keys and values of the source tokens j .. j + source.rows - 1, which come normed.
  void keys(ConstWeights const& w, int64_t j, Matrix<T const> source) {  // [n, source width]
    gemm_(Op::plain, source, Op::plain, w.key, T(0), k_.middle_rows(j, source.rows));
    gemm_(Op::plain, source, Op::plain, w.value, T(0), v_.middle_rows(j, source.rows));
  }
  /// Queries, keys and values of all tokens from the same x.
  void project(ConstWeights const& w, Matrix<T const> x) {  // [tokens, width]
    for_blocks(tokens(), o_.block, [&](int64_t i, int64_t n) { keys(w, i, queries(w, i, x.middle_rows(i, n))); });
  }
  /// Rotates queries and keys and goes round the ring. Collective. `recompute`: in backward, where a kept result
  /// saves the way round.
  void attend(Kept const& kept, bool recompute = false) {
    if (o_.keep) {
      out_ = kept.out;
      lse_ = kept.lse;
    }
    if (o_.rope_base != 0) {
      q_rope_.forward(q_view(q_));
      k_rope_.forward(k_view(k_));
    }
    if (recompute && o_.keep) return;
    ring_.forward({.q = q_view(q_), .k = k_view(k_), .v = v_view(v_), .out = out_view(out_), .lse = lse_view()});
  }
  /// x += the attention of the tokens i .. i + x.rows - 1, projected.
  void add_out(ConstWeights const& w, int64_t i, Matrix<T> x) {  // [n, width]
    gemm_(Op::plain, out_.middle_rows(i, x.rows), Op::plain, w.out, T(1), x);
  }

  // ------------------------------------------------------------ backward, in the opposite order

  void out_backward(ConstWeights const& w, Weights const& g, int64_t i, Matrix<T const> dx) {  // [n, width]
    gemm_(Op::transposed, out_.middle_rows(i, dx.rows), Op::plain, dx, T(1), g.out);
    gemm_(Op::plain, dx, Op::transposed, w.out, T(0), dout_.middle_rows(i, dx.rows));
  }
  /// Goes round the ring and rotates the gradients back. Collective.
  void attend_backward() {
    ring_.backward({.q = q_view(q_),
                    .k = k_view(k_),
                    .v = v_view(v_),
                    .out = out_view(out_),
                    .lse = lse_view(),
                    .dout = out_view(dout_),
                    .dq = q_view(dq_),
                    .dk = k_view(dk_),
                    .dv = v_view(dv_)});
    if (o_.rope_base == 0) return;
    q_rope_.backward(q_view(dq_));
    k_rope_.backward(k_view(dk_));
  }
  /// dx += the gradient that comes through the queries.
  void queries_backward(ConstWeights const& w, Weights const& g, int64_t i, Matrix<T const> x, Matrix<T> dx) {
    norm_again(w, x);
    queries_gradient(w, g, i, x.rows);
    rms_norm_backward(x, w.norm, o_.epsilon, dnormed_.middle_rows(0, x.rows), dx, g.norm);
  }
  /// dsource += the gradient that comes through keys and values.
  void keys_backward(ConstWeights const& w, Weights const& g, int64_t j, Matrix<T const> source, Matrix<T> dsource) {
    Matrix<T const> const dk = dk_.middle_rows(j, source.rows), dv = dv_.middle_rows(j, source.rows);
    gemm_(Op::transposed, source, Op::plain, dk, T(1), g.key);
    gemm_(Op::transposed, source, Op::plain, dv, T(1), g.value);
    gemm_(Op::plain, dk, Op::transposed, w.key, T(1), dsource);
    gemm_(Op::plain, dv, Op::transposed, w.value, T(1), dsource);
  }
  /// dx += the gradient of `project`, all tokens.
  void project_backward(ConstWeights const& w, Weights const& g, Matrix<T const> x, Matrix<T> dx) {
    for_blocks(tokens(), o_.block, [&](int64_t i, int64_t n) {
      Matrix<T const> const part = x.middle_rows(i, n);
      norm_again(w, part);
      queries_gradient(w, g, i, n);
      Matrix<T> const dnormed = dnormed_.middle_rows(0, n);
      keys_backward(w, g, i, normed_.middle_rows(0, n), dnormed);
      rms_norm_backward(part, w.norm, o_.epsilon, dnormed, dx.middle_rows(i, n), g.norm);
    });
  }

 private:
  /// Compared first: an error in what is equal everywhere is then thrown everywhere.
  static Options checked(Communicator& comm, Options const& o) {
    detail::agree_on(comm, {{"attention: width", double(o.width)},
                            {"attention: source_width", double(o.source_width)},
                            {"attention: rope_base", o.rope_base},
                            {"attention: epsilon", o.epsilon},
                            {"attention: block", double(o.block)},
                            {"attention: keep", double(o.keep)}});
    detail::check_at_least(o.width, 1, "attention: width");
    detail::check_at_least(o.source_width, 1, "attention: source_width");
    detail::check_at_least(o.block, 1, "attention: block");
    return o;
  }

  void lay_out(Carver<T>& c) {
    int64_t const n = tokens(), m = source_tokens();
    q_ = c.take(n, o_.q_width());
    k_ = c.take(m, o_.k_width());
    v_ = c.take(m, o_.v_width());
    if (!o_.keep) {
      out_ = c.take(n, o_.out_width());
      lse_ = c.take(n, o_.ring.problem.heads);
    }
    normed_ = c.take(std::min(o_.block, n), o_.width);
    if (!o_.ring.backward) return;
    dout_ = c.take(n, o_.out_width());
    dq_ = c.take(n, o_.q_width());
    dk_ = c.take(m, o_.k_width());
    dv_ = c.take(m, o_.v_width());
    dnormed_ = c.take(std::min(o_.block, n), o_.width);
  }

  void norm_again(ConstWeights const& w, Matrix<T const> x) {
    rms_norm(x, w.norm, o_.epsilon, normed_.middle_rows(0, x.rows));
  }
  void queries_gradient(ConstWeights const& w, Weights const& g, int64_t i, int64_t n) {
    Matrix<T const> const d = dq_.middle_rows(i, n);
    gemm_(Op::transposed, normed_.middle_rows(0, n), Op::plain, d, T(1), g.query);
    gemm_(Op::plain, d, Op::transposed, w.query, T(0), dnormed_.middle_rows(0, n));
  }

  /// Rows of tokens as [batch, rows, heads, dim].
  View<T> q_view(Matrix<T> m) const { return {m.data, ring_.local().q}; }
  View<T> k_view(Matrix<T> m) const { return {m.data, ring_.local().k}; }
  View<T> v_view(Matrix<T> m) const { return {m.data, ring_.local().v}; }
  View<T> out_view(Matrix<T> m) const { return {m.data, ring_.local().out}; }
  View<T> lse_view() const { return {lse_.data, ring_.local().lse}; }

  Options o_;
  RingAttention<P> ring_;
  Rope<T> q_rope_, k_rope_;
  [[no_unique_address]] G gemm_;
  std::optional<decltype(std::declval<Backend&>().allocate(0))> memory_;
  int64_t elements_ = 0;
  Matrix<T> q_, dq_;            // [tokens, heads * head_dim]
  Matrix<T> k_, dk_;            // [source tokens, kv_heads * head_dim]
  Matrix<T> v_, dv_;            // [source tokens, kv_heads * value_dim]
  Matrix<T> out_, dout_;        // [tokens, heads * value_dim]
  Matrix<T> lse_;               // [tokens, heads]
  Matrix<T> normed_, dnormed_;  // [block, width]
};

}  // namespace ringattn
