// SPDX-License-Identifier: Apache-2.0
// NaN and infinities in q, k, v and dout reach exactly what a dense computation over the visible pairs gives them to.
#include <cstdio>

#include "cases.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

/// NaN and Inf in the same places. Where the oracle has an infinity, Cpu may have a NaN: the order of the sums decides
/// whether inf - inf appears.
template <class X, class R> std::string differs(std::vector<X> const& x, std::vector<R> const& ref) {
  for (size_t i = 0; i < ref.size(); ++i) {
    double const a = double(cpu::convert<float>(x[i])), b = double(ref[i]);
    bool const ok = std::isfinite(b) ? std::isfinite(a) : std::isinf(b) ? !std::isfinite(a) : std::isnan(a);
    if (!ok) return "element " + std::to_string(i) + ": " + std::to_string(a) + ", oracle " + std::to_string(b);
  }
  return "";
}

template <class K> void place_specials(std::uint64_t seed, int count) {
  Random r(seed);
  Cpu cpu, several({.threads = 3});
  for (int n = 0; n < count; ++n) {
    Case<K> c;
    c.heads = 2;
    c.kv_heads = 1 + r.below(2);
    c.q_rows = {{0, 1, 40 + r.below(60)}, {200, 1, 1 + r.below(30)}};
    c.k_rows = {{0, 1, 50 + r.below(100)}, {180, 2, 1 + r.below(40)}};
    if constexpr (std::is_same_v<typename K::Mask, Causal>) c.mask = {r.below(20) - 10};
    if constexpr (std::is_same_v<typename K::Mask, SlidingWindow>) c.mask = {r.below(30), r.below(10)};
    std::uint64_t const inputs = r.bits();
    c.fill(inputs);
    auto* const tensor = std::array{&c.in.q, &c.in.k, &c.in.v, &c.in.dout}[size_t(n % 4)];
    for (int64_t i = 1 + r.below(2); i > 0; --i) {
      using Real = typename Case<K>::Real;
      Real const inf = std::numeric_limits<Real>::infinity();
      Real const special = std::array{std::numeric_limits<Real>::quiet_NaN(), inf, -inf}[size_t(r.below(3))];
      (*tensor)[size_t(r.below(int64_t(tensor->size())))] = special;
    }
    CAPTURE(seed);
    CAPTURE(n);
    auto const ref = c.oracle();
    auto const got = c.run(cpu);
    CHECK(differs(got.out, ref.out) == "");
    CHECK(differs(got.lse, ref.lse) == "");
    CHECK(differs(got.dq, ref.dq) == "");
    CHECK(differs(got.dk, ref.dk) == "");
    CHECK(differs(got.dv, ref.dv) == "");
    // NaN payloads and signs may differ between instructions; the rest may not.
    auto const again = c.run(several);
    CHECK(differs(again.dk, ref.dk) == "");
    CHECK(differs(again.dq, ref.dq) == "");
  }
}

}  // namespace

TEST_CASE("specials under a causal mask") { place_specials<Kernel<Fp32, Causal, Plain, DefaultTiles, 16, 16>>(21, 60); }
TEST_CASE("specials under a window") {
  place_specials<Kernel<Fp32, SlidingWindow, Plain, FixedTiles<20, 24>, 16, 24>>(22, 60);
}
TEST_CASE("specials without a mask") { place_specials<Kernel<Fp64, Full, Plain, DefaultTiles, 16, 16>>(23, 20); }
TEST_CASE("specials in 16 bits") { place_specials<Kernel<Bf16, Causal, Plain, DefaultTiles, 16, 16>>(24, 20); }

TEST_CASE("a special row leaves the other rows' bits alone") {
  using K = Kernel<Fp32, Causal, Plain, DefaultTiles, 16, 16>;
  Case<K> c{.q_rows = {{0, 1, 100}}, .k_rows = {{0, 1, 100}}};
  c.fill(25);
  Cpu cpu;
  auto const plain = c.run(cpu);
  c.in.v[70 * 16 + 3] = std::numeric_limits<double>::infinity();  // key 70: seen by queries 70 .. 99
  auto const got = c.run(cpu);
  for (size_t i = 0; i < 70 * 16; ++i) CHECK((got.out[i] == plain.out[i] && got.dq[i] == plain.dq[i]));
  for (size_t i = 0; i < 100; ++i) CHECK(got.lse[i] == plain.lse[i]);
}

TEST_CASE_TEMPLATE("what lies behind the last key does not count", K, Kernel<Fp32, Causal, Plain, DefaultTiles, 16, 16>,
                   Kernel<Bf16, Causal, Plain, DefaultTiles, 16, 16>) {
  // One query that sees 75 keys and not the next one, in the same run and then in a run of its own, which is no number.
  for (int64_t rows : {76, 75}) {
    Case<K> c{.heads = 3, .kv_heads = 1, .q_rows = {{74, 1, 1}}, .k_rows = {{0, 1, rows}}};
    if (rows == 75) c.k_rows.push_back({75, 1, 1});
    c.fill(26);
    for (auto* x : {&c.in.k, &c.in.v})
      for (int d = 0; d < 16; ++d) (*x)[size_t(75 * 16 + d)] = std::numeric_limits<typename Case<K>::Real>::quiet_NaN();
    Cpu cpu;
    auto const got = c.run(cpu);
    auto const ref = c.oracle();
    CHECK(differs(got.out, ref.out) == "");
    CHECK(differs(got.lse, ref.lse) == "");
  }
}
