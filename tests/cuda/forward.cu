// SPDX-License-Identifier: Apache-2.0
// Forward kernels of sm_80 in one precision (RINGATTN_TEST_PRECISION) against the oracle: masks, shapes, layouts, runs,
// steps, NaN and infinity.
#include "cases.cuh"

using namespace ringattn;
using namespace ringattn::test;

void check(char const* name, Case const& c) { check_forward<K<64>>(name, c); }

/// Small tiles, two stages.
struct TwoStages {
  constexpr Tile operator()(int, int, int, int) const { return {.q = 32, .kv = 16, .stages = 2, .warps = 2}; }
};

void shapes() {
  Case const c = small_case();
  check_forward<K<32>>("shape", c);
  check_forward<K<96>>("shape", c);
  check_forward<K<128>>("shape", c);
  check_forward<K<192>>("shape", c);
  check_forward<K<256>>("shape", c);
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
    run("NaN in a query", [](DenseInputs<double>& in, Problem const&, int D, int) { at(in.q, 50, 1, D, 3) = NAN; });
    run("NaN in a key", [](DenseInputs<double>& in, Problem const&, int D, int) { at(in.k, 97, 1, D, 63) = NAN; });
    run("infinity in a key",
        [](DenseInputs<double>& in, Problem const&, int D, int) { at(in.k, 97, 1, D, 5) = INFINITY; });
    run("only -infinity for the first rows", [](DenseInputs<double>& in, Problem const&, int D, int) {
      for (int64_t i = 0; i < 140; ++i) at(in.q, i, 1, D, 7) = 1;
      for (int64_t i = 0; i < 60; ++i) at(in.k, i, 1, D, 7) = -INFINITY;
    });
    run("NaN in a value", [](DenseInputs<double>& in, Problem const&, int, int E) { at(in.v, 97, 1, E, 5) = NAN; });
    run("infinities in values", [](DenseInputs<double>& in, Problem const&, int, int E) {
      at(in.v, 97, 1, E, 5) = INFINITY;
      at(in.v, 99, 1, E, 6) = -INFINITY;
      at(in.v, 12, 1, E, 6) = -INFINITY;
      at(in.v, 13, 1, E, 5) = -INFINITY;
    });
  }
}

int main(int argc, char** argv) {
  run_parts(argc, argv,
            {{"masks", [] { every_mask(check); }},
             {"shapes", shapes},
             {"inputs", [] { every_input(check); }},
             {"specials", specials}});
  std::printf(failures ? "%d wrong\n" : "right\n", failures);
  return failures != 0;
}
