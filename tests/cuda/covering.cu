// SPDX-License-Identifier: Apache-2.0
// The rows of a covering list (ROW_LIST) in one precision (RINGATTN_TEST_PRECISION).
#include "covering.cuh"

#define RINGATTN_TEXT_(x) #x
#define RINGATTN_TEXT(x) RINGATTN_TEXT_(x)

TEST_CASE("cuda: covering list, " RINGATTN_TEXT(RINGATTN_TEST_PRECISION)) {
  ringattn::test::run_rows<ringattn::RINGATTN_TEST_PRECISION>(RINGATTN_TEXT(RINGATTN_TEST_PRECISION));
}

// Pairs of values do not promise it.
TEST_CASE("cuda: four ranks, forward and backward, " RINGATTN_TEXT(RINGATTN_TEST_PRECISION)) {
  using namespace ringattn;
  using namespace ringattn::test;
#define ROW(row, policy, Precision, head_dim, value_dim, ...)                                                          \
  if constexpr (std::is_same_v<Precision, RINGATTN_TEST_PRECISION>)                                                    \
    return run_row<KernelPolicy<Precision, head_dim, value_dim>>(                                                      \
        {{100, MaskVariant::causal, 1, 1, 4, Length::uneven, Calls::with_backward, InputClass::normal, Commit::local}, \
         AnyShard::zigzag,                                                                                             \
         AnyShard::zigzag,                                                                                             \
         Devices::several},                                                                                            \
        "four ranks");
#include ROW_LIST
#undef ROW
}

// The kernels' own state has to be put back by the calls, not by their host side.
TEST_CASE("cuda: calls with the shipped kernels in a graph, " RINGATTN_TEXT(RINGATTN_TEST_PRECISION)) {
  using namespace ringattn;
  using namespace ringattn::test;
#define ROW(row, policy, Precision, head_dim, value_dim, ...)       \
  if constexpr (std::is_same_v<Precision, RINGATTN_TEST_PRECISION>) \
    return run_graph<KernelPolicy<Precision, head_dim, value_dim>>();
#include ROW_LIST
#undef ROW
}
