// SPDX-License-Identifier: Apache-2.0
// Declarations of a PTX module: variables, functions and their parameters.
#include "ptx_parser.hpp"

#include <bit>
#include <charconv>
#include <cstring>

namespace emulator {

std::unique_ptr<Module> Parser::run() {
  while (!at_end()) declaration();
  link();
  return std::move(module_);
}

uint64_t Parser::number(bool* is_float) {
  bool const negative = accept("-");
  std::string_view word = next();
  uint64_t value = 0;
  if (word.size() > 2 && word[0] == '0' && (word[1] == 'f' || word[1] == 'F' || word[1] == 'd' || word[1] == 'D')) {
    std::from_chars(word.data() + 2, word.data() + word.size(), value, 16);
    if (is_float) *is_float = true;
  } else if (word.find('.') != word.npos) {
    value = std::bit_cast<uint64_t>(std::stod(std::string(word)));
    if (is_float) *is_float = true;
  } else if (word.size() > 2 && word[0] == '0' && (word[1] == 'x' || word[1] == 'X')) {
    std::from_chars(word.data() + 2, word.data() + word.size(), value, 16);
  } else if (word.size() > 2 && word[0] == '0' && (word[1] == 'b' || word[1] == 'B')) {
    std::from_chars(word.data() + 2, word.data() + word.size(), value, 2);
  } else if (std::from_chars(word.data(), word.data() + word.size(), value, 10).ptr == word.data()) {
    --at_;
    fail("expected a number, found '" + std::string(word) + "'");
  }
  return negative ? 0 - value : value;
}

void Parser::declaration() {
  std::string_view const word = peek().text;
  if (word == ".version" || word == ".target" || word == ".address_size") return skip_line();
  if (word == ".pragma" || word == ".alias") return skip_past(";");
  if (word == ".file") return file();
  if (word == ".section") {
    skip_past("{");
    return skip_past("}");
  }
  if (word == ".visible" || word == ".weak" || word == ".common") return void(next());
  if (word == ".extern") {
    next();
    extern_ = true;
    return;
  }
  if (word == ".entry" || word == ".func") return function();
  if (word == ".global" || word == ".const" || word == ".shared") {
    variable(nullptr);
    extern_ = false;
    return;
  }
  if (word == ";") return void(next());
  fail("unknown declaration '" + std::string(word) + "'");
}

void Parser::file() {
  next();
  auto const id = static_cast<uint32_t>(number());
  m_.files[id] = std::string(next());
  while (accept(",")) next();
}

/// One .global, .const, .shared, .local or .param variable, at module level or in a body.
void Parser::variable(Function* function) {
  std::string_view const space = next();
  uint64_t align = 0, element = 0, vector = 1;
  for (;;) {
    if (accept(".align")) {
      align = number();
    } else if (accept(".attribute")) {
      skip_past(")");
    } else if (accept(".v2")) {
      vector = 2;
    } else if (accept(".v4")) {
      vector = 4;
    } else if (Type const type = type_named(peek().text.substr(1)); peek().text[0] == '.' && type != Type::none) {
      element = bytes_of(type) * vector;
      next();
    } else {
      break;
    }
  }
  if (element == 0) fail("variable of unknown type");
  if (align == 0) align = element;
  std::string_view const name = next();
  uint64_t count = 1;
  bool open = false;
  while (accept("[")) {
    if (accept("]")) {
      open = true;
    } else {
      count *= number();
      expect("]");
    }
  }
  uint64_t const bytes = open ? 0 : element * count;
  Symbol symbol{.kind = Symbol::Kind::address};
  if (space == ".shared") {
    symbol.space = Space::shared;
    symbol.value = place_shared(function, bytes, align, open);
  } else if (space == ".local" || space == ".param") {
    symbol.space = Space::local;
    uint64_t& end = function && function->entry ? function->local_end : m_.function_local_end;
    symbol.value = end = round_up(end, std::max<uint64_t>(align, 16));
    end += bytes + 16;
  } else {
    symbol.space = space == ".const" ? Space::constant : Space::global;
    symbol.value = Memory::get().allocate(std::max<uint64_t>(bytes, 1), 0, align);
    uint8_t* const memory = Memory::get().write(symbol.value, bytes);
    std::memset(memory, 0, bytes);
    if (accept("=")) initialise(memory, element / vector);
  }
  if (peek().text == ",") fail("several variables in one declaration");
  expect(";");
  if (function) {
    scopes_[scope_].symbols[name] = symbol;
  } else {
    m_.variables[std::string(name)] = {symbol.space, symbol.value, bytes};
  }
}

uint64_t Parser::place_shared(Function* function, uint64_t bytes, uint64_t align, bool open) {
  if (open) return m_.dynamic_begin;
  uint64_t& end = function ? function->shared_end : m_.module_shared_end;
  uint64_t& total = function ? function->shared_bytes : m_.module_shared_bytes;
  if (function && end == static_shared) end = m_.module_shared_end;
  uint64_t const value = round_up(end, std::max<uint64_t>(align, 16));
  end = value + bytes + red_zone;
  total = round_up(total, align) + bytes;
  (function ? function->shared_spans : m_.shared_spans).push_back({value, value + bytes});
  return value;
}

void Parser::initialise(uint8_t* memory, uint64_t element) {
  auto one = [&] {
    uint64_t value = 0;
    if (peek().text == "generic" || (!m_.variables.empty() && m_.variables.count(peek().text))) {
      bool const generic = accept("generic");
      if (generic) expect("(");
      auto const found = m_.variables.find(next());
      if (found == m_.variables.end()) fail("initialiser names an unknown variable");
      value = found->second.address;
      if (generic) expect(")");
      if (accept("+")) value += number();
    } else {
      value = number();
    }
    std::memcpy(memory, &value, std::min<uint64_t>(element, 8));
    memory += element;
  };
  if (!accept("{")) return one();
  while (!accept("}")) {
    if (peek().text == "{" || peek().text == ",") {
      next();
    } else {
      one();
    }
  }
}

Parameter Parser::parameter() {
  if (!accept(".param") && !accept(".reg")) fail("parameter expected");
  uint64_t align = 0, element = 0;
  for (; peek().text[0] == '.';) {
    if (accept(".align")) {
      align = number();
    } else if (accept(".ptr") || accept(".global") || accept(".shared") || accept(".const") || accept(".local")) {
      continue;  // what it points to
    } else {
      element = bytes_of(type_named(next().substr(1)));
    }
  }
  Parameter p{.name = next()};
  uint64_t count = 1;
  if (accept("[")) {
    count = number();
    expect("]");
  }
  p.bytes = static_cast<uint32_t>(element * count);
  p.offset = static_cast<uint32_t>(round_up(0, std::max<uint64_t>(align ? align : element, 1)));
  p.local = std::max<uint64_t>(align ? align : element, 1);  // alignment, until it is placed
  return p;
}

void Parser::function() {
  bool const entry = next() == ".entry";
  std::vector<Parameter> results, parameters;
  if (!entry && accept("(")) {
    while (!accept(")")) {
      results.push_back(parameter());
      accept(",");
    }
  }
  std::string const name(next());
  if (accept("(")) {
    while (!accept(")")) {
      parameters.push_back(parameter());
      accept(",");
    }
  }
  auto& slot = m_.functions[name];
  if (!slot) slot = std::make_unique<Function>();
  Function& f = *slot;
  f.name = name;
  f.entry = entry;
  f.local_end = kernel_local;
  extern_ = false;
  while (peek().text != "{" && peek().text != ";") {
    if (accept(".maxntid") || accept(".reqntid")) {
      for (int i = 0; i < 3; ++i) {
        f.max_threads[i] = static_cast<uint32_t>(number());
        if (!accept(",")) {
          for (++i; i < 3; ++i) f.max_threads[i] = 1;
        }
      }
    } else {
      next();
    }
  }
  if (accept(";")) return;
  scopes_.assign(1, {});
  scope_ = 0;
  for (auto* const list : {&results, &parameters}) {
    for (Parameter& p : *list) {
      uint64_t const align = p.local;
      Symbol symbol{.kind = Symbol::Kind::address};
      if (entry) {
        p.offset = f.parameter_bytes = static_cast<uint32_t>(round_up(f.parameter_bytes, align));
        f.parameter_bytes += p.bytes;
        symbol.space = Space::param;
        symbol.value = param_window + p.offset;
      } else {
        m_.function_local_end = round_up(m_.function_local_end, 16);
        p.local = symbol.value = m_.function_local_end;
        m_.function_local_end += p.bytes + 16;
        symbol.space = Space::local;
      }
      scopes_[0].symbols[p.name] = symbol;
    }
  }
  f.results = std::move(results);
  f.parameters = std::move(parameters);
  body(f);
}

std::unique_ptr<Module> parse_ptx(std::string text, std::string name) {
  return Parser(std::move(text), std::move(name)).run();
}

}  // namespace emulator
