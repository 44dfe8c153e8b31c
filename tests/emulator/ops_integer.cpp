// SPDX-License-Identifier: Apache-2.0
// Integer arithmetic, logic, shifts and bit fields.
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
template <class T> uint32_t count_ones(T a) { return static_cast<uint32_t>(std::popcount(a)); }
template <class T> uint32_t leading_zeros(T a) { return static_cast<uint32_t>(std::countl_zero(a)); }
template <class T> T reverse(T a) {
  T r = 0;
  for (size_t k = 0; k < 8 * sizeof(T); ++k) r |= (a >> k & 1) << (8 * sizeof(T) - 1 - k);
  return r;
}
template <class T> uint32_t highest_bit(T a) {
  if (std::is_signed_v<T> && a < 0) a = static_cast<T>(~a);
  return a == 0 ? ~0u
                : static_cast<uint32_t>(8 * sizeof(T) - 1 - static_cast<size_t>(std::countl_zero(Unsigned<T>(a))));
}
template <class T> T extract(T a, uint32_t position, uint32_t length) {
  uint32_t const pos = position & 255, len = length & 255, msb = 8 * sizeof(T) - 1;
  if (len == 0) return 0;
  bool const sign = std::is_signed_v<T> && (a >> std::min(pos + len - 1, msb) & 1);
  T r = 0;
  for (uint32_t k = 0; k <= msb; ++k) {
    bool const bit = k < len && pos + k <= msb ? a >> (pos + k) & 1 : sign;
    r = static_cast<T>(r | static_cast<T>(Unsigned<T>{bit} << k));
  }
  return r;
}
uint32_t mask_of(uint32_t position, uint32_t length) {  // bmsk: ones from a bit on
  if (position >= 32 || length == 0) return 0;
  return static_cast<uint32_t>((uint64_t{1} << std::min(length, 32u)) - 1) << position;
}
template <bool Clamp> uint32_t mask_bits(uint32_t position, uint32_t length) {
  return Clamp ? mask_of(position, length) : mask_of(position & 31, length & 31);
}
template <class T, bool Clamp> T extend(T a, uint32_t length) {  // szext: the lowest bits, with sign or zeros above
  if (!Clamp) length &= 31;
  return length >= 32 ? a : extract<T>(a, 0, length);
}
template <class T> void insert(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const *const a = w.source<T>(i.op[1]), *const b = w.source<T>(i.op[2]);
  uint32_t const *const p = w.source<uint32_t>(i.op[3]), *const n = w.source<uint32_t>(i.op[4]);
  for_lanes(lanes, [&](int l) {
    T r = get<T>(b, l);
    for (uint32_t k = 0; k < (n[l] & 255) && (p[l] & 255) + k < 8 * sizeof(T); ++k) {
      T const bit = T{1} << ((p[l] & 255) + k);
      r = (get<T>(a, l) >> k & 1) ? r | bit : r & ~bit;
    }
    set<T>(w.row(i.op[0]), l, r);
  });
}

template <bool Clamp> uint32_t funnel_left(uint32_t a, uint32_t b, uint32_t n) {
  n = Clamp ? std::min(n, 32u) : n & 31;
  return static_cast<uint32_t>((uint64_t{b} << 32 | a) << n >> 32);
}
template <bool Clamp> uint32_t funnel_right(uint32_t a, uint32_t b, uint32_t n) {
  n = Clamp ? std::min(n, 32u) : n & 31;
  return static_cast<uint32_t>((uint64_t{b} << 32 | a) >> n);
}

enum Permute : uint8_t { any, f4e, b4e, rc8, ecl, ecr, rc16 };
void permute(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const *const a = w.source<uint32_t>(i.op[1]), *const b = w.source<uint32_t>(i.op[2]),
                        *const c = w.source<uint32_t>(i.op[3]);
  for_lanes(lanes, [&](int l) {
    uint64_t const bytes = uint64_t{b[l]} << 32 | a[l];
    uint32_t const s = c[l] & 3;
    uint32_t r = 0;
    for (uint32_t k = 0; k < 4; ++k) {
      uint32_t which = 0;
      switch (i.kind) {
        case any:
          which = c[l] >> (4 * k) & 15;
          break;
        case f4e:
          which = s + k;
          break;
        case b4e:
          which = (s - k) & 7;
          break;
        case rc8:
          which = s;
          break;
        case ecl:
          which = std::max(s, k);
          break;
        case ecr:
          which = std::min(s, k);
          break;
        default:
          which = (s & 1) * 2 + (k & 1);
          break;
      }
      uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (which & 7)) & 255);
      if (i.kind == any && which & 8) byte = byte & 128 ? 255 : 0;
      r |= byte << (8 * k);
    }
    set<uint32_t>(w.row(i.op[0]), l, r);
  });
}

