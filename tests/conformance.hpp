// SPDX-License-Identifier: Apache-2.0
// Runs a policy on a ring, whatever backend and communicator it names, and judges what came out against the oracle.
#pragma once

#include <ringattn/comm/in_process.hpp>
#include <ringattn/ring_attention.hpp>

#include <array>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "inputs.hpp"
#include "reference.hpp"

namespace ringattn::test {

// ---------------------------------------------------------------- whole tensors and their shards

/// The rows of one rank out of a whole tensor [batch, seq, heads, dim].
template <class T, class Runs>
std::vector<T> take_rows(std::vector<T> const& whole, Extents const& e, Runs const& rows) {
  std::vector<T> part;
  int64_t const width = e.heads * e.dim;
  for (int64_t b = 0; b < e.batch; ++b)
    for (Rows const& run : rows)
      for (int64_t i = 0; i < run.count; ++i) {
        auto const at = whole.begin() + (b * e.seq + run.at(i)) * width;
        part.insert(part.end(), at, at + width);
      }
  return part;
}

/// Puts the rows of one rank back into a whole tensor.
template <class T, class Runs>
void put_rows(std::vector<T>& whole, Extents const& e, Runs const& rows, std::vector<T> const& part) {
  int64_t const width = e.heads * e.dim;
  auto from = part.begin();
  for (int64_t b = 0; b < e.batch; ++b)
    for (Rows const& run : rows)
      for (int64_t i = 0; i < run.count; ++i, from += width)
        std::copy(from, from + width, whole.begin() + (b * e.seq + run.at(i)) * width);
}

// ---------------------------------------------------------------- one run

// What does not depend on the whole policy is a template on the precision only: it is compiled four times, not forty.

/// The precision of the oracle.
template <class Precision>
using RealOf = std::conditional_t<std::is_same_v<typename Precision::Element, double>, long double, double>;

/// A mask as a table, so that one instantiation of the oracle serves all masks.
struct VisibleTable {
  int64_t kv_seq = 0;
  std::vector<char> table;

  VisibleTable() = default;
  template <class Mask> VisibleTable(Mask const& mask, Problem const& p) : kv_seq(p.resolved().kv_seq) {
    for (int64_t q = 0; q < p.seq; ++q)
      for (int64_t k = 0; k < kv_seq; ++k) table.push_back(mask.visible(q, k));
  }
  bool visible(int64_t q, int64_t k) const { return table[size_t(q * kv_seq + k)] != 0; }
};

/// A problem and whole tensors.
template <class Precision> struct Case {
  using Element = typename Precision::Element;

  Problem problem;  ///< resolved
  int head_dim = 0, value_dim = 0;
  double scale = 0;
  VisibleTable mask;
  std::vector<Element> q, k, v, dout;
  bool backward = true;  ///< call backward, too

  Extents q_extents() const { return {problem.batch, problem.seq, problem.heads, head_dim}; }
  Extents k_extents() const { return {problem.batch, problem.kv_seq, problem.kv_heads, head_dim}; }
  Extents v_extents() const { return {problem.batch, problem.kv_seq, problem.kv_heads, value_dim}; }
  Extents out_extents() const { return {problem.batch, problem.seq, problem.heads, value_dim}; }
  Extents lse_extents() const { return {problem.batch, problem.seq, problem.heads, 1}; }
};

/// ... and the options of the plan that solves it.
template <class P> struct Setup : Case<typename P::Precision> {
  PlanOptions<P> options;

  Setup() = default;
  explicit Setup(PlanOptions<P> const& o) : options(o) {
    this->problem = o.problem.resolved();
    this->head_dim = P::head_dim;
    this->value_dim = value_dim_of<P>;
    this->scale = o.scale;
    this->mask = VisibleTable(o.mask, o.problem);
    this->backward = o.backward;
  }
};

/// What one rank got, in its local order.
template <class Precision> struct RankResult {
  std::vector<typename Precision::Element> out, dq, dk, dv;
  std::vector<typename Precision::Accumulator> lse;
  std::vector<Rows> rows, kv_rows;
  Timings forward, total;
  size_t workspace_bytes = 0;
};

template <class T> bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
template <class Precision> bool same_bits(RankResult<Precision> const& a, RankResult<Precision> const& b) {
  return same_bits(a.out, b.out) && same_bits(a.lse, b.lse) && same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) &&
         same_bits(a.dv, b.dv);
}

