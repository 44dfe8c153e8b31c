// SPDX-License-Identifier: Apache-2.0
// Part 3 of the pairwise covering list.
#include "covering.hpp"

TEST_CASE("covering list, part 3 of 4") { ringattn::test::run_part<3, 4>(); }
