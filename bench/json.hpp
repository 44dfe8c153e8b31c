// SPDX-License-Identifier: Apache-2.0
// JSON lines out, small JSON files in: as much as the benchmarks need.
#pragma once

#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// One JSON value. Objects keep the order in which their members were set.
class Json {
 public:
  enum class Kind { null, boolean, number, string, array, object };
  using Member = std::pair<std::string, Json>;

  Json() = default;
  Json(bool b) : kind_(Kind::boolean), number_(b) {}
  Json(double x) : kind_(std::isfinite(x) ? Kind::number : Kind::null), number_(x) {}
  Json(int x) : Json(double(x)) {}
  Json(long x) : Json(double(x)) {}
  Json(char const* s) : kind_(Kind::string), text_(s) {}
  Json(std::string s) : kind_(Kind::string), text_(std::move(s)) {}
  Json(std::initializer_list<Member> members) : kind_(Kind::object), members_(members) {}

  static Json array() {
    Json j;
    j.kind_ = Kind::array;
    return j;
  }
  void push(Json value) { members_.emplace_back("", std::move(value)); }
  void set(std::string key, Json value) {
    kind_ = Kind::object;
    members_.emplace_back(std::move(key), std::move(value));
  }

  Kind kind() const { return kind_; }
  double number() const { return number_; }
  std::string const& text() const { return text_; }
  std::vector<Member> const& members() const { return members_; }  ///< of an array: keys are empty
  /// The member of that name, or null.
  Json const* find(std::string const& key) const {
    for (Member const& m : members_)
      if (m.first == key) return &m.second;
    return nullptr;
  }
  double number_or(std::string const& key, double otherwise) const {
    Json const* j = find(key);
    return j && j->kind_ == Kind::number ? j->number_ : otherwise;
  }

  std::string dump() const {
    switch (kind_) {
      case Kind::null:
        return "null";
      case Kind::boolean:
        return number_ != 0 ? "true" : "false";
      case Kind::number: {
        char s[32];
        bool const whole = number_ == std::floor(number_) && std::abs(number_) < 9e15;
        std::snprintf(s, sizeof s, whole ? "%.0f" : "%.6g", number_);
        return s;
      }
      case Kind::string:
        return quoted(text_);
      default:
        break;
    }
    std::string s = kind_ == Kind::array ? "[" : "{";
    for (Member const& m : members_) {
      if (s.size() > 1) s += ", ";
      if (kind_ == Kind::object) s += quoted(m.first) + ": ";
      s += m.second.dump();
    }
    return s + (kind_ == Kind::array ? "]" : "}");
  }

  /// Throws std::runtime_error with the offset of what it does not understand.
  static Json parse(std::string const& text) {
    Reader reader{text};
    Json j = reader.value();
    reader.space();
    if (reader.at != text.size()) reader.fail();
    return j;
  }
  static Json read(std::string const& path) {
    std::ifstream in(path);
    if (!in) throw std::runtime_error("cannot read " + path);
    std::ostringstream text;
    text << in.rdbuf();
    return parse(text.str());
  }

 private:
  struct Reader {
    std::string const& text;
    size_t at = 0;

    [[noreturn]] void fail() const { throw std::runtime_error("JSON: unexpected text at byte " + std::to_string(at)); }
    void space() {
      while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at]))) ++at;
    }
    bool take(char c) {
      space();
      if (at >= text.size() || text[at] != c) return false;
      ++at;
      return true;
    }
    bool word(char const* w) {
      std::string const s = w;
      if (text.compare(at, s.size(), s) != 0) return false;
      at += s.size();
      return true;
    }
    std::string string() {
      if (!take('"')) fail();
      std::string s;
      while (at < text.size() && text[at] != '"') {
        if (text[at] == '\\') ++at;
        if (at < text.size()) s += text[at++];
      }
      if (!take('"')) fail();
      return s;
    }
    Json value() {
      space();
      if (at >= text.size()) fail();
      char const c = text[at];
      if (c == '"') return Json(string());
      if (c == '{' || c == '[') {
        ++at;
        char const end = c == '{' ? '}' : ']';
        Json j = array();
        if (c == '{') j.kind_ = Kind::object;
        while (!take(end)) {
          if (!j.members_.empty() && !take(',')) fail();
          std::string key;
          if (c == '{') {
            key = string();
            if (!take(':')) fail();
          }
          j.members_.emplace_back(std::move(key), value());
        }
        return j;
      }
      if (word("true")) return Json(true);
      if (word("false")) return Json(false);
      if (word("null")) return Json();
      char* end = nullptr;
      double const x = std::strtod(text.c_str() + at, &end);
      if (end == text.c_str() + at) fail();
      at = size_t(end - text.c_str());
      return Json(x);
    }
  };

  static std::string quoted(std::string const& s) {
    std::string out = "\"";
    for (char c : s) {
      if (c == '"' || c == '\\') out += '\\';
      out += c == '\n' ? ' ' : c;
    }
    return out + "\"";
  }

  Kind kind_ = Kind::null;
  double number_ = 0;
  std::string text_;
  std::vector<Member> members_;
};

/// Appends lines to a file, or to stdout if its name is "-"; an empty name: nowhere.
class JsonLines {
 public:
  explicit JsonLines(std::string const& path) {
    if (path == "-")
      file_ = stdout;
    else if (!path.empty() && (file_ = std::fopen(path.c_str(), "a")) == nullptr)
      throw std::runtime_error("cannot write " + path);
  }
  ~JsonLines() {
    if (file_ != nullptr && file_ != stdout) std::fclose(file_);
  }
  JsonLines(JsonLines const&) = delete;

  void write(Json const& j) {
    if (file_ == nullptr) return;
    std::fprintf(file_, "%s\n", j.dump().c_str());
    std::fflush(file_);
  }

 private:
  std::FILE* file_ = nullptr;
};

}  // namespace bench
