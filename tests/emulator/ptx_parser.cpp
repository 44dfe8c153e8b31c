// SPDX-License-Identifier: Apache-2.0
// Bodies of functions: registers, instructions, operands, labels; and linking.
#include "ptx_parser.hpp"

#include "decode.hpp"

namespace emulator {

void Parser::body(Function& f) {
  f.defined = true;
  f.first = static_cast<uint32_t>(m_.code.size());
  rows_ = f.entry ? &f.rows : &m_.function_rows;
  predicates_ = f.entry ? &f.predicates : &m_.function_predicates;
  references_.clear();
  expect("{");
  for (int depth = 1; depth > 0;) {
    if (at_end()) fail("a body without an end");
    if (accept("{")) {
      ++depth;
      scopes_.push_back({.parent = scope_, .symbols = {}, .labels = {}, .tables = {}});
      scope_ = static_cast<int>(scopes_.size()) - 1;
    } else if (accept("}")) {
      --depth;
      scope_ = scopes_[scope_].parent;
    } else {
      statement(f);
    }
  }
  m_.code.push_back(end_of_function(f));
  f.last = static_cast<uint32_t>(m_.code.size());
  if (f.shared_end == static_shared) f.shared_end = m_.module_shared_end;
  for (auto const& [index, scope] : references_) resolve(m_.code[index], scope);
}

Instruction Parser::end_of_function(Function const& f) {  // a body may end without ret
  Instruction i;
  i.flow = f.entry ? Flow::exit : Flow::ret;
  i.line = peek().line;
  i.name = "ret";
  return i;
}

void Parser::statement(Function& f) {
  std::string_view const word = peek().text;
  if (word == ";") return void(next());
  if (word == ".reg") return registers();
  if (word == ".local" || word == ".shared" || word == ".param" || word == ".global" || word == ".const")
    return variable(&f);
  if (word == ".pragma") return skip_past(";");
  if (word == ".loc") {
    next();
    loc_file_ = static_cast<uint32_t>(number());
    loc_line_ = static_cast<uint32_t>(number());
    return skip_line();
  }
  if (word[0] == '.') return skip_past(";");
  if (peek(1).text == ":") {
    std::string_view const label = next();
    next();
    if (accept(".branchtargets")) {
      auto& list = scopes_[scope_].tables[label];
      do list.push_back(next());
      while (accept(","));
      expect(";");
    } else {
      scopes_[scope_].labels[label] = static_cast<uint32_t>(m_.code.size());
    }
    return;
  }
  instruction(f);
}

void Parser::registers() {
  next();
  Type const type = type_named(next().substr(1));
  do {
    std::string_view const name = next();
    uint64_t count = 1;
    bool const many = accept("<");
    if (many) {
      count = number();
      expect(">");
    }
    for (uint64_t i = 0; i < count; ++i) {
      std::string_view full = name;
      if (many) full = names_.emplace_back(std::string(name) + std::to_string(i));
      Symbol symbol;
      if (type == Type::pred) {
        symbol.kind = Symbol::Kind::pred;
        symbol.row = (*predicates_)++;
      } else {
        symbol.width = static_cast<uint8_t>(bytes_of(type));
        symbol.row = *rows_;
        *rows_ += symbol.width > 4 ? symbol.width / 4 : 1;
      }
      scopes_[scope_].symbols[full] = symbol;
    }
  } while (accept(","));
  expect(";");
}

Symbol const* Parser::find(std::string_view name) const {
  for (int s = scope_; s >= 0; s = scopes_[s].parent) {
    auto const found = scopes_[s].symbols.find(name);
    if (found != scopes_[s].symbols.end()) return &found->second;
  }
  return nullptr;
}

void Parser::instruction(Function& f) {
  Instruction i;
  i.line = peek().line;
  i.source_file = loc_file_;
  i.source_line = loc_line_;
  if (accept("@")) {
    i.guarded = true;
    i.guard_negated = accept("!");
    Symbol const* const p = find(next());
    if (!p || p->kind != Symbol::Kind::pred) fail("guard is not a predicate");
    i.guard = p->row;
  }
  i.name = next();
  Modifiers modifiers;
  std::string_view rest = i.name;
  std::string_view const base = rest.substr(0, rest.find('.'));
  for (size_t dot = rest.find('.'); dot != rest.npos;) {
    rest = rest.substr(dot + 1);
    dot = rest.find('.');
    modifiers.all.push_back(rest.substr(0, dot));
    Type const type = type_named(modifiers.all.back());
    if (type != Type::none) modifiers.types.push_back(type);
  }
  bool const names_labels = base == "bra" || base == "brx" || base == "call";
  while (peek().text != ";") {
    size_t const before = i.op.size();
    operand(i, f, names_labels);
    i.groups.push_back(static_cast<uint8_t>(i.op.size() - before));
    if (!accept(",") && peek().text != ";") fail("',' or ';' expected after an operand");
  }
  expect(";");
  i.type = modifiers.type();
  i.from = modifiers.type(1);
  Type const t = i.type;
  std::string family(base);
  if (t == Type::f32 || t == Type::f64) family += "#float";
  if (t == Type::f16 || t == Type::bf16 || t == Type::f16x2 || t == Type::bf16x2) family += "#half";
  auto found = decoders().find(family);
  if (found == decoders().end()) found = decoders().find(base);
  if (found == decoders().end()) {
    i.run = unknown_opcode;
  } else {
    try {
      found->second(i, modifiers);
    } catch (UnknownForm) {
      i.run = unknown_opcode;
      i.flow = Flow::next;
    }
  }
  if (names_labels) references_.emplace_back(m_.code.size(), scope_);
  m_.code.push_back(std::move(i));
}

void Parser::operand(Instruction& i, Function& f, bool names_labels) {
  if (peek().text == "{" || peek().text == "(") {
    std::string_view const close = next() == "{" ? "}" : ")";
    while (!accept(close)) {
      i.op.push_back(value(f, names_labels));
      accept(",");
    }
    return;
  }
  if (accept("[")) {
    Operand o = value(f, false);
    o.address = true;
    if (accept("+") || peek().text == "-") o.offset = static_cast<int64_t>(number());
    i.op.push_back(o);
    while (accept(",")) operand(i, f, false);  // coordinates of a tensor or texture
    expect("]");
    return;
  }
  i.op.push_back(value(f, names_labels));
  if (accept("|")) {
    i.op.push_back(value(f, false));
    i.op.back().piped = true;
  } else if (accept("+")) {  // symbol + offset
    i.op.back().value += number();
    i.op.back().constant = m_.constant_row(i.op.back().value);
  }
}

Operand Parser::value(Function& f, bool names_labels) {
  Operand o;
  o.negated = accept("!");
  std::string_view const word = peek().text;
  char const c = word.empty() ? ' ' : word[0];
  if (c == '-' || (c >= '0' && c <= '9')) {
    o.kind = Operand::Kind::constant;
    o.value = number(&o.is_float);
    o.constant = m_.constant_row(o.value);
    return o;
  }
  next();
  if (word == "_") {
    o.sink = true;
    return o;
  }
  if (word == "WARP_SZ") {
    o.kind = Operand::Kind::constant;
    o.constant = m_.constant_row(o.value = 32);
    return o;
  }
  if (Symbol const* const s = find(word)) {
    o.row = s->row;
    o.width = s->width;
    o.space = s->space;
    if (s->kind == Symbol::Kind::address) {
      o.kind = Operand::Kind::constant;
      o.constant = m_.constant_row(o.value = s->value);
    } else {
      o.kind = s->kind == Symbol::Kind::pred ? Operand::Kind::pred : Operand::Kind::reg;
    }
    return o;
  }
  if (auto const v = m_.variables.find(word); v != m_.variables.end()) {
    o.kind = Operand::Kind::constant;
    o.space = v->second.space;
    o.constant = m_.constant_row(o.value = v->second.address);
    return o;
  }
  if (c == '%') return special(f, word);
  if (!names_labels) fail("unknown name '" + std::string(word) + "'");
  o.kind = Operand::Kind::label;
  o.name = word;
  return o;
}

/// %tid.x and the like are registers that are filled when the warp starts; clocks are read by mov (ops_move.cpp).
Operand Parser::special(Function& f, std::string_view name) {
  Operand o;
  o.kind = Operand::Kind::reg;
  o.name = name;
  o.width = name == "%clock64" || name == "%globaltimer" || name == "%gridid" || name == "%current_graph_exec" ? 8 : 4;
  for (Special const& s : f.specials) {
    if (s.name == name) return o.row = s.row, o;
  }
  o.row = *rows_;
  *rows_ += o.width / 4;
  f.specials.push_back({name, o.row});
  return o;
}

void Parser::resolve(Instruction& i, int scope) {
  auto lookup = [&](std::string_view name, auto member) -> decltype(&(scopes_[0].*member).begin()->second) {
    for (int s = scope; s >= 0; s = scopes_[s].parent) {
      auto const found = (scopes_[s].*member).find(name);
      if (found != (scopes_[s].*member).end()) return &found->second;
    }
    return nullptr;
  };
  auto label = [&](std::string_view name) {
    auto const* const found = lookup(name, &Scope::labels);
    if (!found) throw Fault("PTX", "unknown label '" + std::string(name) + "'; " + m_.where(i.line));
    return *found;
  };
  if (i.flow == Flow::branch) i.target = label(i.op.back().name);
  if (i.flow == Flow::branch_table) {
    auto const* const list = lookup(i.op.back().name, &Scope::tables);
    if (!list) throw Fault("PTX", "unknown branch table; " + m_.where(i.line));
    for (auto const name : *list) i.table.push_back(label(name));
  }
}

/// Kernels' registers lie behind those of all functions, which are live at the same time; calls find their functions.
void Parser::link() {
  for (auto& [name, f] : m_.functions) {
    if (!f->entry) continue;
    f->rows += m_.function_rows;
    f->predicates += m_.function_predicates;
    for (Special& s : f->specials) s.row += m_.function_rows;
    for (uint32_t k = f->first; k < f->last; ++k) {
      m_.code[k].guard += m_.function_predicates;
      for (Operand& o : m_.code[k].op) {
        if (o.kind == Operand::Kind::reg) o.row += m_.function_rows;
        if (o.kind == Operand::Kind::pred) o.row += m_.function_predicates;
      }
    }
  }
  for (Instruction& i : m_.code) {
    if (i.flow != Flow::call) continue;
    std::string_view callee;
    for (Operand const& o : i.op) {
      if (o.kind == Operand::Kind::label) callee = o.name;
    }
    auto const found = m_.functions.find(callee);
    if (found != m_.functions.end() && found->second->defined) {
      i.target = found->second->first;
    } else {
      i.flow = Flow::next;
      Handler const builtin = builtin_function(callee);
      i.run = builtin ? builtin : unknown_opcode;
    }
  }
}

}  // namespace emulator