void look_up(Warp& w, Instruction const& i, uint32_t lanes) {  // lop3
  uint32_t const *const a = w.source<uint32_t>(i.op[1]), *const b = w.source<uint32_t>(i.op[2]),
                        *const c = w.source<uint32_t>(i.op[3]);
  auto const table = static_cast<uint32_t>(i.op[4].value);
  for_lanes(lanes, [&](int l) {
    uint32_t r = 0;
    for (uint32_t k = 0; k < 8; ++k) {
      if (table >> k & 1) r |= (k & 4 ? a[l] : ~a[l]) & (k & 2 ? b[l] : ~b[l]) & (k & 1 ? c[l] : ~c[l]);
    }
    set<uint32_t>(w.row(i.op[0]), l, r);
  });
}

void dot4(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const *const a = w.source<uint32_t>(i.op[1]), *const b = w.source<uint32_t>(i.op[2]),
                        *const c = w.source<uint32_t>(i.op[3]);
  auto part = [](uint32_t word, int k, Type t) {
    return t == Type::s32 ? int{static_cast<int8_t>(word >> 8 * k)} : int{static_cast<uint8_t>(word >> 8 * k)};
  };
  for_lanes(lanes, [&](int l) {
    uint32_t r = c[l];
    for (int k = 0; k < 4; ++k) r += static_cast<uint32_t>(part(a[l], k, i.type) * part(b[l], k, i.from));
    set<uint32_t>(w.row(i.op[0]), l, r);
  });
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
  EMULATOR_UNARY("bfind", uint32_t, highest_bit);
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
  d["shf"] = [](Instruction& i, Modifiers const& m) {
    bool const clamp = m.has("clamp");
    if (m.has("l"))
      i.run = clamp ? ternary<uint32_t, uint32_t, uint32_t, uint32_t, funnel_left<true>>
                    : ternary<uint32_t, uint32_t, uint32_t, uint32_t, funnel_left<false>>;
    else
      i.run = clamp ? ternary<uint32_t, uint32_t, uint32_t, uint32_t, funnel_right<true>>
                    : ternary<uint32_t, uint32_t, uint32_t, uint32_t, funnel_right<false>>;
  };
  d["popc"] = [](Instruction& i, Modifiers const&) {
    i.run = bytes_of(i.type) == 8 ? unary<uint32_t, uint64_t, count_ones<uint64_t>>
                                  : unary<uint32_t, uint32_t, count_ones<uint32_t>>;
  };
  d["clz"] = [](Instruction& i, Modifiers const&) {
    i.run = bytes_of(i.type) == 8 ? unary<uint32_t, uint64_t, leading_zeros<uint64_t>>
                                  : unary<uint32_t, uint32_t, leading_zeros<uint32_t>>;
  };
  d["brev"] = [](Instruction& i, Modifiers const&) {
    i.run = bytes_of(i.type) == 8 ? unary<uint64_t, uint64_t, reverse<uint64_t>>
                                  : unary<uint32_t, uint32_t, reverse<uint32_t>>;
  };
  d["bfe"] = [](Instruction& i, Modifiers const&) {
    by_type(i, [](auto t) -> Handler {
      using T = decltype(t);
      return ternary<T, T, uint32_t, uint32_t, extract<T>>;
    });
  };
  d["bfi"] = [](Instruction& i, Modifiers const&) {
    i.run = bytes_of(i.type) == 8 ? insert<uint64_t> : insert<uint32_t>;
  };
  d["prmt"] = [](Instruction& i, Modifiers const& m) {
    static constexpr std::string_view modes[] = {"", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"};
    for (uint8_t k = 1; k < 7; ++k) {
      if (m.has(modes[k])) i.kind = k;
    }
    i.run = permute;
  };
  d["lop3"] = [](Instruction& i, Modifiers const& m) {
    if (m.has("and") || m.has("or")) throw UnknownForm{};
    i.run = look_up;
  };
  d["bmsk"] = [](Instruction& i, Modifiers const& m) {
    i.run = m.has("clamp") ? binary<uint32_t, uint32_t, uint32_t, mask_bits<true>>
                           : binary<uint32_t, uint32_t, uint32_t, mask_bits<false>>;
  };
  d["szext"] = [](Instruction& i, Modifiers const& m) {
    bool const clamp = m.has("clamp");
    if (i.type == Type::s32) {
      i.run = clamp ? binary<int32_t, int32_t, uint32_t, extend<int32_t, true>>
                    : binary<int32_t, int32_t, uint32_t, extend<int32_t, false>>;
    } else {
      i.run = clamp ? binary<uint32_t, uint32_t, uint32_t, extend<uint32_t, true>>
                    : binary<uint32_t, uint32_t, uint32_t, extend<uint32_t, false>>;
    }
  };
  d["dp4a"] = [](Instruction& i, Modifiers const&) { i.run = dot4; };
}

}  // namespace emulator
