// SPDX-License-Identifier: Apache-2.0
// Part 2 of the pairwise covering list.
#include "covering.hpp"

TEST_CASE("covering list, part 2 of 4") { ringattn::test::run_part<2, 4>(); }
