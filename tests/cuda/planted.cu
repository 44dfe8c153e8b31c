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
  check_backward<Kernels>("order of dQ", c);
  std::printf("%d wrong\n", failures);
  return failures != 0;
}
