// SPDX-License-Identifier: Apache-2.0
// Backward kernels of sm_80 in one precision (RINGATTN_TEST_PRECISION) against the oracle: masks, shapes, layouts,
// runs, steps, NaN and infinity. Prints a hash of all bits, which no schedule may change.
#include "backward.cuh"
#include "cases.cuh"

using namespace ringattn;
using namespace ringattn::test;

void check(char const* name, Case const& c) { check_backward<K<64>>(name, c); }

/// Small tiles, of which even small problems have many.
struct SmallTiles : DefaultTiles {
  constexpr Tile backward(int, int, int, int) const { return {.q = 16, .kv = 32, .stages = 2, .warps = 4}; }
};
/// 32 keys a warp, and two warps for them, so that P goes through shared memory.
struct ManyKeys : DefaultTiles {
  constexpr Tile backward(int, int, int, int) const {
    return {.q = 32, .kv = 64, .stages = 2, .warps = 4, .keys_per_warp = 32};
  }
};
/// One warp for 128 queries.
struct OneWarp : DefaultTiles {
  constexpr Tile backward(int, int, int, int) const { return {.q = 128, .kv = 16, .stages = 1, .warps = 1}; }
};
/// More queries than warps.
struct FewWarps : DefaultTiles {
  constexpr Tile backward(int, int, int, int) const { return {.q = 64, .kv = 32, .stages = 1, .warps = 2}; }
};

void whole() {
  each_head_dim([](auto dim) { check_backward<K<dim()>>("whole tiles", whole_case()); });
}

void shapes() {
  Case const c = small_case();
  each_head_dim([&](auto dim) { check_backward<K<dim()>>("shape", c); });
  check_backward<K<192, 128>>("shape", c);
  Case small = c;
  small.shared_limit = 99 * 1024;
  check_backward<K<128>>("card with less shared memory", small);
  check_backward<K<192>>("card with less shared memory", small);
  check_backward<K<256>>("card with less shared memory", small);
}

void tiles() {
  Case const c{
      .problem = {2, 150, 150, 2, 1}, .mask = {AnyMask::causal}, .q_rows = rows_of(150), .steps = zigzag(150, 2)};
  check_backward<K<64, 64, Plain, SmallTiles>>("small tiles", c);
  check_backward<K<64, 64, Plain, FewWarps>>("few warps", c);
  check_backward<K<64, 64, Plain, OneWarp>>("one warp", c);
  check_backward<K<64, 64, Plain, ManyKeys>>("32 keys a warp", c);
  check_backward<K<64, 64, SoftCap>>("score", c);
  odd_shapes(check);
}

void inputs() {
  every_input(check);
  // Weights of zeros past the end of the keys are 2^456 here.
  check("scores far below 0", {.problem = {1, 140, 140, 1, 1},
                               .q_rows = rows_of(140),
                               .steps = {rows_of(140)},
                               .spoil = [](DenseInputs<double>& in, Problem const&, int D, int) {
                                 for (size_t i = 0; i < in.q.size(); i += size_t(D)) in.q[i] = 128;
                                 for (size_t i = 0; i < in.k.size(); i += size_t(D)) in.k[i] = -20;
                               }});
}

template <class Kernel> void specials_of(AnyMask const& mask) {
  Case c = longer_case();
  c.mask = mask;
  c.steps = zigzag(140, 1);
  auto const run = [&](char const* name, auto spoil) {
    c.spoil = spoil;
    check_backward<Kernel>(name, c);
  };
  using In = DenseInputs<double>;
  run("NaN and infinity in queries", [](In& in, Problem const&, int D, int) {
    at(in.q, 50, 1, D, 3) = nan_of_ones;
    at(in.q, 100, 1, D, 3) = INFINITY;
  });
  run("NaN in a key", [](In& in, Problem const&, int D, int) { at(in.k, 97, 1, D, 63) = nan_of_ones; });
  run("infinity in a key", [](In& in, Problem const&, int D, int) { at(in.k, 97, 1, D, 5) = INFINITY; });
  run("NaN and infinity in values", [](In& in, Problem const&, int, int E) {
    at(in.v, 97, 1, E, 5) = nan_of_ones;
    at(in.v, 60, 1, E, 5) = INFINITY;
  });
  run("NaN and infinities in dO", [](In& in, Problem const&, int, int E) {
    at(in.dout, 60, 1, E, 5) = INFINITY;
    at(in.dout, 80, 1, E, 5) = nan_of_ones;
    at(in.dout, 99, 1, E, 6) = -INFINITY;
    at(in.dout, 12, 1, E, 6) = -INFINITY;
  });
}

void specials() {
  specials_of<K<64>>({AnyMask::causal});
  specials_of<K<64>>({AnyMask::window, 20, 5});
  specials_of<K<64>>({AnyMask::full});
  specials_of<K<64, 64, Plain, SmallTiles>>({AnyMask::causal});
  specials_of<K<64, 64, Plain, ManyKeys>>({AnyMask::causal});
}

int main(int argc, char** argv) {
  run_parts(argc, argv,
            {{"masks", [] { every_mask(check); }},
             {"layouts", [] { every_layout(check); }},
             {"whole", whole},
             {"shapes", shapes},
             {"tiles", tiles},
             {"inputs", inputs},
             {"specials", specials}});
  std::printf("%d wrong, bits %016llx\n", failures, static_cast<unsigned long long>(all_bits));
  return failures != 0;
}
