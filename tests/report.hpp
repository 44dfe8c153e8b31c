// SPDX-License-Identifier: Apache-2.0
// Fragments of the test report: a flat JSON object per file in $RINGATTN_REPORT_DIR, if that is set.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

namespace ringattn::test {

inline void write_report(std::string const& name, std::vector<std::pair<std::string, double>> const& values) {
  char const* const folder = std::getenv("RINGATTN_REPORT_DIR");
  if (folder == nullptr || *folder == 0) return;
  std::FILE* const file = std::fopen((std::string(folder) + "/" + name + ".json").c_str(), "w");
  if (file == nullptr) return;
  std::fputc('{', file);
  for (size_t i = 0; i < values.size(); ++i)
    std::fprintf(file, "%s\"%s\": %.6g", i ? ", " : "", values[i].first.c_str(), values[i].second);
  std::fputs("}\n", file);
  std::fclose(file);
}

}  // namespace ringattn::test