/// A vector of garbage, so that an output that is not written shows.
template <class T> std::vector<T> garbage(Extents const& e) {
  std::vector<T> x(static_cast<size_t>(e.count()));
  if (!x.empty()) std::memset(static_cast<void*>(x.data()), 0x5b, x.size() * sizeof(T));
  return x;
}

/// A vector where a backend can use it. Backends of devices have a specialisation.
template <class T, class Backend> class Held {
 public:
  Held(Backend&, std::vector<T> values) : values_(std::move(values)) {}
  T* data() { return values_.data(); }
  std::vector<T> get() { return values_; }

 private:
  std::vector<T> values_;
};
template <class T, class Backend> Held<T, Backend> held(Backend& backend, std::vector<T> values) {
  return {backend, std::move(values)};
}

/// One rank's part of a run. Collective over the ring of `comm`.
template <class P>
RankResult<typename P::Precision> run_rank(typename P::Backend& backend, typename P::Communicator& comm,
                                           Setup<P> const& setup) {
  using Element = typename P::Precision::Element;
  using Accumulator = typename P::Precision::Accumulator;
  RingAttention<P> ring(backend, comm, setup.options);
  Local const local = ring.local();
  RankResult<typename P::Precision> r;
  r.rows.assign(ring.rows().begin(), ring.rows().end());
  r.kv_rows.assign(ring.kv_rows().begin(), ring.kv_rows().end());
  r.workspace_bytes = ring.workspace_bytes();
  using Space = typename P::Backend::Space;
  auto const mine = [&](auto const& whole, Extents const& e, std::vector<Rows> const& rows) {
    return held(backend, take_rows(whole, e, rows));
  };
  auto q = mine(setup.q, setup.q_extents(), r.rows), k = mine(setup.k, setup.k_extents(), r.kv_rows),
       v = mine(setup.v, setup.v_extents(), r.kv_rows), out = held(backend, garbage<Element>(local.out));
  auto lse = held(backend, garbage<Accumulator>(local.lse));
  auto const in = [](auto& x, Extents e) { return View<Element const, Space>(x.data(), e); };
  View<Element, Space> const out_view(out.data(), local.out);
  View<Accumulator, Space> const lse_view(lse.data(), local.lse);
  ring.forward({.q = in(q, local.q), .k = in(k, local.k), .v = in(v, local.v), .out = out_view, .lse = lse_view});
  r.forward = ring.timings();
  if (setup.backward) {
    auto dout = mine(setup.dout, setup.out_extents(), r.rows), dq = held(backend, garbage<Element>(local.q)),
         dk = held(backend, garbage<Element>(local.k)), dv = held(backend, garbage<Element>(local.v));
    ring.backward({.q = in(q, local.q),
                   .k = in(k, local.k),
                   .v = in(v, local.v),
                   .out = out_view,
                   .lse = lse_view,
                   .dout = in(dout, local.out),
                   .dq = View<Element, Space>(dq.data(), local.q),
                   .dk = View<Element, Space>(dk.data(), local.k),
                   .dv = View<Element, Space>(dv.data(), local.v)});
    ring.synchronize();
    r.dq = dq.get();
    r.dk = dk.get();
    r.dv = dv.get();
  }
  ring.synchronize();
  r.out = out.get();
  r.lse = lse.get();
  r.total = ring.timings();
  return r;
}

/// The whole ring, one thread per rank.
template <class P>
std::vector<RankResult<typename P::Precision>> run_ring(int ranks, Setup<P> const& setup,
                                                        RunOptions const& options = {
                                                            .deadline = std::chrono::seconds(20)}) {
  std::vector<RankResult<typename P::Precision>> results(static_cast<size_t>(ranks));
  std::function<void(InProcess&)> const rank = [&](InProcess& comm) {
    typename P::Backend backend;
    results[size_t(comm.rank())] = run_rank<P>(backend, comm, setup);
  };
  run_ranks(ranks, rank, options);
  return results;
}

