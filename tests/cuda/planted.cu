// SPDX-License-Identifier: Apache-2.0
// A few small cases of the forward and backward kernels with small tiles: quick enough to be compiled and run for every
// bug that tests/mutations/cuda.py plants in them.
#include "backward.cuh"
#include "cases.cuh"

using namespace ringattn;
using namespace ringattn::test;

/// Warps share keys (forward) or weights (backward); two stages.
struct Small {
  constexpr Tile operator()(int, int, int, int) const { return {.q = 32, .kv = 16, .stages = 2, .warps = 2}; }
  constexpr Tile backward(int, int, int, int) const { return {.q = 16, .kv = 16, .stages = 2, .warps = 2}; }
};
using Kernels = K<32, 32, Plain, Small>;

int main() {
  Case c{.problem = {1, 60, 76, 2, 1},
         .mask = {AnyMask::causal, 16},
         .q_rows = {{40, 1, 20}, {0, 1, 40}},
         .steps = zigzag(76, 2)};
  check_forward<Kernels>("runs and steps", c);
  check_backward<Kernels>("runs and steps", c);
  c.mask = {AnyMask::window, 30, 10};
  c.inputs = InputClass::uniform02;
  check_forward<Kernels>("window", c);
  check_backward<Kernels>("window", c);
  c.spoil = [](DenseInputs<double>& in, Problem const&, int D, int E) {
    at(in.q, 50, 2, D, 3) = NAN;
    at(in.k, 37, 1, D, 5) = INFINITY;
    at(in.v, 12, 1, E, 6) = NAN;
    at(in.dout, 22, 2, E, 6) = INFINITY;
  };
  check_forward<Kernels>("NaN and infinities", c);
  check_backward<Kernels>("NaN and infinities", c);
  // Weights of zeros past the end of the keys are 2^645 here.
  c.mask = {AnyMask::full};
  c.inputs = InputClass::normal;
  c.spoil = [](DenseInputs<double>& in, Problem const&, int D, int) {
    for (size_t i = 0; i < in.q.size(); i += size_t(D)) in.q[i] = 128;
    for (size_t i = 0; i < in.k.size(); i += size_t(D)) in.k[i] = -20;
  };
  check_backward<Kernels>("scores far below 0", c);
  std::printf("%d wrong\n", failures);
  return failures != 0;
}
