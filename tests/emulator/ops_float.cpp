// SPDX-License-Identifier: Apache-2.0
// f32 and f64 arithmetic. The approximate functions are the correctly computed ones here: a real card differs in the
// last bits.
#include <bit>
#include <cfenv>
#include <cmath>

#include "decode.hpp"
#include "exec.hpp"
#include "float16.hpp"

namespace emulator {
namespace {

struct Rounding {  // for the operations of one instruction
  explicit Rounding(uint8_t mode) : changed(mode != nearest_even) {
    if (changed) std::fesetround(mode == toward_zero ? FE_TOWARDZERO : mode == down ? FE_DOWNWARD : FE_UPWARD);
  }
  ~Rounding() {
    if (changed) std::fesetround(FE_TONEAREST);
  }
  bool changed;
};

template <bool Ftz, class T> T in(T a) {
  if constexpr (Ftz && sizeof(T) == 4) return flush(a);
  return a;
}
template <class F> constexpr bool moves_bits = requires { F::moves_bits; };

/// A result that is NaN is the same one whatever the operands were (f32), unless only the sign is touched.
template <class F, bool Ftz, class T> T out(T a, bool saturate) {
  if (saturate) a = a > 0 ? (a < 1 ? a : T{1}) : T{0};  // NaN becomes 0
  if constexpr (sizeof(T) == 4 && !moves_bits<F>)
    if (a != a) return std::bit_cast<T>(0x7fffffffu);
  return in<Ftz>(a);
}

template <class T, class F, bool Ftz, int Inputs> void apply(Warp& w, Instruction const& i, uint32_t lanes) {
  Rounding const rounding(i.kind);
  uint32_t* const d = w.row(i.op[0]);
  uint32_t const *const a = w.source<T>(i.op[1]), *const b = Inputs > 1 ? w.source<T>(i.op[2]) : a,
                        *const c = Inputs > 2 ? w.source<T>(i.op[3]) : a;
  bool const saturate = i.saturate;
  for_lanes(lanes, [&](int l) {
    if constexpr (Inputs == 1) set<T>(d, l, out<F, Ftz>(F::run(in<Ftz>(get<T>(a, l))), saturate));
    if constexpr (Inputs == 2)
      set<T>(d, l, out<F, Ftz>(F::run(in<Ftz>(get<T>(a, l)), in<Ftz>(get<T>(b, l))), saturate));
    if constexpr (Inputs == 3) {
      set<T>(d, l, out<F, Ftz>(F::run(in<Ftz>(get<T>(a, l)), in<Ftz>(get<T>(b, l)), in<Ftz>(get<T>(c, l))), saturate));
    }
  });
}

struct Add {
  template <class T> static T run(T a, T b) { return a + b; }
};
struct Sub {
  template <class T> static T run(T a, T b) { return a - b; }
};
struct Mul {
  template <class T> static T run(T a, T b) { return a * b; }
};
struct Div {
  template <class T> static T run(T a, T b) { return a / b; }
};
struct Fma {
  template <class T> static T run(T a, T b, T c) { return std::fma(a, b, c); }
};
// minimum of a number and NaN is the number; -0 is less than +0.
struct Min {
  template <class T> static T run(T a, T b) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
  }
};
struct Max {
  template <class T> static T run(T a, T b) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
    return a > b || (a == b && std::signbit(b)) ? a : b;
  }
};
struct MinNan {
  template <class T> static T run(T a, T b) { return std::isnan(a) ? a : std::isnan(b) ? b : Min::run(a, b); }
};
struct MaxNan {
  template <class T> static T run(T a, T b) { return std::isnan(a) ? a : std::isnan(b) ? b : Max::run(a, b); }
};
struct Abs {
  static constexpr bool moves_bits = true;
  template <class T> static T run(T a) { return std::fabs(a); }
};
struct Neg {
  static constexpr bool moves_bits = true;
  template <class T> static T run(T a) { return -a; }
};
struct CopySign {
  static constexpr bool moves_bits = true;
  template <class T> static T run(T a, T b) { return std::copysign(b, a); }
};
struct Sqrt {
  template <class T> static T run(T a) { return std::sqrt(a); }
};
struct Reciprocal {
  template <class T> static T run(T a) { return T{1} / a; }
};
struct ReciprocalSqrt {
  template <class T> static T run(T a) { return static_cast<T>(1 / std::sqrt(static_cast<double>(a))); }
};
struct Exp2 {
  template <class T> static T run(T a) { return std::exp2(a); }
};
struct Log2 {
  template <class T> static T run(T a) { return static_cast<T>(std::log2(static_cast<double>(a))); }
};
struct Sin {
  template <class T> static T run(T a) { return static_cast<T>(std::sin(static_cast<double>(a))); }
};
struct Cos {
  template <class T> static T run(T a) { return static_cast<T>(std::cos(static_cast<double>(a))); }
};
struct Tanh {
  template <class T> static T run(T a) { return static_cast<T>(std::tanh(static_cast<double>(a))); }
};

