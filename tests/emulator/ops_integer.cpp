// SPDX-License-Identifier: Apache-2.0
// Integer arithmetic, logic, shifts and carries.
#include <limits>

#include "decode.hpp"
#include "exec.hpp"

namespace emulator {
namespace {

template <class T> using Unsigned = std::make_unsigned_t<T>;
template <class T>
using Wide =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                       std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                          std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

// Wrapping as the machine does it: through unsigned, which has no undefined overflow.
template <class T> T add(T a, T b) {
  return static_cast<T>(static_cast<Wide<Unsigned<T>>>(a) + static_cast<Wide<Unsigned<T>>>(b));
}
template <class T> T sub(T a, T b) {
  return static_cast<T>(static_cast<Wide<Unsigned<T>>>(a) - static_cast<Wide<Unsigned<T>>>(b));
}
template <class T> T low(T a, T b) {
  return static_cast<T>(static_cast<Wide<Unsigned<T>>>(a) * static_cast<Wide<Unsigned<T>>>(b));
}
template <class T> T high(T a, T b) { return static_cast<T>(Wide<T>{a} * Wide<T>{b} >> (8 * sizeof(T))); }
template <class T> Wide<T> wide(T a, T b) { return Wide<T>{a} * Wide<T>{b}; }
template <class T> T mad_low(T a, T b, T c) { return add<T>(low<T>(a, b), c); }
template <class T> T mad_high(T a, T b, T c) { return add<T>(high<T>(a, b), c); }
template <class T> Wide<T> mad_wide(T a, T b, Wide<T> c) { return add<Wide<T>>(wide<T>(a, b), c); }
template <class T> T divide(T a, T b) {
  if (b == 0) return static_cast<T>(~T{0});  // unspecified by the ISA
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return sub<T>(0, a);
  return static_cast<T>(a / b);
}
template <class T> T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}
template <class T> T smaller(T a, T b) { return a < b ? a : b; }
template <class T> T larger(T a, T b) { return a > b ? a : b; }
template <class T> T negate(T a) { return sub<T>(0, a); }
template <class T> T magnitude(T a) { return a < 0 ? sub<T>(0, a) : a; }
template <class T> T sum_of_differences(T a, T b, T c) { return add<T>(c, a < b ? sub<T>(b, a) : sub<T>(a, b)); }
template <class T> T bit_and(T a, T b) { return a & b; }
template <class T> T bit_or(T a, T b) { return a | b; }
template <class T> T bit_xor(T a, T b) { return a ^ b; }
template <class T> T bit_not(T a) { return static_cast<T>(~a); }
template <class T> T logical_not(T a) { return a == 0; }
template <class T> T shift_left(T a, uint32_t n) {
  return n >= 8 * sizeof(T) ? T{0} : static_cast<T>(Unsigned<T>(a) << n);
}
template <class T> T shift_right(T a, uint32_t n) {
  if (n >= 8 * sizeof(T)) return std::is_signed_v<T> && a < 0 ? static_cast<T>(-1) : T{0};
  return static_cast<T>(a >> n);
}
// ---------------------------------------------------------------- carries: kind bit 0 takes one in, bit 1 gives one
// out
template <class T> void add_carry(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const *const a = w.source<T>(i.op[1]), *const b = w.source<T>(i.op[2]);
  for_lanes(lanes, [&](int l) {
    auto const sum = static_cast<unsigned __int128>(get<T>(a, l)) + get<T>(b, l) + (i.kind & 1 ? w.carry >> l & 1 : 0);
    if (i.kind & 2) w.carry = (w.carry & ~(1u << l)) | static_cast<uint32_t>(sum >> (8 * sizeof(T)) & 1) << l;
    set<T>(w.row(i.op[0]), l, static_cast<T>(sum));
  });
}
template <class T> void sub_carry(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const *const a = w.source<T>(i.op[1]), *const b = w.source<T>(i.op[2]);
  for_lanes(lanes, [&](int l) {
    auto const difference =
        static_cast<unsigned __int128>(get<T>(a, l)) - get<T>(b, l) - (i.kind & 1 ? w.carry >> l & 1 : 0);
    if (i.kind & 2) w.carry = (w.carry & ~(1u << l)) | static_cast<uint32_t>(difference >> (8 * sizeof(T)) & 1) << l;
    set<T>(w.row(i.op[0]), l, static_cast<T>(difference));
  });
}
template <class T, bool High> void mad_carry(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const *const a = w.source<T>(i.op[1]), *const b = w.source<T>(i.op[2]), *const c = w.source<T>(i.op[3]);
  for_lanes(lanes, [&](int l) {
    T const product = High ? high<T>(get<T>(a, l), get<T>(b, l)) : low<T>(get<T>(a, l), get<T>(b, l));
    auto const sum = static_cast<unsigned __int128>(product) + get<T>(c, l) + (i.kind & 1 ? w.carry >> l & 1 : 0);
    if (i.kind & 2) w.carry = (w.carry & ~(1u << l)) | static_cast<uint32_t>(sum >> (8 * sizeof(T)) & 1) << l;
    set<T>(w.row(i.op[0]), l, static_cast<T>(sum));
  });
}

// ---------------------------------------------------------------- predicates as operands
template <uint32_t (*function)(uint32_t, uint32_t)> void predicates(Warp& w, Instruction const& i, uint32_t lanes) {
  w.set_predicate(i.op[0], lanes, function(w.predicate(i.op[1]), w.predicate(i.op[2])));
}
void not_predicate(Warp& w, Instruction const& i, uint32_t lanes) {
  w.set_predicate(i.op[0], lanes, ~w.predicate(i.op[1]));
}

template <class F> void by_type(Instruction& i, F&& f) {
  switch (i.type) {
    case Type::u16:
    case Type::b16:
      i.run = f(uint16_t{});
      break;
    case Type::s16:
      i.run = f(int16_t{});
      break;
    case Type::u32:
    case Type::b32:
      i.run = f(uint32_t{});
      break;
    case Type::s32:
      i.run = f(int32_t{});
      break;
    case Type::u64:
    case Type::b64:
      i.run = f(uint64_t{});
      break;
    case Type::s64:
      i.run = f(int64_t{});
      break;
    default:
      throw UnknownForm{};
  }
}
}  // namespace

