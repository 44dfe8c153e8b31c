// SPDX-License-Identifier: Apache-2.0
// A few small cases of the forward (RINGATTN_TEST_PASS=1) or backward kernels (2; 3: sums of dQ by atomics) with small
// tiles: quick enough to be compiled and run for every bug that tests/mutations/cuda.py plants in them.
#include "backward.cuh"
#include "cases.cuh"

using namespace ringattn;
using namespace ringattn::test;

/// Forward, warps share keys and there are two stages. Backward, warps share weights, or in Fp32 have keys of their
/// own, in one stage.
struct Small {
  constexpr Tile operator()(int, int, int, int) const { return {.q = 32, .kv = 16, .stages = 2, .warps = 2}; }
  constexpr Tile backward(int, int, int, int bytes) const {
    if (bytes == 4) return {.q = 32, .kv = 32, .stages = 1, .warps = 2};
    return {.q = 16, .kv = 16, .stages = 2, .warps = 2};
  }
};

template <int pass = RINGATTN_TEST_PASS> void check(char const* name, Case const& c) {
  using Kernels = K<32, 32, Plain, Small>;
  if constexpr (pass == 1) check_forward<Kernels>(name, c);
  if constexpr (pass == 2) check_backward<Kernels>(name, c);
  if constexpr (pass == 3) check_backward<Kernels, cuda::sm80::Adding::atomic>(name, c);
}

int main() {
  // The diagonal passes one key before the last of a whole tile, and through the corner of another one.
  Case c{.problem = {1, 60, 76, 2, 1},
         .mask = {AnyMask::causal, -7},
         .q_rows = {{40, 1, 20}, {0, 1, 27}, {27, 1, 13}},
         .steps = zigzag(76, 2)};
  check("runs and steps", c);
  // Each of them is seen by rows that see no other one, and the NaN in a query by no key of its block's first tile.
  c.mask = {AnyMask::window, 7, 3};
  c.inputs = InputClass::uniform02;
  c.spoil = [](DenseInputs<double>& in, Problem const&, int D, int E) {
    at(in.q, 50, 2, D, 3) = nan_of_ones;
    at(in.k, 30, 1, D, 5) = -INFINITY;
    at(in.v, 12, 1, E, 6) = nan_of_ones;
    at(in.dout, 22, 2, E, 6) = INFINITY;
  };
  check("NaN and infinities", c);
  c.mask = {AnyMask::window, 30, 10};
  c.spoil = nullptr;
  c.problem = {2, 60, 76, 4, 2};
  c.memory = Memory::every_second;
  c.scale = -0.2;
  check("groups of heads, strides, negative scale", c);
  check("no keys for the first rows, odd start", {.problem = {1, 40, 16, 1, 1},
                                                  .mask = {AnyMask::causal, -34},
                                                  .q_rows = rows_of(40),
                                                  .steps = {rows_of(16)},
                                                  .memory = Memory::odd_start});
  // More tiles than a warp has lanes between those that see each other, more runs than a kernel's parameters hold.
  Case far{.problem = {2, 80, 80, 1, 1}, .mask = {AnyMask::window, 3, 1}, .steps = {{}}, .memory = Memory::far_apart};
  for (int64_t i = 0; i < 80; ++i) far.q_rows.push_back({i % 40 * 2 + i / 40, 1, 1});
  far.steps[0] = far.q_rows;
  check("far apart", far);
  // Weights of zeros past the end of the keys are 2^645 here, and sums without a maximum are 0.
  c = {.problem = {1, 60, 76, 2, 1},
       .q_rows = {{40, 1, 20}, {0, 1, 40}},
       .steps = zigzag(76, 2),
       .spoil = [](DenseInputs<double>& in, Problem const&, int D, int) {
         for (size_t i = 0; i < in.q.size(); i += size_t(D)) in.q[i] = 128;
         for (size_t i = 0; i < in.k.size(); i += size_t(D)) in.k[i] = -20;
       }};
  check("scores far below 0", c);
  // dQ is what two large sums leave, and something small that is lost unless it comes after them.
  c.spoil = [](DenseInputs<double>& in, Problem const& p, int D, int E) {
    for (auto* x : {&in.q, &in.k, &in.v, &in.dout}) std::fill(x->begin(), x->end(), 0);
    for (int64_t j = 0; j < p.kv_seq; ++j) {
      int64_t const quarter = j * 4 / p.kv_seq;  // the outer ones come in the first step
      at(in.k, j, 1, D, 3) = quarter == 0 ? 0x1p14 : quarter == 3 ? -0x1p14 : 0x1p-14;
      at(in.v, j, 1, E, 0) = quarter % 3 == 0 ? 1 : -1;
    }
    for (size_t i = 0; i < in.dout.size(); i += size_t(E)) in.dout[i] = 1;
  };
  if (RINGATTN_TEST_PASS == 2) check("order of dQ", c);
  std::printf("%d wrong\n", failures);
  return failures != 0;
}