template <class F, int Inputs> void decode(Instruction& i, Modifiers const& m) {
  i.kind = m.has("rz") ? toward_zero : m.has("rm") ? down : m.has("rp") ? up : nearest_even;
  i.saturate = m.has("sat");
  i.ftz = m.has("ftz");
  if (m.has("xorsign")) throw UnknownForm{};
  if (static_cast<int>(i.op.size()) != Inputs + 1) throw UnknownForm{};
  if (i.type == Type::f64)
    i.run = apply<double, F, false, Inputs>;
  else
    i.run = i.ftz ? apply<float, F, true, Inputs> : apply<float, F, false, Inputs>;
}
template <class Plain, class WithNan> void decode_extremum(Instruction& i, Modifiers const& m) {
  m.has("NaN") ? decode<WithNan, 2>(i, m) : decode<Plain, 2>(i, m);
}

enum Test : uint8_t { finite, infinite, number, not_number, normal, subnormal };
template <class T> void test_property(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t result = 0;
  for_lanes(lanes, [&](int l) {
    T const a = get<T>(w.source<T>(i.op[1]), l);
    bool const is = i.kind == finite       ? std::isfinite(a)
                    : i.kind == infinite   ? std::isinf(a)
                    : i.kind == number     ? !std::isnan(a)
                    : i.kind == not_number ? std::isnan(a)
                    : i.kind == normal     ? std::isnormal(a)
                                           : std::fpclassify(a) == FP_SUBNORMAL;
    result |= uint32_t{is} << l;
  });
  w.set_predicate(i.op[0], lanes, result);
}

}  // namespace

void add_float(Decoders& d) {
  d["add#float"] = decode<Add, 2>;
  d["sub#float"] = decode<Sub, 2>;
  d["mul#float"] = decode<Mul, 2>;
  d["div#float"] = decode<Div, 2>;
  d["fma#float"] = d["mad#float"] = decode<Fma, 3>;
  d["min#float"] = decode_extremum<Min, MinNan>;
  d["max#float"] = decode_extremum<Max, MaxNan>;
  d["abs#float"] = decode<Abs, 1>;
  d["neg#float"] = decode<Neg, 1>;
  d["copysign#float"] = decode<CopySign, 2>;
  d["sqrt#float"] = decode<Sqrt, 1>;
  d["rcp#float"] = decode<Reciprocal, 1>;
  d["rsqrt#float"] = decode<ReciprocalSqrt, 1>;
  d["ex2#float"] = decode<Exp2, 1>;
  d["lg2#float"] = decode<Log2, 1>;
  d["sin#float"] = decode<Sin, 1>;
  d["cos#float"] = decode<Cos, 1>;
  d["tanh#float"] = decode<Tanh, 1>;
  d["testp#float"] = [](Instruction& i, Modifiers const& m) {
    static constexpr std::string_view names[] = {"finite", "infinite", "number", "notanumber", "normal", "subnormal"};
    for (uint8_t k = 0; k < 6; ++k) {
      if (m.has(names[k])) i.kind = k;
    }
    i.run = i.type == Type::f64 ? test_property<double> : test_property<float>;
  };
}

}  // namespace emulator