#define EMULATOR_BINARY(NAME, FUNCTION)            \
  d[NAME] = [](Instruction& i, Modifiers const&) { \
    by_type(i, [](auto t) -> Handler {             \
      using T = decltype(t);                       \
      return binary<T, T, T, FUNCTION<T>>;         \
    });                                            \
  }
#define EMULATOR_UNARY(NAME, RESULT, FUNCTION)     \
  d[NAME] = [](Instruction& i, Modifiers const&) { \
    by_type(i, [](auto t) -> Handler {             \
      using T = decltype(t);                       \
      return unary<RESULT, T, FUNCTION<T>>;        \
    });                                            \
  }

void add_integer(Decoders& d) {
  EMULATOR_BINARY("div", divide);
  EMULATOR_BINARY("rem", remainder);
  EMULATOR_BINARY("min", smaller);
  EMULATOR_BINARY("max", larger);
  EMULATOR_UNARY("neg", T, negate);
  EMULATOR_UNARY("abs", T, magnitude);
  EMULATOR_UNARY("cnot", T, logical_not);
  d["add"] = d["addc"] = [](Instruction& i, Modifiers const& m) {
    i.kind = static_cast<uint8_t>((i.name.substr(0, 4) == "addc" ? 1 : 0) | (m.has("cc") ? 2 : 0));
    if (m.has("sat")) throw UnknownForm{};
    if (i.kind)
      i.run = bytes_of(i.type) == 8 ? add_carry<uint64_t> : add_carry<uint32_t>;
    else
      by_type(i, [](auto t) -> Handler {
        using T = decltype(t);
        return binary<T, T, T, add<T>>;
      });
  };
  d["sub"] = d["subc"] = [](Instruction& i, Modifiers const& m) {
    i.kind = static_cast<uint8_t>((i.name.substr(0, 4) == "subc" ? 1 : 0) | (m.has("cc") ? 2 : 0));
    if (m.has("sat")) throw UnknownForm{};
    if (i.kind)
      i.run = bytes_of(i.type) == 8 ? sub_carry<uint64_t> : sub_carry<uint32_t>;
    else
      by_type(i, [](auto t) -> Handler {
        using T = decltype(t);
        return binary<T, T, T, sub<T>>;
      });
  };
  d["mul"] = [](Instruction& i, Modifiers const& m) {
    by_type(i, [&](auto t) -> Handler {
      using T = decltype(t);
      if (m.has("wide")) {
        if constexpr (sizeof(T) == 8)
          throw UnknownForm{};
        else
          return binary<Wide<T>, T, T, wide<T>>;
      }
      return m.has("hi") ? Handler{binary<T, T, T, high<T>>} : Handler{binary<T, T, T, low<T>>};
    });
  };
  d["mad"] = d["madc"] = [](Instruction& i, Modifiers const& m) {
    i.kind = static_cast<uint8_t>((i.name.substr(0, 4) == "madc" ? 1 : 0) | (m.has("cc") ? 2 : 0));
    if (m.has("sat")) throw UnknownForm{};
    if (i.kind) {
      if (i.type == Type::s32 || i.type == Type::s64) {
        if (m.has("hi")) throw UnknownForm{};
      }
      bool const high = m.has("hi");
      if (bytes_of(i.type) == 8)
        i.run = high ? mad_carry<uint64_t, true> : mad_carry<uint64_t, false>;
      else
        i.run = high ? mad_carry<uint32_t, true> : mad_carry<uint32_t, false>;
      return;
    }
    by_type(i, [&](auto t) -> Handler {
      using T = decltype(t);
      if (m.has("wide")) {
        if constexpr (sizeof(T) == 8)
          throw UnknownForm{};
        else
          return ternary<Wide<T>, T, T, Wide<T>, mad_wide<T>>;
      }
      return m.has("hi") ? Handler{ternary<T, T, T, T, mad_high<T>>} : Handler{ternary<T, T, T, T, mad_low<T>>};
    });
  };
  d["sad"] = [](Instruction& i, Modifiers const&) {
    by_type(i, [](auto t) -> Handler {
      using T = decltype(t);
      return ternary<T, T, T, T, sum_of_differences<T>>;
    });
  };
  d["and"] = [](Instruction& i, Modifiers const& m) {
    if (m.type() == Type::pred)
      i.run = predicates<bit_and<uint32_t>>;
    else
      by_type(i, [](auto t) -> Handler {
        using T = decltype(t);
        return binary<T, T, T, bit_and<T>>;
      });
  };
  d["or"] = [](Instruction& i, Modifiers const& m) {
    if (m.type() == Type::pred)
      i.run = predicates<bit_or<uint32_t>>;
    else
      by_type(i, [](auto t) -> Handler {
        using T = decltype(t);
        return binary<T, T, T, bit_or<T>>;
      });
  };
  d["xor"] = [](Instruction& i, Modifiers const& m) {
    if (m.type() == Type::pred)
      i.run = predicates<bit_xor<uint32_t>>;
    else
      by_type(i, [](auto t) -> Handler {
        using T = decltype(t);
        return binary<T, T, T, bit_xor<T>>;
      });
  };
  d["not"] = [](Instruction& i, Modifiers const& m) {
    if (m.type() == Type::pred)
      i.run = not_predicate;
    else
      by_type(i, [](auto t) -> Handler {
        using T = decltype(t);
        return unary<T, T, bit_not<T>>;
      });
  };
  d["shl"] = [](Instruction& i, Modifiers const&) {
    by_type(i, [](auto t) -> Handler {
      using T = decltype(t);
      return binary<T, T, uint32_t, shift_left<T>>;
    });
  };
  d["shr"] = [](Instruction& i, Modifiers const&) {
    by_type(i, [](auto t) -> Handler {
      using T = decltype(t);
      return binary<T, T, uint32_t, shift_right<T>>;
    });
  };
}

}  // namespace emulator
