// SPDX-License-Identifier: Apache-2.0
// Medians and the command line: what every benchmark shares, whatever it runs on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "json.hpp"

namespace bench {

/// Repetitions of one quantity.
class Sample {
 public:
  void add(double x) { values_.push_back(x); }
  size_t size() const { return values_.size(); }
  double median() const {
    if (values_.empty()) return NAN;
    std::vector<double> v = values_;
    std::sort(v.begin(), v.end());
    return (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2;
  }
  double min() const { return values_.empty() ? NAN : *std::min_element(values_.begin(), values_.end()); }
  double max() const { return values_.empty() ? NAN : *std::max_element(values_.begin(), values_.end()); }
  Json json() const { return {{"median", median()}, {"min", min()}, {"max", max()}}; }

 private:
  std::vector<double> values_;
};

/// `--name value` and `--flag`; whatever the program does not know is an error.
class Options {
 public:
  Options(int argc, char** argv, std::vector<std::pair<std::string, std::string>> known) {
    auto const usage = [&](std::string const& wrong) {
      if (!wrong.empty()) std::fprintf(stderr, "unknown option or missing value: %s\n", wrong.c_str());
      std::fprintf(stderr, "usage: %s [options]\n", argv[0]);
      for (auto const& [name, help] : known) std::fprintf(stderr, "  %-20s %s\n", name.c_str(), help.c_str());
      std::exit(wrong.empty() ? 0 : 2);
    };
    for (int i = 1; i < argc; ++i) {
      std::string const arg = argv[i];
      if (arg == "--help") usage("");
      bool found = false;
      for (auto const& [name, help] : known) {
        bool const has_value = name.find(' ') != std::string::npos;
        if (name.substr(0, name.find(' ')) != arg) continue;
        if (has_value && i + 1 == argc) usage(arg);
        values_[arg] = has_value ? argv[++i] : "1";
        found = true;
        break;
      }
      if (!found) usage(arg);
    }
  }
  bool has(std::string const& name) const { return values_.count(name) != 0; }
  std::string text(std::string const& name, std::string otherwise) const {
    auto const it = values_.find(name);
    return it == values_.end() ? otherwise : it->second;
  }
  double number(std::string const& name, double otherwise) const {
    return has(name) ? std::strtod(values_.at(name).c_str(), nullptr) : otherwise;
  }
  std::vector<std::string> list(std::string const& name, std::string const& otherwise) const {
    std::stringstream in(text(name, otherwise));
    std::vector<std::string> out;
    for (std::string item; std::getline(in, item, ',');) out.push_back(item);
    return out;
  }
  std::vector<int64_t> numbers(std::string const& name, std::string const& otherwise) const {
    std::vector<int64_t> out;
    for (auto const& s : list(name, otherwise)) out.push_back(std::strtoll(s.c_str(), nullptr, 10));
    return out;
  }

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace bench
