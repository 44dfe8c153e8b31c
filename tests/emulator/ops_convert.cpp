// SPDX-License-Identifier: Apache-2.0
// cvt: between integers, floats and narrow floats, with rounding and saturation.
#include <cfenv>
#include <cmath>
#include <limits>

#include "decode.hpp"
#include "exec.hpp"
#include "float16.hpp"

namespace emulator {
namespace {

enum Form : uint8_t { no_round, round_even, round_zero, round_down, round_up };  // to an integer: rni rzi rmi rpi

double to_whole(double v, uint8_t form) {
  switch (form) {
    case round_zero:
      return std::trunc(v);
    case round_down:
      return std::floor(v);
    case round_up:
      return std::ceil(v);
    default:
      return std::nearbyint(v);
  }
}

template <class D, class S> void integer(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t* const d = w.row(i.op[0]);
  uint32_t const* const a = w.source<S>(i.op[1]);
  uint8_t const width = i.op[0].width;
  for_lanes(lanes, [&](int l) {
    S const v = get_narrow<S>(a, l, i.op[1].width);
    if (i.saturate) {
      __int128 const wide = v;
      D const lowest = std::numeric_limits<D>::min(), highest = std::numeric_limits<D>::max();
      return set_wide<D>(d, l, wide < lowest ? lowest : wide > highest ? highest : static_cast<D>(wide), width);
    }
    set_wide<D>(d, l, static_cast<D>(v), width);
  });
}

double load_float(Warp& w, Operand const& o, int l, Type t) {
  switch (t) {
    case Type::f64:
      return get<double>(w.source<double>(o), l);
    case Type::f32:
      return get<float>(w.source<float>(o), l);
    case Type::f16:
      return f16_to_float(get<uint16_t>(w.source<uint16_t>(o), l));
    default:
      return bf16_to_float(get<uint16_t>(w.source<uint16_t>(o), l));
  }
}

template <class D> void float_to_integer(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t* const d = w.row(i.op[0]);
  for_lanes(lanes, [&](int l) {
    double v = load_float(w, i.op[1], l, i.from);
    if (i.ftz) v = flush(static_cast<float>(v));
    v = to_whole(v, i.kind);
    D r;
    if (std::isnan(v))
      r = 0;
    else if (v <= static_cast<double>(std::numeric_limits<D>::min()))
      r = std::numeric_limits<D>::min();
    else if (v >= static_cast<double>(std::numeric_limits<D>::max()))
      r = std::numeric_limits<D>::max();
    else
      r = static_cast<D>(v);
    set_wide<D>(d, l, r, i.op[0].width);
  });
}

void store_float(Warp& w, Operand const& o, int l, double v, Type t, Round round, bool ftz) {
  switch (t) {
    case Type::f64:
      return set<double>(w.row(o), l, v);
    case Type::f32: {
      std::fesetround(round == toward_zero ? FE_TOWARDZERO
                      : round == down      ? FE_DOWNWARD
                      : round == up        ? FE_UPWARD
                                           : FE_TONEAREST);
      float const volatile r = static_cast<float>(v);
      std::fesetround(FE_TONEAREST);
      return set<float>(w.row(o), l, ftz ? flush(r) : r);
    }
    case Type::f16:
      return set<uint16_t>(w.row(o), l, to_f16(v, round));
    default:
      return set<uint16_t>(w.row(o), l,
                           round == nearest_even ? float_to_bf16(static_cast<float>(v)) : to_bf16(v, round));
  }
}

void float_to_float(Warp& w, Instruction const& i, uint32_t lanes) {
  for_lanes(lanes, [&](int l) {
    double v = load_float(w, i.op[1], l, i.from);
    if (i.ftz && i.from == Type::f32) v = flush(static_cast<float>(v));
    if (i.vector == 2) v = to_whole(v, i.kind2);  // cvt.rni.f32.f32
    if (i.saturate) v = v > 0 ? std::min(v, 1.0) : 0;
    store_float(w, i.op[0], l, v, i.type, static_cast<Round>(i.kind), i.ftz);
  });
}

template <class S> void integer_to_float(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const* const a = w.source<S>(i.op[1]);
  int const mode = i.kind == toward_zero ? FE_TOWARDZERO
                   : i.kind == down      ? FE_DOWNWARD
                   : i.kind == up        ? FE_UPWARD
                                         : FE_TONEAREST;
  for_lanes(lanes, [&](int l) {
    S volatile const v = get_narrow<S>(a, l, i.op[1].width);
    if (i.type == Type::f32 || i.type == Type::f64) std::fesetround(mode);
    if (i.type == Type::f32) {
      float volatile const r = static_cast<float>(v);  // one rounding, also from 64 bits
      std::fesetround(FE_TONEAREST);
      set<float>(w.row(i.op[0]), l, r);
    } else if (i.type == Type::f64) {
      double volatile const r = static_cast<double>(v);
      std::fesetround(FE_TONEAREST);
      set<double>(w.row(i.op[0]), l, r);
    } else {
      store_float(w, i.op[0], l, static_cast<double>(v), i.type, static_cast<Round>(i.kind), false);
    }
  });
}

/// cvt.rn.bf16x2.f32 d, a, b: a is the upper half.
void pack_two(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const *const a = w.source<float>(i.op[1]), *const b = w.source<float>(i.op[2]);
  auto const round = static_cast<Round>(i.kind);
  for_lanes(lanes, [&](int l) {
    auto half = [&](float v) -> uint32_t {
      if (i.saturate && v < 0) v = 0;  // relu
      if (i.type == Type::f16x2) return to_f16(v, round);
      return round == nearest_even ? float_to_bf16(v) : to_bf16(v, round);
    };
    set<uint32_t>(w.row(i.op[0]), l, half(get<float>(a, l)) << 16 | half(get<float>(b, l)));
  });
}

void tf32(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const* const a = w.source<float>(i.op[1]);
  for_lanes(lanes,
            [&](int l) { set<uint32_t>(w.row(i.op[0]), l, to_tf32(get<float>(a, l), static_cast<Round>(i.kind))); });
}

bool is_float(Type t) { return t == Type::f32 || t == Type::f64 || t == Type::f16 || t == Type::bf16; }

template <class F> Handler by_integer(Type t, F&& f) {
  switch (t) {
    case Type::u8:
    case Type::b8:
      return f(uint8_t{});
    case Type::s8:
      return f(int8_t{});
    case Type::u16:
    case Type::b16:
      return f(uint16_t{});
    case Type::s16:
      return f(int16_t{});
    case Type::u32:
    case Type::b32:
      return f(uint32_t{});
    case Type::s32:
      return f(int32_t{});
    case Type::u64:
    case Type::b64:
      return f(uint64_t{});
    case Type::s64:
      return f(int64_t{});
    default:
      throw UnknownForm{};
  }
}

void decode_cvt(Instruction& i, Modifiers const& m) {
  i.ftz = m.has("ftz");
  i.saturate = m.has("sat");
  Round const round = m.has("rz")    ? toward_zero
                      : m.has("rm")  ? down
                      : m.has("rp")  ? up
                      : m.has("rna") ? nearest_away
                                     : nearest_even;
  Form const whole = m.has("rni")   ? round_even
                     : m.has("rzi") ? round_zero
                     : m.has("rmi") ? round_down
                     : m.has("rpi") ? round_up
                                    : no_round;
  if (m.has("satfinite") || m.has("pack")) throw UnknownForm{};
  if ((i.type == Type::f16x2 || i.type == Type::bf16x2) && i.from == Type::f32 && i.op.size() == 3) {
    i.kind = round;
    i.saturate = m.has("relu");
    i.run = pack_two;
    return;
  }
  if (i.type == Type::tf32) {
    i.kind = round;
    if (m.has("relu")) throw UnknownForm{};
    i.run = tf32;
    return;
  }
  if (is_float(i.type) && is_float(i.from)) {
    i.kind = round;
    i.kind2 = whole;
    i.vector = whole == no_round ? 1 : 2;
    if (m.has("relu")) throw UnknownForm{};
    i.run = float_to_float;
    return;
  }
  if (is_float(i.from)) {
    i.kind = whole;
    i.run = by_integer(i.type, [](auto t) -> Handler { return float_to_integer<decltype(t)>; });
    return;
  }
  if (is_float(i.type)) {
    i.kind = round;
    i.run = by_integer(i.from, [](auto t) -> Handler { return integer_to_float<decltype(t)>; });
    return;
  }
  i.run = by_integer(i.type, [&](auto to) -> Handler {
    return by_integer(i.from, [](auto from) -> Handler { return integer<decltype(to), decltype(from)>; });
  });
}

}  // namespace

void add_convert(Decoders& d) { d["cvt"] = decode_cvt; }

}  // namespace emulator
