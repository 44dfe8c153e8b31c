// SPDX-License-Identifier: Apache-2.0
// Runs the forward kernels directly, step by step, and judges what came out against the oracle.
#pragma once

#include <ringattn/cuda/sm80/attention.cuh>
#include <ringattn/policy.hpp>

#include <cstring>
#include <list>
#include <string>

#include "../emulator/check.cuh"
#include "../inputs.hpp"

namespace ringattn::test {

/// Masks chosen at run time, so that one compiled kernel tests all of them.
struct AnyMask {
  enum Kind { full, causal, window, parity, documents, nothing };
  static constexpr char const* names[] = {"full", "causal", "window", "parity", "documents", "nothing"};

  int kind = full;
  int64_t a = 0, b = 0;  // causal: offset; window: left, right; documents: length

  RINGATTN_HD bool visible(int64_t q, int64_t k) const {
    switch (kind) {
      case causal:
        return Causal{a}.visible(q, k);
      case window:
        return SlidingWindow{a, b}.visible(q, k);
      case parity:
        return (q + k) % 2 == 0;
      case documents:
        return q / a == k / a && k <= q;
      default:
        return kind == full;
    }
  }
  RINGATTN_HD Coverage coverage(Rows q, Rows k) const {
    switch (kind) {
      case full:
        return Coverage::full;
      case causal:
        return Causal{a}.coverage(q, k);
      case window:
        return SlidingWindow{a, b}.coverage(q, k);
      case documents:
        return q.first / a > k.last() / a || k.first > q.last() ? Coverage::none : Coverage::partial;
      case nothing:
        return Coverage::none;
      default:
        return Coverage::partial;
    }
  }
  std::uint64_t fingerprint() const { return 0; }
};

/// cap tanh(score / cap) less a distance, with the slope of it.
struct SoftCap {
  static constexpr bool identity = false;
  template <class A> RINGATTN_HD A apply(A score, int64_t head, int64_t q, int64_t k) const {
    using std::tanh;
    return A(4) * tanh(score / A(4)) - A(head + 1) * A(q > k ? q - k : k - q) / A(64);
  }
  template <class A> RINGATTN_HD A slope(A score, int64_t, int64_t, int64_t) const {
    using std::tanh;
    A const y = tanh(score / A(4));
    return A(1) - y * y;
  }
  std::uint64_t fingerprint() const { return 0; }
};

/// How a test lays a tensor out in memory. `odd_start`: dense, from the second element of the memory on. `backwards`:
/// the last row and head first. `broadcast`, of inputs: all batch entries and heads are one. `far_apart`: the two batch
/// entries, heads or rows, whichever are two, lie in two places of the address space, further apart than 2^31 elements.
enum class Memory { dense, head_major, padded_rows, every_second, odd_start, backwards, broadcast, far_apart };

constexpr Memory memory_of_outputs(Memory m) { return m == Memory::broadcast ? Memory::dense : m; }

/// f(index in a whole dense tensor of `seq` rows, index in memory) for every element of a view of the rows `runs`.
template <class F>
void each_element(Extents const& e, int64_t const (&stride)[4], int64_t seq, std::vector<Rows> const& runs, F f) {
  for (int64_t b = 0; b < e.batch; ++b) {
    int64_t at = 0;
    for (Rows const& rows : runs)
      for (int64_t i = 0; i < rows.count; ++i, ++at)
        for (int64_t h = 0; h < e.heads; ++h)
          for (int64_t d = 0; d < e.dim; ++d)
            f(size_t(((b * seq + rows.at(i)) * e.heads + h) * e.dim + d),
              b * stride[0] + at * stride[1] + h * stride[2] + d * stride[3]);
  }
}

/// Some rows of a whole dense tensor, on the device, in a layout.
template <class T> class OnDevice {
 public:
  OnDevice(std::vector<T> const& whole, Extents e, std::vector<Rows> rows, Memory memory)
      : seq_(e.seq), rows_(std::move(rows)), local_{e.batch, count_rows(rows_), e.heads, e.dim} {
    int64_t const extent[4] = {local_.batch, local_.seq, local_.heads, local_.dim};
    int64_t const width = e.dim + (memory == Memory::padded_rows ? 16 / int64_t(sizeof(T)) : 0);
    int64_t const dim = memory == Memory::every_second ? 2 : 1, row = width * dim;
    bool const major = memory == Memory::head_major;
    int64_t stride[4] = {local_.seq * e.heads * row, major ? row : e.heads * row, major ? local_.seq * row : row, dim};
    if (memory == Memory::backwards) stride[1] = -stride[1], stride[2] = -stride[2];
    if (memory == Memory::broadcast) stride[0] = stride[2] = 0;
    int far = -1;  // the axis of two
    if (memory == Memory::far_apart) {
      far = extent[0] == 2 ? 0 : extent[2] == 2 ? 2 : 1;
      for (int i = 0; i < far; ++i) stride[i] /= 2;
      stride[far] = local_.count() / 2;
    }
    first_ = memory == Memory::odd_start;
    int64_t behind = 0;
    for (int i = 0; i < 4; ++i) (stride[i] < 0 ? first_ : behind) += (extent[i] - 1) * std::abs(stride[i]);
    std::copy(stride, stride + 4, stride_);
    std::vector<T> values(size_t(first_ + 1 + behind));
    std::memset(static_cast<void*>(values.data()), 0xff, values.size() * sizeof(T));  // what lies between is NaN
    each([&](size_t from, int64_t to) { values[size_t(first_ + to)] = whole[from]; });
    count_ = values.size() / (far < 0 ? 1 : 2);
    memory_ = device_copy(std::vector<T>(values.begin(), values.begin() + int64_t(count_)));
    if (far >= 0) {
      // Memory of the host, where kernels reach it: the device's is not this large everywhere.
      CHECK_CUDA(cudaMallocHost(reinterpret_cast<void**>(&rest_), count_ * sizeof(T)));
      std::copy(values.begin() + int64_t(count_), values.end(), rest_);
      stride[far] = (reinterpret_cast<std::intptr_t>(rest_) - reinterpret_cast<std::intptr_t>(memory_)) /
                    std::intptr_t(sizeof(T));
      if (std::abs(stride[far]) < int64_t(1) << 31) std::printf("   not far apart on this machine\n");
    }
    view_ = {memory_ + first_, local_, stride};
  }
  OnDevice(OnDevice const&) = delete;
  ~OnDevice() {
    CHECK_CUDA(cudaFree(memory_));
    CHECK_CUDA(cudaFreeHost(rest_));
  }

  operator View<T, DeviceSpace>() const { return view_; }
  operator View<T const, DeviceSpace>() const { return view_; }
  /// The rows back into the whole tensor.
  void fetch(std::vector<T>& whole) const {
    auto values = host_copy(memory_, count_);
    if (rest_) values.insert(values.end(), rest_, rest_ + count_);
    each([&](size_t to, int64_t from) { whole[to] = values[size_t(first_ + from)]; });
  }

 private:
  template <class F> void each(F f) const { each_element(local_, stride_, seq_, rows_, f); }

  int64_t seq_;  ///< of the whole tensor
  std::vector<Rows> rows_;
  Extents local_;
  int64_t stride_[4], first_ = 0;  ///< in a host's copy
  size_t count_ = 0;
  T *memory_ = nullptr, *rest_ = nullptr;
  View<T, DeviceSpace> view_;
};

template <class Precision> struct ForwardCase {
  using Element = typename Precision::Element;

  Problem problem;
  AnyMask mask{};
  std::vector<Rows> q_rows;
  std::vector<std::vector<Rows>> steps;
  Memory memory = Memory::dense;
  double scale = 0;
  InputClass inputs = InputClass::normal;
  std::uint64_t seed = 1;
  size_t shared_limit = 163 * 1024;
  void (*spoil)(DenseInputs<double>&, Problem const&, int head_dim, int value_dim) = nullptr;
};

/// Of all bits of some vectors.
template <class... T> std::uint64_t hash_of(std::vector<T> const&... all) {
  std::uint64_t h = 0xcbf29ce484222325u;
  auto const mix = [&](auto const& x) {
    auto const* const p = reinterpret_cast<unsigned char const*>(x.data());
    for (size_t i = 0; i < x.size() * sizeof(x[0]); ++i) h = (h ^ p[i]) * 0x100000001b3u;
  };
  (mix(all), ...);
  return h;
}
/// Of all results so far: the same under every schedule.
inline std::uint64_t all_bits = 0;

template <class Precision> struct ForwardResult {
  std::vector<typename Precision::Element> out;  // [batch, seq, heads, value_dim]
  std::vector<float> lse;                        // [batch, seq, heads]

  bool operator==(ForwardResult const& o) const {
    return std::memcmp(out.data(), o.out.data(), out.size() * sizeof(out[0])) == 0 &&
           std::memcmp(lse.data(), o.lse.data(), lse.size() * sizeof(float)) == 0;
  }
  std::uint64_t hash() const { return hash_of(out, lse); }
};

template <class T> std::vector<T> convert(std::vector<double> const& x) {
  std::vector<T> y;
  for (double e : x) y.push_back(T(float(e)));
  return y;
}

/// out and lse of a case when its key rows arrive in these steps. `in_parts`: the first one begins and the last one
/// ends the call, as far as they have keys.
template <class K>
ForwardResult<typename K::Precision> run_forward(ForwardCase<typename K::Precision> const& c,
                                                 typename K::Score const& score, DenseInputs<double> const& in,
                                                 std::vector<std::vector<Rows>> const& steps, bool in_parts = false) {
  using Element = typename K::Element;
  using Forward = cuda::sm80::Forward<K>;
  Problem const p = c.problem.resolved();
  Extents const qe{p.batch, p.seq, p.heads, K::head_dim}, oe{p.batch, p.seq, p.heads, K::value_dim},
      ke{p.batch, p.kv_seq, p.kv_heads, K::head_dim}, ve{p.batch, p.kv_seq, p.kv_heads, K::value_dim};
  auto const q = convert<Element>(in.q), k = convert<Element>(in.k), v = convert<Element>(in.v);
  std::vector<Element> const garbage(size_t(oe.count()), Element(77.f));
  std::vector<float> const lse_garbage(size_t(oe.count() / oe.dim), 77.f);
  Memory const memory = memory_of_outputs(c.memory);
  OnDevice const on_q(q, qe, c.q_rows, memory), on_out(garbage, oe, c.q_rows, memory);
  OnDevice const on_lse(lse_garbage, {oe.batch, oe.seq, oe.heads, 1}, c.q_rows, memory);

  cudaStream_t stream;
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cuda::Launch const launch{stream, 0, c.shared_limit, 4};
  size_t most_runs = 0;
  for (auto const& s : steps) most_runs = std::max(most_runs, s.size());
  size_t const bytes = Forward::bytes({p.batch, p.heads, p.kv_heads, c.q_rows, p.kv_seq, int64_t(most_runs)});
  std::byte* const state = device_array<std::byte>(bytes);

  AttendStep<K, DeviceSpace> step{};
  step.q = on_q;
  step.q_rows = c.q_rows;
  step.mask = c.mask;
  step.score = score;
  step.scale = float(c.scale != 0 ? c.scale : 1 / std::sqrt(double(K::head_dim)));
  step.state = state;
  AttendResult<K, DeviceSpace> const result{on_out, on_lse};
  if (!in_parts) Forward::begin(step, launch);
  std::list<OnDevice<Element>> used;
  for (auto const& runs : steps) {
    step.k = used.emplace_back(k, ke, runs, c.memory);
    step.v = used.emplace_back(v, ve, runs, c.memory);
    step.k_rows = runs;
    if (in_parts)
      Forward::step(step, {&runs == &steps.front(), &runs == &steps.back() ? &result : nullptr}, launch);
    else
      Forward::step(step, launch);
  }
  if (!in_parts) Forward::finish(step, result, launch);
  CHECK_CUDA(cudaStreamSynchronize(stream));

  ForwardResult<typename K::Precision> r{garbage, lse_garbage};
  on_out.fetch(r.out);
  on_lse.fetch(r.lse);
  CHECK_CUDA(cudaFree(state));
  CHECK_CUDA(cudaStreamDestroy(stream));
  return r;
}

/// Errors of `out` and `lse` against fp64, and their tolerances as in docs/numerics.md. Tf32: both factors of a score
/// are off by 2^-11 at most, and so are weights and values.
template <class Precision>
bool judge(ForwardResult<Precision> const& r, DenseResults<double> const& exact, DenseResults<double> const& rounded,
           std::string& text) {
  bool constexpr low = sizeof(typename Precision::Element) == 2, tf32 = std::is_same_v<Precision, Tf32>;
  double const s = 1 + exact.largest_score, eps = 0x1p-24;
  double const unit = std::is_same_v<Precision, Bf16> ? 0x1p-8 : 0x1p-11;
  Errors const e = errors_of(r.out, exact.out);
  double tolerance = (tf32 ? 2 * unit : 16 * eps) * s;
  if constexpr (low) tolerance += std::min(std::max(2 * errors_of(rounded.out, exact.out).max, unit), 2 * unit);
  double const lse_tolerance = tf32 ? 2 * unit * s : std::max(1e-5, 2 * eps * s);
  double lse_error = 0;
  bool same = true;
  for (size_t i = 0; i < exact.lse.size(); ++i) {
    double const x = r.lse[i], ref = exact.lse[i];
    if (std::isfinite(ref) && std::isfinite(x))
      lse_error = std::max(lse_error, std::abs(x - ref) / std::max(1.0, std::abs(ref)));
    else
      same = same && (std::isnan(ref) ? std::isnan(x) : x == ref);
  }
  bool const ok = e.same_specials && same && e.max <= tolerance && lse_error <= lse_tolerance;
  char line[200];
  std::snprintf(line, sizeof line, "out %.2e of %.2e%s, lse %.2e of %.2e%s, largest score %.3g%s", e.max, tolerance,
                e.same_specials ? "" : " SPECIALS", lse_error, lse_tolerance, same ? "" : " SPECIALS",
                exact.largest_score, ok ? "" : " FAILS");
  text = line;
  return ok;
}

/// Runs a case in its steps and in one, with steps that know their parts and with such that do not, which must be
/// bitwise equal, and compares with the oracle.
template <class K> void check_forward(char const* name, ForwardCase<typename K::Precision> const& c) {
  using Precision = typename K::Precision;
  Problem const p = c.problem.resolved();
  auto const round = [](double x) { return double(float(typename K::Element(float(x)))); };
  auto in = make_inputs<double>(c.inputs, p, K::head_dim, K::value_dim, c.seed, 120, round);
  if (c.spoil) c.spoil(in, p, K::head_dim, K::value_dim);
  typename K::Score const score{};
  auto const exact = dense_attention<double>(p, K::head_dim, K::value_dim, c.mask, score, c.scale, in);
  auto const rounded =
      dense_attention<double>(p, K::head_dim, K::value_dim, c.mask, score, c.scale, in, RoundTo<typename K::Element>{});
  auto const stepwise = run_forward<K>(c, score, in, c.steps);
  std::string text;
  bool ok = judge<Precision>(stepwise, exact, rounded, text);
  if (c.steps.size() > 1) {
    std::vector<Rows> all;
    for (auto const& s : c.steps) all.insert(all.end(), s.begin(), s.end());
    if (!(run_forward<K>(c, score, in, {all}, true) == stepwise)) {
      ok = false;
      text += ", in one step OTHER BITS";
    }
  }
  if (!(run_forward<K>(c, score, in, c.steps, true) == stepwise)) {
    ok = false;
    text += ", in parts OTHER BITS";
  }
  all_bits = all_bits * 31 + stepwise.hash();
  std::printf("%s %s, head_dim %d, value_dim %d, %s: %s\n", ok ? "  " : "NO", name, K::head_dim, K::value_dim,
              AnyMask::names[c.mask.kind], text.c_str());
  if (!ok) ++failures;
}

}  // namespace ringattn::test
