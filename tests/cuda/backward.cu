// SPDX-License-Identifier: Apache-2.0
// Backward kernels of sm_80 in one precision (RINGATTN_TEST_PRECISION) against the oracle: masks, shapes, layouts,
// runs, steps, NaN and infinity. Prints a hash of all bits, which no schedule may change.
#include "backward.cuh"

using namespace ringattn;
using namespace ringattn::test;
using Precision = RINGATTN_TEST_PRECISION;
using Case = ForwardCase<Precision>;

template <int head_dim, int value_dim = head_dim, class Score = Plain, class Tiles = DefaultTiles>
using K = Kernel<Precision, AnyMask, Score, Tiles, head_dim, value_dim>;

/// Small tiles, of which even small problems have many.
struct SmallTiles : DefaultTiles {
  constexpr Tile backward(int, int, int, int) const { return {.q = 16, .kv = 32, .stages = 2, .warps = 4}; }
};
/// More queries than warps.
struct FewWarps : DefaultTiles {
  constexpr Tile backward(int, int, int, int) const { return {.q = 64, .kv = 32, .stages = 1, .warps = 2}; }
};

std::vector<Rows> const rows_of(int64_t n) { return {{0, 1, n}}; }
/// The keys 0 .. n - 1 in zigzag order: a step brings a run from the front and one from the back.
std::vector<std::vector<Rows>> zigzag(int64_t n, int64_t steps) {
  std::vector<std::vector<Rows>> s;
  int64_t const chunk = n / (2 * steps);
  for (int64_t i = 0; i < steps; ++i) s.push_back({{i * chunk, 1, chunk}, {n - (i + 1) * chunk, 1, chunk}});
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
    check_backward<K<64>>("two heads, runs of queries", {.problem = {1, 170, 190, 2, 1},
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
  check_backward<K<32>>("shape", c);
  check_backward<K<96>>("shape", c);
  check_backward<K<128>>("shape", c);
  check_backward<K<192>>("shape", c);
  check_backward<K<256>>("shape", c);
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
  check_backward<K<64, 64, SoftCapSlope>>("score", c);
  check_backward<K<64>>("one query, one key",
                        {.problem = {1, 1, 1, 1, 1}, .q_rows = rows_of(1), .steps = {rows_of(1)}});
  check_backward<K<64>>(
      "few queries, groups of 4 heads",
      {.problem = {1, 3, 200, 4, 1}, .mask = {AnyMask::causal, 197}, .q_rows = rows_of(3), .steps = zigzag(200, 2)});
  std::vector<Rows> many;
  for (int64_t i = 0; i < 40; ++i) many.push_back({i * 5, 1, 5});
  check_backward<K<64>>("40 runs",
                        {.problem = {1, 200, 200, 1, 1}, .mask = {AnyMask::causal}, .q_rows = many, .steps = {many}});
}

void inputs() {
  for (InputClass kind : {InputClass::uniform02, InputClass::huge_lse, InputClass::one_hot_v, InputClass::constant_k,
                          InputClass::huge_row})
    check_backward<K<64>>(input_class_names[size_t(kind)], {.problem = {1, 140, 140, 1, 1},
                                                            .mask = {AnyMask::causal},
                                                            .q_rows = rows_of(140),
                                                            .steps = zigzag(140, 2),
                                                            .inputs = kind});
  check_backward<K<64>>("negative scale", {.problem = {1, 140, 140, 1, 1},
                                           .mask = {AnyMask::causal},
                                           .q_rows = rows_of(140),
                                           .steps = zigzag(140, 2),
                                           .scale = -0.2});
  // Weights of zeros past the end of the keys are 2^456 here.
  check_backward<K<64>>("scores far below 0", {.problem = {1, 140, 140, 1, 1},
                                               .q_rows = rows_of(140),
                                               .steps = {rows_of(140)},
                                               .spoil = [](DenseInputs<double>& in, Problem const&, int D, int) {
                                                 for (size_t i = 0; i < in.q.size(); i += size_t(D)) in.q[i] = 128;
                                                 for (size_t i = 0; i < in.k.size(); i += size_t(D)) in.k[i] = -20;
                                               }});
}

/// The element of row i of head 0 of batch entry 0.
double& at(std::vector<double>& x, int64_t i, int64_t heads, int dim, int d) { return x[size_t(i * heads * dim + d)]; }

template <class Kernel> void specials_of(AnyMask const& mask) {
  Case c{.problem = {1, 140, 140, 1, 1}, .mask = mask, .q_rows = rows_of(140), .steps = zigzag(140, 1)};
  auto const run = [&](char const* name, auto spoil) {
    c.spoil = spoil;
    check_backward<Kernel>(name, c);
  };
  using In = DenseInputs<double>;
  run("NaN and infinity in queries", [](In& in, Problem const&, int D, int) {
    at(in.q, 50, 1, D, 3) = NAN;
    at(in.q, 100, 1, D, 3) = INFINITY;
  });
  run("NaN in a key", [](In& in, Problem const&, int D, int) { at(in.k, 97, 1, D, 63) = NAN; });
  run("infinity in a key", [](In& in, Problem const&, int D, int) { at(in.k, 97, 1, D, 5) = INFINITY; });
  run("NaN and infinity in values", [](In& in, Problem const&, int, int E) {
    at(in.v, 97, 1, E, 5) = NAN;
    at(in.v, 60, 1, E, 5) = INFINITY;
  });
  run("NaN and infinities in dO", [](In& in, Problem const&, int, int E) {
    at(in.dout, 60, 1, E, 5) = INFINITY;
    at(in.dout, 80, 1, E, 5) = NAN;
    at(in.dout, 99, 1, E, 6) = -INFINITY;
    at(in.dout, 12, 1, E, 6) = -INFINITY;
  });
}

void specials() {
  specials_of<K<64>>({AnyMask::causal});
  specials_of<K<64>>({AnyMask::window, 20, 5});
  specials_of<K<64>>({AnyMask::full});
  specials_of<K<64, 64, Plain, SmallTiles>>({AnyMask::causal});
}

int main(int argc, char** argv) {
  std::string const what = argc > 1 ? argv[1] : "";  // all of them, or one
  if (what.empty() || what == "masks") masks();
  if (what.empty() || what == "shapes") shapes();
  if (what.empty() || what == "tiles") tiles();
  if (what.empty() || what == "inputs") inputs();
  if (what.empty() || what == "specials") specials();
  std::printf("%d wrong, bits %016llx\n", failures, static_cast<unsigned long long>(all_bits));
  return failures != 0;
}
