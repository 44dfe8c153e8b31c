// SPDX-License-Identifier: Apache-2.0
// The version is said once in config.hpp and once in the build; they must agree.
#include <doctest/doctest.h>
#include <ringattn/config.hpp>

#include <string>

#ifndef RINGATTN_BUILD_VERSION
#define RINGATTN_BUILD_VERSION ""
#endif

TEST_CASE("config: version of the headers equals the version of the build") {
  std::string const headers = std::to_string(RINGATTN_VERSION_MAJOR) + "." + std::to_string(RINGATTN_VERSION_MINOR) +
                              "." + std::to_string(RINGATTN_VERSION_PATCH);
  CHECK(headers == RINGATTN_BUILD_VERSION);
  CHECK(RINGATTN_VERSION == RINGATTN_VERSION_MAJOR * 10000 + RINGATTN_VERSION_MINOR * 100 + RINGATTN_VERSION_PATCH);
}
