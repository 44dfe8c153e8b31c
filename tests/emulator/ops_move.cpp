// SPDX-License-Identifier: Apache-2.0
// mov with packing, address conversions, comparisons and selections.
#include <chrono>
#include <cmath>

#include "decode.hpp"
#include "exec.hpp"
#include "float16.hpp"

namespace emulator {
namespace {

template <class T> T same(T a) { return a; }

void move_predicate(Warp& w, Instruction const& i, uint32_t lanes) {
  w.set_predicate(i.op[0], lanes, w.predicate(i.op[1]));
}

void move_clock(Warp& w, Instruction const& i, uint32_t lanes) {
  uint64_t const now = i.op[1].name == "%globaltimer"
                           ? static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count())
                           : w.block.grid.executed;
  for_lanes(lanes, [&](int l) {
    i.op[0].width == 8 ? set<uint64_t>(w.row(i.op[0]), l, now)
                       : set<uint32_t>(w.row(i.op[0]), l, static_cast<uint32_t>(now));
  });
}

uint64_t bits_at(Warp& w, Operand const& o, int lane, int bytes) {
  if (bytes == 8) return get<uint64_t>(w.source<uint64_t>(o), lane);
  if (bytes == 4) return get<uint32_t>(w.source<uint32_t>(o), lane);
  return get<uint16_t>(w.source<uint16_t>(o), lane);
}
void put_bits(Warp& w, Operand const& o, int lane, uint64_t bits, int bytes) {
  if (o.sink) return;
  if (bytes == 8) return set<uint64_t>(w.row(o), lane, bits);
  if (bytes == 4) return set<uint32_t>(w.row(o), lane, static_cast<uint32_t>(bits));
  set<uint16_t>(w.row(o), lane, static_cast<uint16_t>(bits));
}

void pack(Warp& w, Instruction const& i, uint32_t lanes) {
  int const parts = i.groups[1], whole = bytes_of(i.type), part = whole / parts;
  for_lanes(lanes, [&](int l) {
    uint64_t bits = 0;
    for (int k = 0; k < parts; ++k) bits |= bits_at(w, i.op[1 + k], l, part) << (8 * part * k);
    put_bits(w, i.op[0], l, bits, whole);
  });
}
void unpack(Warp& w, Instruction const& i, uint32_t lanes) {
  int const parts = i.groups[0], whole = bytes_of(i.type), part = whole / parts;
  for_lanes(lanes, [&](int l) {
    uint64_t const bits = bits_at(w, i.op[parts], l, whole);
    for (int k = 0; k < parts; ++k) put_bits(w, i.op[k], l, bits >> (8 * part * k), part);
  });
}

void decode_mov(Instruction& i, Modifiers const& m) {
  if (m.type() == Type::pred) {
    i.run = move_predicate;
    return;
  }
  if (i.groups[0] > 1 || i.groups[1] > 1) {
    int const parts = std::max(i.groups[0], i.groups[1]), part = bytes_of(i.type) / parts;
    if (bytes_of(i.type) > 8 || part < 2) throw UnknownForm{};
    i.run = i.groups[0] > 1 ? unpack : pack;
    return;
  }
  if (i.op[1].name == "%clock" || i.op[1].name == "%clock64" || i.op[1].name == "%globaltimer") {
    i.run = move_clock;
    return;
  }
  if (!i.op[1].name.empty()) {
    // A register of the machine that nobody filled would be silent nonsense.
    static constexpr std::string_view known[] = {
        "%tid.", "%ntid.", "%ctaid.",    "%nctaid.",           "%laneid",         "%warpid", "%nwarpid",
        "%smid", "%nsmid", "%lanemask_", "%dynamic_smem_size", "%total_smem_size"};
    if (std::none_of(std::begin(known), std::end(known), [&](auto k) { return i.op[1].name.substr(0, k.size()) == k; }))
      throw UnknownForm{};
  }
  switch (bytes_of(i.type)) {
    case 2:
      i.run = unary<uint16_t, uint16_t, same>;
      break;
    case 4:
      i.run = unary<uint32_t, uint32_t, same>;
      break;
    case 8:
      i.run = unary<uint64_t, uint64_t, same>;
      break;
    default:
      throw UnknownForm{};
  }
}

// ---------------------------------------------------------------- addresses
void to_window(Warp& w, Instruction const& i, uint32_t lanes) {
  uint64_t const window = i.space == Space::shared ? shared_window : i.space == Space::local ? local_window : 0;
  for_lanes(lanes, [&](int l) {
    uint64_t const a = bits_at(w, i.op[1], l, bytes_of(i.type)) + i.op[1].offset;
    put_bits(w, i.op[0], l, a | window, bytes_of(i.type));
  });
}
void from_window(Warp& w, Instruction const& i, uint32_t lanes) {
  uint64_t const window = i.space == Space::shared ? shared_window : i.space == Space::local ? local_window : 0;
  for_lanes(lanes, [&](int l) {
    uint64_t const a = bits_at(w, i.op[1], l, bytes_of(i.type));
    put_bits(w, i.op[0], l, window && (a & window_mask) == window ? a & ~window_mask : a, bytes_of(i.type));
  });
}
Space space_in(Modifiers const& m) {
  for (auto const word : m.all) {
    if (word.substr(0, 6) == "shared") return word == "shared::cluster" ? throw UnknownForm{} : Space::shared;
    if (word == "local") return Space::local;
    if (word == "global") return Space::global;
    if (word == "const") return Space::constant;
    if (word.substr(0, 5) == "param") return Space::param;
  }
  return Space::generic;
}
void is_space(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t result = 0;
  for_lanes(lanes, [&](int l) {
    uint64_t const window = bits_at(w, i.op[1], l, 8) & window_mask;
    bool const is = i.space == Space::shared  ? window == shared_window
                    : i.space == Space::local ? window == local_window
                    : i.space == Space::param ? window == param_window
                                              : window == 0;
    result |= uint32_t{is} << l;
  });
  w.set_predicate(i.op[0], lanes, result);
}

// ---------------------------------------------------------------- comparisons
enum Compare : uint8_t { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan };
enum Combine : uint8_t { alone, with_and, with_or, with_xor };

Compare compare_in(Modifiers const& m) {
  static constexpr std::pair<std::string_view, Compare> names[] = {
      {"eq", eq},   {"ne", ne},   {"lt", lt},   {"le", le},   {"gt", gt},   {"ge", ge},
      {"lo", lt},   {"ls", le},   {"hi", gt},   {"hs", ge},   {"equ", equ}, {"neu", neu},
      {"ltu", ltu}, {"leu", leu}, {"gtu", gtu}, {"geu", geu}, {"num", num}, {"nan", nan}};
  for (auto const& [name, compare] : names) {
    if (!m.all.empty() && m.all[0] == name) return compare;
  }
  throw UnknownForm{};
}

template <class T> bool holds(uint8_t compare, T a, T b) {
  bool unordered = false;
  if constexpr (std::is_floating_point_v<T>) unordered = std::isnan(a) || std::isnan(b);
  switch (compare) {
    case eq:
      return !unordered && a == b;
    case ne:
      return !unordered && a != b;
    case lt:
      return a < b;
    case le:
      return a <= b;
    case gt:
      return a > b;
    case ge:
      return a >= b;
    case equ:
      return unordered || a == b;
    case neu:
      return unordered || a != b;
    case ltu:
      return unordered || a < b;
    case leu:
      return unordered || a <= b;
    case gtu:
      return unordered || a > b;
    case geu:
      return unordered || a >= b;
    case num:
      return !unordered;
    default:
      return unordered;
  }
}

/// Storage S is what lies in the register, T what is compared.
template <class S, class T, T (*value)(S)>
uint32_t compared(Warp& w, Instruction const& i, Operand const& x, Operand const& y, uint32_t lanes) {
  uint32_t const *const a = w.source<S>(x), *const b = w.source<S>(y);
  uint32_t result = 0;
  for_lanes(lanes, [&](int l) { result |= uint32_t{holds<T>(i.kind, value(get<S>(a, l)), value(get<S>(b, l)))} << l; });
  return result;
}
template <class S, class T, T (*value)(S)> void set_predicate(Warp& w, Instruction const& i, uint32_t lanes) {
  size_t const at = i.op[1].piped ? 2 : 1;
  uint32_t const result = compared<S, T, value>(w, i, i.op[at], i.op[at + 1], lanes);
  uint32_t const c = i.kind2 == alone ? 0 : w.predicate(i.op[at + 2]);
  auto combine = [&](uint32_t p) {
    return i.kind2 == with_and ? p & c : i.kind2 == with_or ? p | c : i.kind2 == with_xor ? p ^ c : p;
  };
  w.set_predicate(i.op[0], lanes, combine(result));
  if (at == 2) w.set_predicate(i.op[1], lanes, combine(~result));
}
template <class S, class T, T (*value)(S)> void set_value(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t result = compared<S, T, value>(w, i, i.op[1], i.op[2], lanes);
  if (i.kind2 != alone) {
    uint32_t const c = w.predicate(i.op[3]);
    result = i.kind2 == with_and ? result & c : i.kind2 == with_or ? result | c : result ^ c;
  }
  for_lanes(lanes, [&](int l) {
    uint32_t const yes = i.type == Type::f32 ? std::bit_cast<uint32_t>(1.0f) : ~0u;
    set<uint32_t>(w.row(i.op[0]), l, result >> l & 1 ? yes : 0);
  });
}

template <template <class, class> class Make> Handler for_type(Type t, bool ftz) {
  switch (t) {
    case Type::b16:
    case Type::u16:
      return Make<uint16_t, uint16_t>::template with<same>();
    case Type::s16:
      return Make<int16_t, int16_t>::template with<same>();
    case Type::b32:
    case Type::u32:
      return Make<uint32_t, uint32_t>::template with<same>();
    case Type::s32:
      return Make<int32_t, int32_t>::template with<same>();
    case Type::b64:
    case Type::u64:
      return Make<uint64_t, uint64_t>::template with<same>();
    case Type::s64:
      return Make<int64_t, int64_t>::template with<same>();
    case Type::f32:
      return ftz ? Make<float, float>::template with<flush>() : Make<float, float>::template with<same>();
    case Type::f64:
      return Make<double, double>::template with<same>();
    case Type::f16:
      return Make<uint16_t, float>::template with<f16_to_float>();
    case Type::bf16:
      return Make<uint16_t, float>::template with<bf16_to_float>();
    default:
      throw UnknownForm{};
  }
}
template <class S, class T> struct MakeSetp {
  template <T (*value)(S)> static Handler with() { return set_predicate<S, T, value>; }
};
template <class S, class T> struct MakeSet {
  template <T (*value)(S)> static Handler with() { return set_value<S, T, value>; }
};
uint8_t combine_in(Modifiers const& m) {
  return m.has("and") ? with_and : m.has("or") ? with_or : m.has("xor") ? with_xor : alone;
}

template <class T> void select(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t* const d = w.row(i.op[0]);
  uint32_t const *const a = w.source<T>(i.op[1]), *const b = w.source<T>(i.op[2]);
  uint32_t const p = w.predicate(i.op[3]);
  for_lanes(lanes, [&](int l) { set<T>(d, l, p >> l & 1 ? get<T>(a, l) : get<T>(b, l)); });
}

}  // namespace

