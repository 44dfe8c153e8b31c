// SPDX-License-Identifier: Apache-2.0
// Forward kernels of sm_80 in one precision (RINGATTN_TEST_PRECISION) against the oracle: masks, shapes, layouts, runs,
// steps, NaN and infinity.
#include "forward.cuh"

using namespace ringattn;
using namespace ringattn::test;
using Precision = RINGATTN_TEST_PRECISION;
using Case = ForwardCase<Precision>;

template <int head_dim, int value_dim = head_dim, class Score = Plain, class Tiles = DefaultTiles>
using K = Kernel<Precision, AnyMask, Score, Tiles, head_dim, value_dim>;

/// Small tiles, two stages.
struct TwoStages {
  constexpr Tile operator()(int, int, int, int) const { return {.q = 32, .kv = 16, .stages = 2, .warps = 2}; }
};

std::vector<Rows> const rows_of(int64_t n) { return {{0, 1, n}}; }
/// The keys 0 .. n - 1 in zigzag order: a step brings a run from the front and one from the back.
std::vector<std::vector<Rows>> zigzag(int64_t n, int64_t steps) {
  std::vector<std::vector<Rows>> s;
  int64_t const chunk = n / (2 * steps);
  for (int64_t i = 0; i < steps; ++i) {
    int64_t const back = n - (i + 1) * chunk;
    s.push_back({{i * chunk, 1, chunk}, {back, 1, chunk}});
  }
  if (int64_t const rest = n - 2 * steps * chunk; rest > 0) s.push_back({{steps * chunk, 1, rest}});
  return s;
}
std::vector<std::vector<Rows>> striped(int64_t n, int64_t steps) {
  std::vector<std::vector<Rows>> s;
  for (int64_t i = 0; i < steps; ++i) s.push_back({{i, steps, (n - i + steps - 1) / steps}});
  return s;
}

void masks() {
  AnyMask const all[] = {{AnyMask::full},        {AnyMask::causal},        {AnyMask::causal, 40},
                         {AnyMask::causal, -40}, {AnyMask::window, 30, 0}, {AnyMask::window, 7, 20},
                         {AnyMask::parity},      {AnyMask::documents, 37}, {AnyMask::nothing}};
  int i = 0;
  for (AnyMask const& mask : all) {
    std::vector<Rows> q{{0, 1, 40}, {120, 1, 50}, {40, 2, 40}, {41, 2, 40}};  // all of 0 .. 169, in another order
    check_forward<K<64>>("two heads, runs of queries", {.problem = {1, 170, 190, 2, 1},
                                                        .mask = mask,
                                                        .q_rows = q,
                                                        .steps = i % 2 ? zigzag(190, 3) : striped(190, 3),
                                                        .memory = Memory(i % 4),
                                                        .seed = std::uint64_t(10 + i)});
    ++i;
  }
}

void shapes() {
  Case const c{.problem = {2, 70, 70, 2, 2}, .mask = {AnyMask::causal}, .q_rows = rows_of(70), .steps = striped(70, 2)};
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
  check_forward<K<64>>("one query, one key", {.problem = {1, 1, 1, 1, 1}, .q_rows = rows_of(1), .steps = {rows_of(1)}});
  check_forward<K<64>>(
      "few queries, groups of 4 heads",
      {.problem = {1, 3, 200, 4, 1}, .mask = {AnyMask::causal, 197}, .q_rows = rows_of(3), .steps = zigzag(200, 2)});
  std::vector<Rows> many;
  for (int64_t i = 0; i < 40; ++i) many.push_back({i * 5, 1, 5});
  check_forward<K<64>>("40 runs",
                       {.problem = {1, 200, 200, 1, 1}, .mask = {AnyMask::causal}, .q_rows = many, .steps = {many}});
}

void inputs() {
  for (InputClass kind : {InputClass::uniform02, InputClass::huge_lse, InputClass::one_hot_v, InputClass::constant_k,
                          InputClass::huge_row})
    check_forward<K<64>>(input_class_names[size_t(kind)], {.problem = {1, 140, 140, 1, 1},
                                                           .mask = {AnyMask::causal},
                                                           .q_rows = rows_of(140),
                                                           .steps = zigzag(140, 2),
                                                           .inputs = kind});
  check_forward<K<64>>("negative scale", {.problem = {1, 140, 140, 1, 1},
                                          .mask = {AnyMask::causal},
                                          .q_rows = rows_of(140),
                                          .steps = zigzag(140, 2),
                                          .scale = -0.2});
}

/// The element of row i of head 0 of batch entry 0.
double& at(std::vector<double>& x, int64_t i, int64_t heads, int dim, int d) { return x[size_t(i * heads * dim + d)]; }

void specials() {
  Case c{.problem = {1, 140, 140, 1, 1}, .mask = {AnyMask::causal}, .q_rows = rows_of(140), .steps = zigzag(140, 2)};
  auto const run = [&](char const* name, auto spoil) {
    c.spoil = spoil;
    check_forward<K<64>>(name, c);
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
  std::string const what = argc > 1 ? argv[1] : "";  // all of them, or one
  if (what.empty() || what == "masks") masks();
  if (what.empty() || what == "shapes") shapes();
  if (what.empty() || what == "inputs") inputs();
  if (what.empty() || what == "specials") specials();
  std::printf(failures ? "%d wrong\n" : "right\n", failures);
  return failures != 0;
}
