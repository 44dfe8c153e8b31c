// SPDX-License-Identifier: Apache-2.0
// Words of a PTX text.
#include "ptx_lexer.hpp"

namespace emulator {
namespace {
bool word_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' ||
         c == '%' || c == '.';
}
}  // namespace

std::vector<Token> lex_ptx(std::string_view text) {
  std::vector<Token> tokens;
  tokens.reserve(text.size() / 5);
  uint32_t line = 1;
  for (size_t i = 0; i < text.size();) {
    char const c = text[i];
    if (c == '\n') {
      ++line;
      ++i;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\0') {
      ++i;
    } else if (c == '/' && i + 1 < text.size() && text[i + 1] == '/') {
      while (i < text.size() && text[i] != '\n') ++i;
    } else if (c == '/' && i + 1 < text.size() && text[i + 1] == '*') {
      for (; i < text.size() && !(text[i] == '*' && i + 1 < text.size() && text[i + 1] == '/'); ++i)
        line += text[i] == '\n';
      i += 2;
    } else if (c == '"') {
      size_t const end = text.find('"', i + 1);
      tokens.push_back({text.substr(i + 1, end - i - 1), line});
      i = end + 1;
    } else if (word_char(c)) {
      size_t const begin = i;
      while (i < text.size() && (word_char(text[i]) || (text[i] == ':' && i + 1 < text.size() && text[i + 1] == ':'))) {
        i += text[i] == ':' ? 2 : 1;
      }
      tokens.push_back({text.substr(begin, i - begin), line});
    } else {
      tokens.push_back({text.substr(i, 1), line});
      ++i;
    }
  }
  tokens.push_back({{}, line});
  return tokens;
}

}  // namespace emulator
