// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>

/// Where the linker has put what a file uses.
struct Used {
  char member[16];
  void const* function;
  void const* kernel;
};

Used use_older();
Used use_newer();
