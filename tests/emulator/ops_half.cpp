// SPDX-License-Identifier: Apache-2.0
// f16 and bf16 arithmetic, one value or two in a register. Computed wide and rounded once.
#include <cmath>

#include "decode.hpp"
#include "exec.hpp"
#include "float16.hpp"

namespace emulator {
namespace {

using Function = double (*)(double, double, double);

template <bool Bf16> double value(uint32_t bits) {
  return Bf16 ? bf16_to_float(static_cast<uint16_t>(bits)) : f16_to_float(static_cast<uint16_t>(bits));
}
template <bool Bf16> uint32_t pattern(double v) { return Bf16 ? to_bf16(v) : to_f16(v); }

template <bool Bf16, int Values, int Inputs, Function function>
void apply(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t* const d = w.row(i.op[0]);
  uint32_t const* in[3] = {};
  for (int k = 0; k < Inputs; ++k) in[k] = w.source<uint32_t>(i.op[1 + k]);
  for_lanes(lanes, [&](int l) {
    uint32_t result = 0;
    for (int v = 0; v < Values; ++v) {
      double x[3] = {};
      for (int k = 0; k < Inputs; ++k) x[k] = value<Bf16>(in[k][l] >> (16 * v) & 0xffff);
      double y = function(x[0], x[1], x[2]);
      if (i.saturate) y = y > 0 ? std::min(y, 1.0) : 0;
      if (i.kind == 1 && y < 0) y = 0;  // relu
      result |= pattern<Bf16>(y) << (16 * v);
    }
    d[l] = result;
  });
}

double sum(double a, double b, double) { return a + b; }
double difference(double a, double b, double) { return a - b; }
double product(double a, double b, double) { return a * b; }
double fused(double a, double b, double c) { return std::fma(a, b, c); }
double less(double a, double b) { return a < b || (a == b && std::signbit(a)) ? a : b; }  // -0 is less than +0
double more(double a, double b) { return a > b || (a == b && std::signbit(b)) ? a : b; }
double smaller(double a, double b, double) { return std::isnan(a) ? b : std::isnan(b) ? a : less(a, b); }
double larger(double a, double b, double) { return std::isnan(a) ? b : std::isnan(b) ? a : more(a, b); }
double smaller_nan(double a, double b, double) { return std::isnan(a) || std::isnan(b) ? NAN : less(a, b); }
double larger_nan(double a, double b, double) { return std::isnan(a) || std::isnan(b) ? NAN : more(a, b); }
double negated(double a, double, double) { return -a; }
double magnitude(double a, double, double) { return std::fabs(a); }
double power(double a, double, double) { return std::exp2(a); }
double tangent(double a, double, double) { return std::tanh(a); }

template <int Inputs, Function function> void decode(Instruction& i, Modifiers const& m) {
  i.saturate = m.has("sat");
  i.kind = m.has("relu") ? 1 : 0;
  if (static_cast<int>(i.op.size()) != Inputs + 1 || m.has("xorsign")) throw UnknownForm{};
  switch (i.type) {
    case Type::f16:
      i.run = apply<false, 1, Inputs, function>;
      break;
    case Type::f16x2:
      i.run = apply<false, 2, Inputs, function>;
      break;
    case Type::bf16:
      i.run = apply<true, 1, Inputs, function>;
      break;
    default:
      i.run = apply<true, 2, Inputs, function>;
      break;
  }
}

}  // namespace

void add_half(Decoders& d) {
  d["add#half"] = decode<2, sum>;
  d["sub#half"] = decode<2, difference>;
  d["mul#half"] = decode<2, product>;
  d["fma#half"] = decode<3, fused>;
  d["min#half"] = [](Instruction& i, Modifiers const& m) {
    m.has("NaN") ? decode<2, smaller_nan>(i, m) : decode<2, smaller>(i, m);
  };
  d["max#half"] = [](Instruction& i, Modifiers const& m) {
    m.has("NaN") ? decode<2, larger_nan>(i, m) : decode<2, larger>(i, m);
  };
  d["neg#half"] = decode<1, negated>;
  d["abs#half"] = decode<1, magnitude>;
  d["ex2#half"] = decode<1, power>;
  d["tanh#half"] = decode<1, tangent>;
}

}  // namespace emulator