void add_move(Decoders& d) {
  d["mov"] = decode_mov;
  d["cvta"] = [](Instruction& i, Modifiers const& m) {
    i.space = space_in(m);
    i.run = m.has("to") ? from_window : to_window;
  };
  d["isspacep"] = [](Instruction& i, Modifiers const& m) {
    i.space = space_in(m);
    i.run = is_space;
  };
  d["setp"] = [](Instruction& i, Modifiers const& m) {
    i.kind = compare_in(m);
    i.kind2 = combine_in(m);
    i.run = for_type<MakeSetp>(m.type(), m.has("ftz"));
  };
  d["set"] = [](Instruction& i, Modifiers const& m) {
    i.kind = compare_in(m);
    i.kind2 = combine_in(m);
    if (bytes_of(m.type(0)) != 4 || m.type(0) == Type::f16x2 || m.type(0) == Type::bf16x2) throw UnknownForm{};
    i.run = for_type<MakeSet>(m.type(1), m.has("ftz"));
  };
  d["selp"] = [](Instruction& i, Modifiers const& m) {
    switch (bytes_of(m.type())) {
      case 2:
        i.run = select<uint16_t>;
        break;
      case 4:
        i.run = select<uint32_t>;
        break;
      case 8:
        i.run = select<uint64_t>;
        break;
      default:
        throw UnknownForm{};
    }
  };
}

}  // namespace emulator