/// Late, reordered arrivals into poisoned buffers.
inline RunOptions chaotic(std::uint64_t seed) {
  return {.deadline = std::chrono::seconds(20),
          .chaos = {.seed = seed, .delay = std::chrono::microseconds(300), .poison = true}};
}

// ---------------------------------------------------------------- judgement

/// Error and what it may be; docs/numerics.md derives the constants.
struct Measure {
  char const* tensor;
  double error, rms, tolerance;
  bool same_specials;
  double plain_rms = 0;  ///< of a dense computation in the same 16-bit format
  bool ok() const { return same_specials && error <= tolerance; }
};

struct Verdict {
  std::vector<Measure> measures;
  double largest_score = 0;

  bool ok() const {
    for (Measure const& m : measures)
      if (!m.ok()) return false;
    return true;
  }
  /// The largest error / tolerance.
  double worst() const {
    double w = 0;
    for (Measure const& m : measures) w = std::max(w, m.same_specials ? m.error / m.tolerance : 1e9);
    return w;
  }
  std::string text() const {
    std::ostringstream s;
    for (Measure const& m : measures)
      s << m.tensor << " " << m.error << " of " << m.tolerance << " (rms " << m.rms << ")"
        << (m.same_specials ? "" : ", NaN or infinity in the wrong place") << (m.ok() ? "; " : " FAILS; ");
    s << "largest score " << largest_score;
    return s.str();
  }
};

template <class Element> inline constexpr double unit_roundoff = 0x1p-24;
template <> inline constexpr double unit_roundoff<double> = 0x1p-53;
template <> inline constexpr double unit_roundoff<BFloat16> = 0x1p-8;
template <> inline constexpr double unit_roundoff<Float16> = 0x1p-11;

/// Of a product as the precision computes it: Tf32 rounds both factors to 11 bits.
template <class Precision>
inline constexpr double product_roundoff = std::is_same_v<typename Precision::Element, double> ? 0x1p-53 : 0x1p-24;
template <> inline constexpr double product_roundoff<Tf32> = 0x1p-14;

/// Caps for 16-bit formats, in unit roundoffs: what a bad low-precision reference must not excuse.
inline constexpr double cap_out = 2, cap_gradient = 32;

