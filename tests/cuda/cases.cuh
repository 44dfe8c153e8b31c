// SPDX-License-Identifier: Apache-2.0
// What the tests of forward and backward kernels have in common: kernels of one precision (RINGATTN_TEST_PRECISION) and
// cases for them.
#pragma once

#include <bit>
#include <utility>

#include "forward.cuh"

namespace ringattn::test {

using Precision = RINGATTN_TEST_PRECISION;
using Case = ForwardCase<Precision>;
template <int head_dim, int value_dim = head_dim, class Score = Plain, class Tiles = DefaultTiles>
using K = Kernel<Precision, AnyMask, Score, Tiles, head_dim, value_dim>;

inline std::vector<Rows> rows_of(int64_t n) { return {{0, 1, n}}; }
/// The keys 0 .. n - 1 in zigzag order: a step brings a run from the front and one from the back.
inline std::vector<std::vector<Rows>> zigzag(int64_t n, int64_t steps) {
  std::vector<std::vector<Rows>> s;
  int64_t const chunk = n / (2 * steps);
  for (int64_t i = 0; i < steps; ++i) s.push_back({{i * chunk, 1, chunk}, {n - (i + 1) * chunk, 1, chunk}});
  if (int64_t const rest = n - 2 * steps * chunk; rest > 0) s.push_back({{steps * chunk, 1, rest}});
  return s;
}
inline std::vector<std::vector<Rows>> striped(int64_t n, int64_t steps) {
  std::vector<std::vector<Rows>> s;
  for (int64_t i = 0; i < steps; ++i) s.push_back({{i, steps, (n - i + steps - 1) / steps}});
  return s;
}

/// Every mask, with runs of queries and steps of keys in all layouts. Calls check(name, case).
template <class Check> void every_mask(Check check) {
  AnyMask const all[] = {{AnyMask::full},        {AnyMask::causal},        {AnyMask::causal, 40},
                         {AnyMask::causal, -40}, {AnyMask::window, 30, 0}, {AnyMask::window, 7, 20},
                         {AnyMask::parity},      {AnyMask::documents, 37}, {AnyMask::nothing}};
  int i = 0;
  for (AnyMask const& mask : all) {
    std::vector<Rows> q{{0, 1, 40}, {120, 1, 50}, {40, 2, 40}, {41, 2, 40}};  // all of 0 .. 169, in another order
    check("two heads, runs of queries", Case{.problem = {1, 170, 190, 2, 1},
                                             .mask = mask,
                                             .q_rows = q,
                                             .steps = i % 2 ? zigzag(190, 3) : striped(190, 3),
                                             .memory = Memory(i % 4),
                                             .seed = std::uint64_t(10 + i)});
    ++i;
  }
}

/// A problem for kernels of all sizes.
inline Case small_case() {
  return {.problem = {2, 70, 70, 2, 2}, .mask = {AnyMask::causal}, .q_rows = rows_of(70), .steps = striped(70, 2)};
}
/// One of which several tiles are needed.
inline Case longer_case() {
  return {.problem = {1, 140, 140, 1, 1}, .mask = {AnyMask::causal}, .q_rows = rows_of(140), .steps = zigzag(140, 2)};
}

/// f(head_dim), a constant of its type, for all of them.
template <class F> void each_head_dim(F f) {
  [&]<int... head_dim>(std::integer_sequence<int, head_dim...>) { (f(std::integral_constant<int, head_dim>{}), ...); }
  (std::integer_sequence<int, 32, 64, 96, 128, 192, 256>{});
}

/// A NaN of which half a unit more would make a zero.
inline double const nan_of_ones = std::bit_cast<double>(~std::uint64_t{0});

/// Nothing but whole tiles, all of whose pairs count: what counts.py divides by.
inline Case whole_case() { return {.problem = {1, 512, 512, 1, 1}, .q_rows = rows_of(512), .steps = {rows_of(512)}}; }

/// Few queries and many runs.
template <class Check> void odd_shapes(Check check) {
  check("one query, one key", Case{.problem = {1, 1, 1, 1, 1}, .q_rows = rows_of(1), .steps = {rows_of(1)}});
  check(
      "few queries, groups of 4 heads",
      Case{
          .problem = {1, 3, 200, 4, 1}, .mask = {AnyMask::causal, 197}, .q_rows = rows_of(3), .steps = zigzag(200, 2)});
  std::vector<Rows> many, far;
  for (int64_t i = 0; i < 40; ++i) many.push_back({i * 5, 1, 5});
  check("40 runs", Case{.problem = {1, 200, 200, 1, 1}, .mask = {AnyMask::causal}, .q_rows = many, .steps = {many}});
  // A tile per run: those that see each other lie in two places, more tiles apart than a warp has lanes.
  for (int64_t odd : {0, 1})
    for (int64_t i = 0; i < 40; ++i) far.push_back({4 * i + 2 * odd, 1, 2});
  check("far apart",
        Case{.problem = {1, 160, 160, 1, 1}, .mask = {AnyMask::window, 6, 2}, .q_rows = far, .steps = {far}});
}

template <class Check> void every_input(Check check) {
  Case c = longer_case();
  for (InputClass kind : {InputClass::uniform02, InputClass::huge_lse, InputClass::one_hot_v, InputClass::constant_k,
                          InputClass::huge_row}) {
    c.inputs = kind;
    check(input_class_names[size_t(kind)], c);
  }
  c.inputs = InputClass::normal;
  c.scale = -0.2;
  check("negative scale", c);
}

/// The element of row i of head 0 of batch entry 0.
inline double& at(std::vector<double>& x, int64_t i, int64_t heads, int dim, int d) {
  return x[size_t(i * heads * dim + d)];
}

/// Layouts that every_mask leaves out.
template <class Check> void every_layout(Check check) {
  Case c{.problem = {2, 70, 70, 4, 2}, .mask = {AnyMask::causal}, .q_rows = rows_of(70), .steps = striped(70, 2)};
  auto const run = [&](char const* name, Memory memory) {
    c.memory = memory;
    check(name, c);
  };
  run("odd start", Memory::odd_start);
  run("backwards", Memory::backwards);
  run("far apart in the batch", Memory::far_apart);
  c.problem.batch = 1;
  c.problem.heads = 2;
  run("heads far apart", Memory::far_apart);
  c.problem = {2, 70, 70, 4, 2};
  c.spoil = [](DenseInputs<double>& in, Problem const& p, int D, int E) {
    auto const one_head = [](std::vector<double>& x, int64_t rows, int64_t heads, int dim) {
      for (size_t i = 0; i < x.size(); ++i) {
        int64_t const d = int64_t(i) % dim, row = int64_t(i) / dim / heads % rows;
        x[i] = x[size_t(row * heads * dim + d)];
      }
    };
    one_head(in.k, p.kv_seq, p.kv_heads, D);
    one_head(in.v, p.kv_seq, p.kv_heads, E);
    one_head(in.dout, p.seq, p.heads, E);
  };
  run("one head for all", Memory::broadcast);
  c = {.problem = {1, 2, 2, 1, 1}, .q_rows = rows_of(2), .steps = {rows_of(2)}};
  run("rows far apart", Memory::far_apart);
}

struct Part {
  char const* name;
  void (*run)();
};
/// The parts of a test: all of them, or the one that the command line names.
inline void run_parts(int argc, char** argv, std::initializer_list<Part> parts) {
  for (Part const& part : parts)
    if (argc < 2 || std::string(argv[1]) == part.name) part.run();
}

}  // namespace ringattn::test
