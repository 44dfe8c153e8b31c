// SPDX-License-Identifier: Apache-2.0
// Runs the backward kernels directly, step by step, and judges the gradients against the oracle.
#pragma once

#include <ringattn/cuda/sm80/attention_backward.cuh>

#include "forward.cuh"

namespace ringattn::test {

template <class Precision> struct BackwardResult {
  std::vector<typename Precision::Element> dq;  // [batch, seq, heads, head_dim]
  std::vector<float> dk, dv;                    // [batch, kv_seq, kv_heads, head_dim or value_dim]

  bool operator==(BackwardResult const& o) const { return hash() == o.hash(); }
  std::uint64_t hash() const { return hash_of(dq, dk, dv); }
};

/// Gradients of a case when its key rows arrive in these steps; `out` and `lse` come from the oracle.
template <class K, cuda::sm80::Adding adding = cuda::sm80::Adding::in_turn>
BackwardResult<typename K::Precision> run_backward(ForwardCase<typename K::Precision> const& c,
                                                   typename K::Score const& score, DenseInputs<double> const& in,
                                                   DenseResults<double> const& exact,
                                                   std::vector<std::vector<Rows>> const& steps) {
  using Element = typename K::Element;
  using Backward = cuda::sm80::Backward<K, adding>;
  Problem const p = c.problem.resolved();
  Extents const qe{p.batch, p.seq, p.heads, K::head_dim}, oe{p.batch, p.seq, p.heads, K::value_dim},
      ke{p.batch, p.kv_seq, p.kv_heads, K::head_dim}, ve{p.batch, p.kv_seq, p.kv_heads, K::value_dim};
  auto const k = convert<Element>(in.k), v = convert<Element>(in.v);
  BackwardResult<typename K::Precision> r;
  r.dq.assign(size_t(qe.count()), Element(77.f));
  r.dk.assign(size_t(ke.count()), 77.f);
  r.dv.assign(size_t(ve.count()), 77.f);
  Memory const memory = memory_of_outputs(c.memory), of_dk = memory < Memory::odd_start ? Memory::head_major : memory;
  OnDevice const on_q(convert<Element>(in.q), qe, c.q_rows, memory), on_dq(r.dq, qe, c.q_rows, memory),
      on_out(convert<Element>(exact.out), oe, c.q_rows, memory),
      on_dout(convert<Element>(in.dout), oe, c.q_rows, c.memory);
  OnDevice const on_lse(convert<float>(exact.lse), {oe.batch, oe.seq, oe.heads, 1}, c.q_rows, memory);

  cudaStream_t stream;
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cuda::Launch const launch{stream, 0, c.shared_limit, 4};
  size_t most_runs = 0;
  for (auto const& s : steps) most_runs = std::max(most_runs, s.size());
  size_t const bytes = Backward::bytes({p.batch, p.heads, p.kv_heads, c.q_rows, p.kv_seq, int64_t(most_runs)});
  std::byte* const state = device_array<std::byte>(bytes);
  std::list<OnDevice<Element>> used;

  BackwardStep<K, DeviceSpace> step{};
  step.q = on_q;
  step.out = on_out;
  step.dout = on_dout;
  step.lse = on_lse;
  step.q_rows = c.q_rows;
  step.mask = c.mask;
  step.score = score;
  step.scale = float(c.scale != 0 ? c.scale : 1 / std::sqrt(double(K::head_dim)));
  step.state = state;
  Backward::begin(step, launch);
  for (auto const& runs : steps) {
    OnDevice const on_dk(r.dk, ke, runs, of_dk), on_dv(r.dv, ve, runs, memory == Memory::every_second ? memory : of_dk);
    step.k = used.emplace_back(k, ke, runs, c.memory);
    step.v = used.emplace_back(v, ve, runs, c.memory);
    step.dk = on_dk;
    step.dv = on_dv;
    step.k_rows = runs;
    Backward::step(step, launch);
    CHECK_CUDA(cudaStreamSynchronize(stream));
    on_dk.fetch(r.dk);
    on_dv.fetch(r.dv);
  }
  Backward::finish(step, on_dq, launch);
  CHECK_CUDA(cudaStreamSynchronize(stream));
  on_dq.fetch(r.dq);
  CHECK_CUDA(cudaFree(state));
  CHECK_CUDA(cudaStreamDestroy(stream));
  return r;
}

/// Errors of the gradients against fp64, and their tolerances as in docs/numerics.md.
template <class Precision>
bool judge(BackwardResult<Precision> const& r, DenseResults<double> const& exact, DenseResults<double> const& rounded,
           std::string& text) {
  bool constexpr low = sizeof(typename Precision::Element) == 2, tf32 = std::is_same_v<Precision, Tf32>;
  double const s = 1 + exact.largest_score, unit = std::is_same_v<Precision, Bf16> ? 0x1p-8 : 0x1p-11;
  bool all = true;
  auto const one = [&](char const* name, auto const& got, std::vector<double> const& ref,
                       std::vector<double> const& plain, double floor, double of_out) {
    Errors const e = errors_of(got, ref, std::isfinite(floor) ? floor : 0);
    double tolerance = 64 * (tf32 ? 0x1p-14 : 0x1p-24) * s;
    if constexpr (low) {
      double const stored = e.largest > 0 && std::isfinite(of_out) ? 1 + 2 * of_out / e.largest : 1;
      tolerance +=
          std::min(std::max(2 * errors_of(plain, ref, std::isfinite(floor) ? floor : 0).max, stored * unit), 32 * unit);
    }
    bool const ok = e.same_specials && e.max <= tolerance;
    char line[120];
    std::snprintf(line, sizeof line, "%s %.2e of %.2e%s%s, ", name, e.max, tolerance,
                  e.same_specials ? "" : " SPECIALS", ok ? "" : " FAILS");
    text += line;
    all = all && ok;
  };
  one("dq", r.dq, exact.dq, rounded.dq, exact.dq_terms / 64, exact.dq_of_out);
  one("dk", r.dk, exact.dk, rounded.dk, exact.dk_terms / 64, exact.dk_of_out);
  one("dv", r.dv, exact.dv, rounded.dv, 0, 0);
  return all;
}

/// Runs a case in its steps and in one, which must be bitwise equal, and compares with the oracle. Sums of dQ by
/// atomics have no bits of their own.
template <class K, cuda::sm80::Adding adding = cuda::sm80::Adding::in_turn>
void check_backward(char const* name, ForwardCase<typename K::Precision> const& c) {
  using Precision = typename K::Precision;
  Problem const p = c.problem.resolved();
  auto const round = [](double x) { return double(float(typename K::Element(float(x)))); };
  auto in = make_inputs<double>(c.inputs, p, K::head_dim, K::value_dim, c.seed, 120, round);
  if (c.spoil) c.spoil(in, p, K::head_dim, K::value_dim);
  typename K::Score const score{};
  auto const exact = dense_attention<double>(p, K::head_dim, K::value_dim, c.mask, score, c.scale, in);
  auto const rounded =
      dense_attention<double>(p, K::head_dim, K::value_dim, c.mask, score, c.scale, in, RoundTo<typename K::Element>{});
  auto const stepwise = run_backward<K, adding>(c, score, in, exact, c.steps);
  std::string text;
  bool ok = judge<Precision>(stepwise, exact, rounded, text);
  if (c.steps.size() > 1) {
    std::vector<Rows> all;
    for (auto const& s : c.steps) all.insert(all.end(), s.begin(), s.end());
    auto at_once = run_backward<K, adding>(c, score, in, exact, {all});
    if (adding == cuda::sm80::Adding::atomic) at_once.dq = stepwise.dq;
    if (!(at_once == stepwise)) {
      ok = false;
      text += "in one step OTHER BITS, ";
    }
  }
  all_bits = all_bits * 31 + stepwise.hash();
  std::printf("%s %s, head_dim %d, value_dim %d, %s: %slargest score %.3g\n", ok ? "  " : "NO", name, K::head_dim,
              K::value_dim, AnyMask::names[c.mask.kind], text.c_str(), exact.largest_score);
  if (!ok) ++failures;
}

}  // namespace ringattn::test