template <class Precision> class Oracle {
 public:
  using Real = RealOf<Precision>;
  using Element = typename Precision::Element;
  static constexpr bool low_precision = sizeof(Element) == 2;

  explicit Oracle(Case<Precision> const& c) : Oracle(c, Plain{}) {}
  template <class Score> Oracle(Case<Precision> const& c, Score const& score) : case_(c) {
    DenseInputs<Real> const in{wide(c.q), wide(c.k), wide(c.v), wide(c.dout)};
    exact = dense_attention<Real>(c.problem, c.head_dim, c.value_dim, c.mask, score, c.scale, in);
    if constexpr (low_precision)
      rounded_ =
          dense_attention<Real>(c.problem, c.head_dim, c.value_dim, c.mask, score, c.scale, in, RoundTo<Element>{});
  }

  /// The whole run, or the rows of some of its ranks (`ranks` then has only those).
  Verdict judge(std::vector<RankResult<Precision>> const& ranks) const {
    Verdict v;
    v.largest_score = double(exact.largest_score);
    measure(v, "out", &RankResult<Precision>::out, ranks, exact.out, rounded_.out, case_.out_extents(), true);
    measure_lse(v, ranks);
    if (!case_.backward) return v;
    measure(v, "dq", &RankResult<Precision>::dq, ranks, exact.dq, rounded_.dq, case_.q_extents(), true,
            exact.dq_terms / 64, exact.dq_of_out);
    measure(v, "dk", &RankResult<Precision>::dk, ranks, exact.dk, rounded_.dk, case_.k_extents(), false,
            exact.dk_terms / 64, exact.dk_of_out);
    measure(v, "dv", &RankResult<Precision>::dv, ranks, exact.dv, rounded_.dv, case_.v_extents(), false);
    return v;
  }

  DenseResults<Real> exact;

 private:
  static std::vector<Real> wide(std::vector<Element> const& x) {
    std::vector<Real> y;
    y.reserve(x.size());
    for (Element e : x) {
      if constexpr (low_precision)
        y.push_back(Real(float(e)));
      else
        y.push_back(Real(e));
    }
    return y;
  }
  template <class T>
  static std::vector<T> collect(std::vector<T> RankResult<Precision>::*member,
                                std::vector<RankResult<Precision>> const& ranks, Extents const& e, bool of_queries) {
    std::vector<T> whole = garbage<T>(e);
    for (auto const& r : ranks) put_rows(whole, e, of_queries ? r.rows : r.kv_rows, r.*member);
    return whole;
  }
  void measure(Verdict& v, char const* name, std::vector<Element> RankResult<Precision>::*member,
               std::vector<RankResult<Precision>> const& ranks, std::vector<Real> const& ref,
               std::vector<Real> const& rounded, Extents const& e, bool of_queries, Real floor = 0,
               Real of_out = 0) const {
    Errors const errors = errors_of(collect(member, ranks, e, of_queries), ref, floor);
    bool const gradient = name[0] == 'd';
    double const s = 1 + v.largest_score;
    double const wide_tolerance =
        std::is_same_v<Element, double> ? 1e-13 * s : (gradient ? 64 : 16) * product_roundoff<Precision> * s;
    double tolerance = wide_tolerance, plain_rms = 0;
    if constexpr (low_precision) {
      Errors const plain = errors_of(rounded, ref, floor);
      plain_rms = plain.rms;
      // In a tiny tensor the dense computation may be lucky: what storing out and the result rounds away is allowed.
      double const unit = unit_roundoff<Element>,
                   stored = errors.largest > 0 ? 1 + 2 * double(of_out) / errors.largest : 1;
      tolerance =
          std::min(std::max(2 * plain.max, stored * unit), (gradient ? cap_gradient : cap_out) * unit) + wide_tolerance;
    }
    v.measures.push_back({name, errors.max, errors.rms, tolerance, errors.same_specials, plain_rms});
  }
  /// lse on its own: |error| against max(1, |lse|), row by row; scores never pass through 16 bits.
  void measure_lse(Verdict& v, std::vector<RankResult<Precision>> const& ranks) const {
    auto const got = collect(&RankResult<Precision>::lse, ranks, case_.lse_extents(), true);
    Measure m{"lse", 0, 0,
              std::is_same_v<Element, double> ? 1e-13 * (1 + v.largest_score)
                                              : std::max(1e-5, (std::is_same_v<Precision, Tf32> ? 16 : 2) *
                                                                   product_roundoff<Precision> * (1 + v.largest_score)),
              true};
    for (size_t i = 0; i < exact.lse.size(); ++i) {
      Real const x = Real(got[i]), ref = exact.lse[i];
      if (std::isfinite(ref) && std::isfinite(x))
        m.error = std::max(m.error, double(std::abs(x - ref) / std::max(Real(1), std::abs(ref))));
      else
        m.same_specials = m.same_specials && (std::isnan(ref) ? std::isnan(x) : x == ref);
    }
    v.measures.push_back(m);
  }

  Case<Precision> const& case_;
  DenseResults<Real> rounded_;
};

/// Fills in generated inputs. `spread` of huge_lse: beyond what exp can hold in the accumulator.
template <class Precision> void fill(Case<Precision>& c, InputClass kind, std::uint64_t seed) {
  using Element = typename Precision::Element;
  constexpr bool wide = std::is_same_v<Element, double>;
  auto const convert = [](std::vector<double> const& x) {
    std::vector<Element> y;
    y.reserve(x.size());
    for (double e : x) {
      if constexpr (wide)
        y.push_back(e);
      else
        y.push_back(Element(float(e)));
    }
    return y;
  };
  auto const in = make_inputs<double>(kind, c.problem, c.head_dim, c.value_dim, seed, wide ? 800 : 120, Exact{});
  c.q = convert(in.q);
  c.k = convert(in.k);
  c.v = convert(in.v);
  c.dout = convert(in.dout);
}

template <class P> Setup<P> make_setup(PlanOptions<P> const& options, InputClass kind, std::uint64_t seed) {
  Setup<P> s(options);
  fill<typename P::Precision>(s, kind, seed);
  return s;
}

}  // namespace ringattn::test
