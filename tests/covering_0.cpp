// SPDX-License-Identifier: Apache-2.0
// Part 0 of the pairwise covering list.
#include "covering.hpp"

TEST_CASE("covering list, part 0 of 4") { ringattn::test::run_part<0, 4>(); }
