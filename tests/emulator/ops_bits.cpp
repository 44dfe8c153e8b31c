// SPDX-License-Identifier: Apache-2.0
// Counting, permuting and extracting bits; funnel shifts, lop3 and dot products of bytes.
#include "decode.hpp"
#include "exec.hpp"

namespace emulator {
namespace {

template <class T> using Unsigned = std::make_unsigned_t<T>;

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

/// How far the highest bit is from the top; all ones if there is none.
uint32_t shift_to_top(uint32_t x) { return x ? static_cast<uint32_t>(__builtin_clz(x)) : ~uint32_t{0}; }

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

}  // namespace

void add_bits(Decoders& d) {
  d["bfind"] = [](Instruction& i, Modifiers const& m) {
    if (m.has("shiftamt")) {
      if (i.type != Type::u32) throw UnknownForm{};
      i.run = unary<uint32_t, uint32_t, shift_to_top>;
      return;
    }
    switch (i.type) {
      case Type::u32:
        i.run = unary<uint32_t, uint32_t, highest_bit<uint32_t>>;
        break;
      case Type::s32:
        i.run = unary<uint32_t, int32_t, highest_bit<int32_t>>;
        break;
      case Type::u64:
        i.run = unary<uint32_t, uint64_t, highest_bit<uint64_t>>;
        break;
      case Type::s64:
        i.run = unary<uint32_t, int64_t, highest_bit<int64_t>>;
        break;
      default:
        throw UnknownForm{};
    }
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
    switch (i.type) {
      case Type::u32:
        i.run = ternary<uint32_t, uint32_t, uint32_t, uint32_t, extract<uint32_t>>;
        break;
      case Type::s32:
        i.run = ternary<int32_t, int32_t, uint32_t, uint32_t, extract<int32_t>>;
        break;
      case Type::u64:
        i.run = ternary<uint64_t, uint64_t, uint32_t, uint32_t, extract<uint64_t>>;
        break;
      case Type::s64:
        i.run = ternary<int64_t, int64_t, uint32_t, uint32_t, extract<int64_t>>;
        break;
      default:
        throw UnknownForm{};
    }
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
