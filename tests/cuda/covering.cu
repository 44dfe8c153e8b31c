// SPDX-License-Identifier: Apache-2.0
// The rows of a covering list (ROW_LIST) in one precision (RINGATTN_TEST_PRECISION).
#include "covering.cuh"

#define RINGATTN_TEXT_(x) #x
#define RINGATTN_TEXT(x) RINGATTN_TEXT_(x)

TEST_CASE("cuda: covering list, " RINGATTN_TEXT(RINGATTN_TEST_PRECISION)) {
  ringattn::test::run_rows<ringattn::RINGATTN_TEST_PRECISION>(RINGATTN_TEXT(RINGATTN_TEST_PRECISION));
}
