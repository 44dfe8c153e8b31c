// SPDX-License-Identifier: Apache-2.0
// Forward kernels of sm_80 in one precision (RINGATTN_TEST_PRECISION) against the oracle: masks, shapes, layouts, runs,
// steps, NaN and infinity. Prints a hash of all bits, which no schedule may change.
#include "cases.cuh"

using namespace ringattn;
using namespace ringattn::test;

void check(char const* name, Case const& c) { check_forward<K<64>>(name, c); }

/// Small tiles, two stages.
struct TwoStages {
  constexpr Tile operator()(int, int, int, int) const { return {.q = 32, .kv = 16, .stages = 2, .warps = 2}; }
};

void whole() {
  each_head_dim([](auto dim) { check_forward<K<dim()>>("whole tiles", whole_case()); });
}

void shapes() {
  Case const c = small_case();
  each_head_dim([&](auto dim) { check_forward<K<dim()>>("shape", c); });
  check_forward<K<192, 128>>("shape", c);
  Case small = c;
  small.shared_limit = 99 * 1024;
  check_forward<K<256>>("card with less shared memory", small);
  check_forward<K<64, 64, Plain, TwoStages>>("two stages", c);
  check_forward<K<64, 64, SoftCap>>("score", c);
  odd_shapes(check);
}

void specials() {
  Case c = longer_case();
  auto const run = [&](char const* name, auto spoil) {
    c.spoil = spoil;
    check(name, c);
  };
  for (AnyMask const& mask : {AnyMask{AnyMask::causal}, AnyMask{AnyMask::window, 20, 5}, AnyMask{AnyMask::full}}) {
    c.mask = mask;
    run("NaN and infinity in queries", [](DenseInputs<double>& in, Problem const&, int D, int) {
      at(in.q, 50, 1, D, 3) = nan_of_ones;
      at(in.q, 70, 1, D, 3) = INFINITY;
      at(in.q, 100, 1, D, 3) = nan_of_ones;  // under the window its first keys are not in the first tile
    });
    run("NaN in a key",
        [](DenseInputs<double>& in, Problem const&, int D, int) { at(in.k, 97, 1, D, 63) = nan_of_ones; });
    run("infinity in a key",
        [](DenseInputs<double>& in, Problem const&, int D, int) { at(in.k, 97, 1, D, 5) = INFINITY; });
    run("only -infinity for the first rows", [](DenseInputs<double>& in, Problem const&, int D, int) {
      for (int64_t i = 0; i < 140; ++i) at(in.q, i, 1, D, 7) = 1;
      for (int64_t i = 0; i < 60; ++i) at(in.k, i, 1, D, 7) = -INFINITY;
    });
    run("NaN in a value",
        [](DenseInputs<double>& in, Problem const&, int, int E) { at(in.v, 97, 1, E, 5) = nan_of_ones; });
    run("infinities in values", [](DenseInputs<double>& in, Problem const&, int, int E) {
      at(in.v, 97, 1, E, 5) = INFINITY;
      at(in.v, 99, 1, E, 6) = -INFINITY;
      at(in.v, 12, 1, E, 6) = -INFINITY;
      at(in.v, 13, 1, E, 5) = -INFINITY;
    });
  }
}

/// What a kernel makes of a weight: fp32's exponential has no subnormal numbers.
struct Weight {
  double operator()(double x) const { return std::abs(x) < 0x1p-126 ? 0 : double(float(Precision::Element(float(x)))); }
};

/// A visible infinity in a value, with weights down to 2^-184, where no key is masked. It is an infinity of the output
/// as long as the precision does not round its weight to 0; then 0 * inf may make it NaN, as it does in a dense
/// computation.
void vanishing_weights() {
  Case const c{.problem = {1, 128, 128, 1, 1}, .q_rows = rows_of(128), .steps = {rows_of(128)}};
  using Element = Precision::Element;
  auto in = make_inputs<double>(c.inputs, c.problem.resolved(), 64, 64, c.seed, 120,
                                [](double x) { return double(float(Element(float(x)))); });
  for (int64_t i = 0; i < 128; ++i) at(in.q, i, 1, 64, 7) = double(i) / 128;
  at(in.k, 97, 1, 64, 7) = -1024;
  at(in.v, 97, 1, 64, 5) = INFINITY;
  auto const plain = dense_attention<double>(c.problem, 64, 64, c.mask, Plain{}, 0, in, Weight{});
  auto const got = run_forward<K<64>>(c, Plain{}, in, c.steps);
  int undefined = 0, wrong = 0;
  for (size_t i = 5; i < got.out.size(); i += 64) {
    float const x = float(got.out[i]);
    undefined += std::isnan(x);
    wrong += std::isnan(x) ? !std::isnan(plain.out[i]) : x != INFINITY;
  }
  bool const ok = wrong == 0 && (undefined > 0) == !std::is_same_v<Precision, Fp32>;
  std::printf("%s infinity with a vanishing weight: %d of 128 rows NaN, %d of them wrong\n", ok ? "  " : "NO",
              undefined, wrong);
  if (!ok) ++failures;
}

int main(int argc, char** argv) {
  run_parts(argc, argv,
            {{"masks", [] { every_mask(check); }},
             {"layouts", [] { every_layout(check); }},
             {"whole", whole},
             {"shapes", shapes},
             {"inputs", [] { every_input(check); }},
             {"specials", specials},
             {"vanishing", vanishing_weights}});
  std::printf("%d wrong, bits %016llx\n", failures, static_cast<unsigned long long>(all_bits));
  return failures != 0;
}
