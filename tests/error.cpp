// SPDX-License-Identifier: Apache-2.0
// The one exception: its members and its sentence.
#include <ringattn/error.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace ringattn;

TEST_CASE("error: members and sentence") {
  Error const e(ErrorCode::invalid_argument, 3, "out", "[1, 2, 3, 4]", "null");
  CHECK(e.code() == ErrorCode::invalid_argument);
  CHECK(e.rank() == 3);
  CHECK(e.argument() == "out");
  CHECK(e.expected() == "[1, 2, 3, 4]");
  CHECK(e.actual() == "null");
  CHECK(std::string(e.what()) == "ringattn: invalid argument on rank 3: 'out': expected [1, 2, 3, 4], got null");
}

TEST_CASE("error: parts that are not known are left out") {
  CHECK(std::string(Error(ErrorCode::aborted, -1, "vote", "", "why").what()) == "ringattn: aborted: 'vote': why");
  CHECK(std::string(Error(ErrorCode::timeout, 0, "vote", "", "").what()) == "ringattn: timeout on rank 0: 'vote'");
}

TEST_CASE("error: every code has a name") {
  for (int code = 1; code <= 6; ++code) CHECK(std::string(to_string(ErrorCode(code))) != "error");
  CHECK(std::string(to_string(ErrorCode(0))) == "error");
}
