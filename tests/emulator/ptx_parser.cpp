// SPDX-License-Identifier: Apache-2.0
// Declarations, function bodies and operands of a PTX module.
#include <bit>
#include <charconv>
#include <cstring>

#include "decode.hpp"
#include "fault.hpp"
#include "memory.hpp"
#include "ptx.hpp"
#include "ptx_lexer.hpp"

namespace emulator {
namespace {

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

uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }
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

  std::unique_ptr<Module> run() {
    while (!at_end()) declaration();
    link();
    return std::move(module_);
  }

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

  uint64_t number(bool* is_float = nullptr) {
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

  // ---- module level
  void declaration() {
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

  void file() {
    next();
    auto const id = static_cast<uint32_t>(number());
    m_.files[id] = std::string(next());
    while (accept(",")) next();
  }

  /// One .global, .const, .shared, .local or .param variable, at module level or in a body.
  void variable(Function* function) {
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

  uint64_t place_shared(Function* function, uint64_t bytes, uint64_t align, bool open) {
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

  void initialise(uint8_t* memory, uint64_t element) {
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

  // ---- functions
  Parameter parameter() {
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

  void function() {
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

  void body(Function& f) {
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

  Instruction end_of_function(Function const& f) {  // a body may end without ret
    Instruction i;
    i.flow = f.entry ? Flow::exit : Flow::ret;
    i.line = peek().line;
    i.name = "ret";
    return i;
  }

  void statement(Function& f) {
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

  void registers() {
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

  Symbol const* find(std::string_view name) const {
    for (int s = scope_; s >= 0; s = scopes_[s].parent) {
      auto const found = scopes_[s].symbols.find(name);
      if (found != scopes_[s].symbols.end()) return &found->second;
    }
    return nullptr;
  }

  // ---- instructions
  void instruction(Function& f) {
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

  void operand(Instruction& i, Function& f, bool names_labels) {
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

  Operand value(Function& f, bool names_labels) {
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
  Operand special(Function& f, std::string_view name) {
    Operand o;
    o.kind = Operand::Kind::reg;
    o.name = name;
    o.width =
        name == "%clock64" || name == "%globaltimer" || name == "%gridid" || name == "%current_graph_exec" ? 8 : 4;
    for (Special const& s : f.specials) {
      if (s.name == name) return o.row = s.row, o;
    }
    o.row = *rows_;
    *rows_ += o.width / 4;
    f.specials.push_back({name, o.row});
    return o;
  }

  void resolve(Instruction& i, int scope) {
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
  void link() {
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

}  // namespace

std::unique_ptr<Module> parse_ptx(std::string text, std::string name) {
  return Parser(std::move(text), std::move(name)).run();
}

}  // namespace emulator
