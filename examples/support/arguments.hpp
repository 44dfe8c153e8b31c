// SPDX-License-Identifier: Apache-2.0
// Command-line options: declared once, checked, explained by --help. Wrong input ends with a sentence and exit code 2.
#pragma once

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace example {

/// Arguments a("program", "what it does"); a.add("--seq", seq, 1, "..."); a.parse(argc, argv);
class Arguments {
 public:
  Arguments(std::string program, std::string purpose) : program_(std::move(program)), purpose_(std::move(purpose)) {}

  /// An integer of at least `least`.
  void add(char const* name, std::int64_t& value, std::int64_t least, char const* help) {
    put(name, " N", help, std::to_string(value), [this, name, &value, least](std::string const& text) {
      auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (error != std::errc() || end != text.data() + text.size() || value < least)
        fail(std::string(name) + " takes an integer of at least " + std::to_string(least) + ", not '" + text + "'");
    });
  }
  /// A number of at least 0.
  void add(char const* name, double& value, char const* help) {
    char shown[32];
    std::snprintf(shown, sizeof shown, "%g", value);
    put(name, " X", help, shown, [this, name, &value](std::string const& text) {
      char* end = nullptr;
      value = std::strtod(text.c_str(), &end);
      if (text.empty() || *end != '\0' || !(value >= 0) || value > 1e300)
        fail(std::string(name) + " takes a number of at least 0, not '" + text + "'");
    });
  }
  void add(char const* name, std::string& value, char const* help) {
    put(name, " TEXT", help, value, [&value](std::string const& text) { value = text; });
  }
  /// One of some words.
  void add(char const* name, std::string& value, std::vector<std::string> words, char const* help) {
    std::string list;
    for (auto const& w : words) list += (list.empty() ? "" : "|") + w;
    put(name, " " + list, help, value, [this, name, &value, words, list](std::string const& text) {
      for (auto const& w : words)
        if (w == text) {
          value = text;
          return;
        }
      fail(std::string(name) + " takes " + list + ", not '" + text + "'");
    });
  }
  /// A switch.
  void add(char const* name, bool& value, char const* help) {
    options_.push_back({name, "", help, "", true, [&value](std::string const&) { value = true; }});
  }

  /// Takes --name value and --name=value. Exits with 0 after --help, with 2 after wrong input.
  void parse(int argc, char** argv) const {
    for (int i = 1; i < argc; ++i) {
      std::string word = argv[i], value;
      if (word == "--help" || word == "-h") help();
      size_t const equals = word.find('=');
      bool const inline_value = equals != std::string::npos;
      if (inline_value) {
        value = word.substr(equals + 1);
        word.resize(equals);
      }
      Option const* const option = find(word);
      if (option == nullptr) fail("unknown option '" + word + "'");
      if (option->is_switch && inline_value) fail(word + " takes no value");
      if (!option->is_switch && !inline_value) {
        if (i + 1 == argc) fail(word + " needs a value");
        value = argv[++i];
      }
      option->set(value);
    }
  }

  [[noreturn]] void fail(std::string const& sentence) const {
    std::fprintf(stderr, "%s: %s (--help lists the options)\n", program_.c_str(), sentence.c_str());
    std::exit(2);
  }

 private:
  struct Option {
    std::string name, value, help, standard;
    bool is_switch;
    std::function<void(std::string const&)> set;
  };
  void put(char const* name, std::string value, char const* help, std::string standard,
           std::function<void(std::string const&)> set) {
    options_.push_back({name, std::move(value), help, std::move(standard), false, std::move(set)});
  }
  Option const* find(std::string_view name) const {
    for (Option const& o : options_)
      if (o.name == name) return &o;
    return nullptr;
  }
  [[noreturn]] void help() const {
    std::printf("%s: %s\n\n", program_.c_str(), purpose_.c_str());
    for (Option const& o : options_) {
      std::string const standard = o.standard.empty() ? "" : " [" + o.standard + "]";
      std::printf("  %-28s %s%s\n", (o.name + o.value).c_str(), o.help.c_str(), standard.c_str());
    }
    std::exit(0);
  }

  std::string program_, purpose_;
  std::vector<Option> options_;
};

}  // namespace example
