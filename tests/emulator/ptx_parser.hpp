// SPDX-License-Identifier: Apache-2.0
// The parser's state; declarations are read by ptx_declarations.cpp, bodies by ptx_parser.cpp.
#pragma once
#include <algorithm>

#include "fault.hpp"
#include "memory.hpp"
#include "ptx.hpp"
#include "ptx_lexer.hpp"

namespace emulator {

struct Symbol {
  enum class Kind : uint8_t { reg, pred, address } kind = Kind::reg;
  uint8_t width = 4;
  uint32_t row = 0;
  Space space = Space::generic;
  uint64_t value = 0;
};

struct Scope {
  int parent = -1;
  std::unordered_map<std::string_view, Symbol> symbols;
  std::unordered_map<std::string_view, uint32_t> labels;
  std::unordered_map<std::string_view, std::vector<std::string_view>> tables;
};

inline uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }
constexpr uint64_t red_zone = 256;  // behind each shared variable

class Parser {
 public:
  Parser(std::string text, std::string name) : module_(std::make_unique<Module>()), m_(*module_) {
    m_.text = std::move(text);
    m_.name = std::move(name);
    m_.line_starts.push_back(0);
    for (size_t i = 0; i < m_.text.size(); ++i) {
      if (m_.text[i] == '\n') m_.line_starts.push_back(static_cast<uint32_t>(i + 1));
    }
    tokens_ = lex_ptx(m_.text);
    // Dynamic shared memory is aligned as the strictest declaration asks and not more, so that a hidden wish for more
    // shows.
    for (size_t i = 0; i + 3 < tokens_.size(); ++i) {
      if (tokens_[i].text != ".extern" || tokens_[i + 1].text != ".shared" || tokens_[i + 2].text != ".align") continue;
      m_.dynamic_begin =
          std::max<uint64_t>(m_.dynamic_begin, dynamic_shared + std::stoul(std::string(tokens_[i + 3].text)));
    }
  }

  std::unique_ptr<Module> run();

 private:
  // ---- words
  Token const& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  std::string_view next() { return tokens_[at_++].text; }
  bool at_end() const { return at_ + 1 >= tokens_.size(); }
  bool accept(std::string_view text) {
    if (peek().text != text) return false;
    ++at_;
    return true;
  }
  void expect(std::string_view text) {
    if (!accept(text)) fail("expected '" + std::string(text) + "', found '" + std::string(peek().text) + "'");
  }
  void skip_line() {
    for (uint32_t const line = peek().line; !at_end() && peek().line == line;) ++at_;
  }
  void skip_past(std::string_view text) {
    while (!at_end() && next() != text) {
    }
  }
  [[noreturn]] void fail(std::string const& why) const { throw Fault("PTX", why + "; " + m_.where(peek().line)); }

  uint64_t number(bool* is_float = nullptr);

  // ---- module level
  void declaration();
  void file();
  void variable(Function* function);
  uint64_t place_shared(Function* function, uint64_t bytes, uint64_t align, bool open);
  void initialise(uint8_t* memory, uint64_t element);
  Parameter parameter();
  void function();

  // ---- bodies
  void body(Function& f);
  Instruction end_of_function(Function const& f);
  void statement(Function& f);
  void registers();
  Symbol const* find(std::string_view name) const;
  void instruction(Function& f);
  void operand(Instruction& i, Function& f, bool names_labels);
  Operand value(Function& f, bool names_labels);
  Operand special(Function& f, std::string_view name);
  void resolve(Instruction& i, int scope);
  void link();

  std::unique_ptr<Module> module_;
  Module& m_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  bool extern_ = false;
  std::vector<Scope> scopes_;
  int scope_ = 0;
  uint32_t *rows_ = nullptr, *predicates_ = nullptr;
  uint32_t loc_file_ = 0, loc_line_ = 0;
  std::vector<std::pair<size_t, int>> references_;
  std::deque<std::string> names_;  // %r<106> spelled out
};

}  // namespace emulator
