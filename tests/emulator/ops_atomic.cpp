// SPDX-License-Identifier: Apache-2.0
// atom and red, lane after lane.
#include <cmath>

#include "decode.hpp"
#include "exec.hpp"
#include "float16.hpp"

namespace emulator {
namespace {

enum Operation : uint8_t { op_add, op_min, op_max, op_and, op_or, op_xor, op_exch, op_cas, op_inc, op_dec };

/// What becomes of a number that f32 sums in global memory take or give: subnormal ones are zeros of their sign.
float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.f, x) : x; }
float global_sum(float a, float b) { return flushed(flushed(a) + flushed(b)); }

template <class T> T combine(uint8_t operation, T old, T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    switch (operation) {
      case op_add:
        return old + a;
      case op_min:
        return std::fmin(old, a);
      case op_max:
        return std::fmax(old, a);
      default:
        return a;
    }
  } else {
    switch (operation) {
      case op_add:
        return static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) + static_cast<std::make_unsigned_t<T>>(a));
      case op_min:
        return std::min(old, a);
      case op_max:
        return std::max(old, a);
      case op_and:
        return old & a;
      case op_or:
        return old | a;
      case op_xor:
        return old ^ a;
      case op_cas:
        return old == a ? b : old;
      case op_inc:
        return old >= a ? T{0} : static_cast<T>(old + 1);
      case op_dec:
        return old == 0 || old > a ? a : static_cast<T>(old - 1);
      default:
        return a;
    }
  }
}

// vector: 1 when a result is wanted
template <class T> void atomic(Warp& w, Instruction const& i, uint32_t lanes) {
  size_t const at = i.vector;
  for_lanes(lanes, [&](int l) {
    uint64_t const address = w.address(i.op[at], l);
    uint8_t const* const p = w.read(i.space, address, sizeof(T), l, true);
    T old;
    std::memcpy(&old, p, sizeof(T));
    T const a = get<T>(w.source<T>(i.op[at + 1]), l);
    T const b = i.kind == op_cas ? get<T>(w.source<T>(i.op[at + 2]), l) : a;
    T now = combine<T>(i.kind, old, a, b);
    if constexpr (std::is_same_v<T, float>) {
      bool const global = i.space == Space::global || (i.space == Space::generic && (address & window_mask) == 0);
      if (global) now = global_sum(old, a);  // in shared memory they stay what they are
    }
    std::memcpy(w.write(i.space, address, sizeof(T), l, true), &now, sizeof(T));
    if (at == 1 && !i.op[0].sink) set<T>(w.row(i.op[0]), l, old);
  });
}

template <bool Bf16, int Values> void atomic_half(Warp& w, Instruction const& i, uint32_t lanes) {
  size_t const at = i.vector;
  for_lanes(lanes, [&](int l) {
    uint64_t const address = w.address(i.op[at], l);
    uint32_t old = 0, now = 0;
    std::memcpy(&old, w.read(i.space, address, 2 * Values, l, true), 2 * Values);
    uint32_t const a = w.source<uint32_t>(i.op[at + 1])[l];
    for (int v = 0; v < Values; ++v) {
      auto part = [&](uint32_t bits) {
        auto const half = static_cast<uint16_t>(bits >> 16 * v);
        return static_cast<double>(Bf16 ? bf16_to_float(half) : f16_to_float(half));
      };
      double const sum = part(old) + part(a);
      now |= uint32_t{Bf16 ? to_bf16(sum) : to_f16(sum)} << 16 * v;
    }
    std::memcpy(w.write(i.space, address, 2 * Values, l, true), &now, 2 * Values);
    if (at == 1 && !i.op[0].sink) w.row(i.op[0])[l] = old;
  });
}

/// red.global.add.v4.f32 of sm_90: four sums.
void add_vector(Warp& w, Instruction const& i, uint32_t lanes) {
  for_lanes(lanes, [&](int l) {
    uint64_t const address = w.address(i.op[0], l);
    float sum[4];
    std::memcpy(sum, w.read(i.space, address, sizeof sum, l, true), sizeof sum);
    for (size_t k = 0; k < 4; ++k) sum[k] = global_sum(sum[k], get<float>(w.source<float>(i.op[k + 1]), l));
    std::memcpy(w.write(i.space, address, sizeof sum, l, true), sum, sizeof sum);
  });
}

void decode_atomic(Instruction& i, Modifiers const& m) {
  if (i.name.substr(0, 3) == "red" && m.has("global") && m.has("add") && m.has("v4") && i.type == Type::f32) {
    i.space = Space::global;
    i.run = add_vector;
    return;
  }
  if (m.has("v2") || m.has("v4") || m.has("v8") || m.has("async")) throw UnknownForm{};
  i.space = Space::generic;
  for (auto const word : m.all) {
    if (word == "global") i.space = Space::global;
    if (word == "shared" || word == "shared::cta") i.space = Space::shared;
    if (word == "shared::cluster") throw UnknownForm{};
  }
  static constexpr std::string_view names[] = {"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"};
  bool known = false;
  for (uint8_t k = 0; k < 10; ++k) {
    if (m.has(names[k])) {
      i.kind = k;
      known = true;
    }
  }
  if (!known) throw UnknownForm{};
  i.vector = i.name.substr(0, 3) == "red" ? 0 : 1;
  bool const only_add = i.kind == op_add;
  switch (i.type) {
    case Type::b16:
    case Type::u16:
      i.run = atomic<uint16_t>;
      break;
    case Type::b32:
    case Type::u32:
      i.run = atomic<uint32_t>;
      break;
    case Type::s32:
      i.run = atomic<int32_t>;
      break;
    case Type::b64:
    case Type::u64:
      i.run = atomic<uint64_t>;
      break;
    case Type::s64:
      i.run = atomic<int64_t>;
      break;
    case Type::f32:
      i.run = only_add ? Handler{atomic<float>} : throw UnknownForm{};
      break;
    case Type::f64:
      i.run = only_add ? Handler{atomic<double>} : throw UnknownForm{};
      break;
    case Type::f16:
      i.run = only_add ? Handler{atomic_half<false, 1>} : throw UnknownForm{};
      break;
    case Type::f16x2:
      i.run = only_add ? Handler{atomic_half<false, 2>} : throw UnknownForm{};
      break;
    case Type::bf16:
      i.run = only_add ? Handler{atomic_half<true, 1>} : throw UnknownForm{};
      break;
    case Type::bf16x2:
      i.run = only_add ? Handler{atomic_half<true, 2>} : throw UnknownForm{};
      break;
    default:
      throw UnknownForm{};
  }
}

}  // namespace

void add_atomic(Decoders& d) { d["atom"] = d["red"] = decode_atomic; }

}  // namespace emulator
