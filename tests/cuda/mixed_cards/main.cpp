// SPDX-License-Identifier: Apache-2.0
// Two files of one program, compiled for different cards, have the same policy. Each must keep its own kernels and
// functions: the layout of what steps leave for each other differs.
#include <doctest/doctest.h>

#include "use.hpp"

TEST_CASE("files for different cards share neither kernels nor what launches them") {
  Used const older = use_older(), newer = use_newer();
  CHECK(older.kernel != newer.kernel);
  CHECK(older.function != newer.function);
  CHECK(std::memcmp(older.member, newer.member, sizeof older.member) != 0);
}
