// SPDX-License-Identifier: Apache-2.0
// Part 1 of the pairwise covering list.
#include "covering.hpp"

TEST_CASE("covering list, part 1 of 4") { ringattn::test::run_part<1, 4>(); }
