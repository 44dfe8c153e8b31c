// SPDX-License-Identifier: Apache-2.0
// Two files that were compiled for different instruction sets in one program: an error instead of wrong numbers.
#include <ringattn/error.hpp>

#include <doctest/doctest.h>

#include <cstring>

void use_here();
void use_elsewhere();

TEST_CASE("files for different instruction sets are refused") {
  for (auto use : {use_here, use_elsewhere}) {
    try {
      use();
      FAIL("no error");
    } catch (ringattn::Error const& e) {
      CHECK(e.code() == ringattn::ErrorCode::invalid_argument);
      CHECK(std::strstr(e.what(), "different instruction sets"));
    }
  }
}
