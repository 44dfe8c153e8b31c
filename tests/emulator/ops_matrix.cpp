// SPDX-License-Identifier: Apache-2.0
// ldmatrix and mma.sync. Products are exact and summed in double, then rounded once: a real card sums in another order.
#include "decode.hpp"
#include "exec.hpp"
#include "float16.hpp"

namespace emulator {
namespace {

/// Matrix k's eight row addresses come from lanes 8k..8k+7. Lane l gets row l/4, columns 2(l%4) and the next one.
void load_matrix(Warp& w, Instruction const& i, uint32_t) {
  int const count = i.vector;
  uint16_t tile[4][8][8];
  for (int k = 0; k < count; ++k) {
    for (int row = 0; row < 8; ++row) {
      int const lane = 8 * k + row;
      std::memcpy(tile[k][row], w.read(i.space, w.address(i.op[count], lane), 16, lane), 16);
    }
  }
  for (int k = 0; k < count; ++k) {
    for (int l = 0; l < 32; ++l) {
      int const r = l / 4, c = 2 * (l % 4);
      uint32_t const first = i.kind ? tile[k][c][r] : tile[k][r][c],
                     second = i.kind ? tile[k][c + 1][r] : tile[k][r][c + 1];
      set<uint32_t>(w.row(i.op[k]), l, first | second << 16);
    }
  }
}

enum Element : uint8_t { half, brain, tf };

float element(uint32_t word, int which, uint8_t kind) {
  if (kind == tf) return tf32_operand(word);
  auto const bits = static_cast<uint16_t>(word >> 16 * which);
  return kind == half ? f16_to_float(bits) : bf16_to_float(bits);
}

/// m16n8: A's register r of lane l holds row l/4 + 8(r&1), columns from (l%4)·e + 4e(r>>1); B's register r rows the
/// same way, column l/4; C and D's register r row l/4 + 8(r>>1), column 2(l%4) + (r&1). e: elements per register.
void multiply(Warp& w, Instruction const& i, uint32_t) {
  int const e = i.kind == tf ? 1 : 2;
  int const a_count = i.groups[1], b_count = i.groups[2], depth = 4 * e * b_count;
  bool const half_out = i.kind2;
  int const c_count = i.groups[3], a_at = i.groups[0], b_at = a_at + a_count, c_at = b_at + b_count;
  float a[16][16], b[16][8];
  double d[16][8];
  for (int l = 0; l < 32; ++l) {
    for (int r = 0; r < a_count; ++r) {
      uint32_t const word = w.source<uint32_t>(i.op[a_at + r])[l];
      for (int k = 0; k < e; ++k) a[l / 4 + 8 * (r & 1)][(l % 4) * e + 4 * e * (r >> 1) + k] = element(word, k, i.kind);
    }
    for (int r = 0; r < b_count; ++r) {
      uint32_t const word = w.source<uint32_t>(i.op[b_at + r])[l];
      for (int k = 0; k < e; ++k) b[(l % 4) * e + 4 * e * r + k][l / 4] = element(word, k, i.kind);
    }
    for (int r = 0; r < c_count; ++r) {
      uint32_t const word = w.source<uint32_t>(i.op[c_at + r])[l];
      if (half_out) {
        for (int k = 0; k < 2; ++k)
          d[l / 4 + 8 * r][2 * (l % 4) + k] = f16_to_float(static_cast<uint16_t>(word >> 16 * k));
      } else {
        d[l / 4 + 8 * (r >> 1)][2 * (l % 4) + (r & 1)] = std::bit_cast<float>(word);
      }
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < depth; ++k) {
      double const x = a[row][k];
      for (int column = 0; column < 8; ++column) d[row][column] += x * b[k][column];
    }
  }
  for (int l = 0; l < 32; ++l) {
    for (int r = 0; r < i.groups[0]; ++r) {
      if (half_out) {
        uint32_t const low = to_f16(d[l / 4 + 8 * r][2 * (l % 4)]), high = to_f16(d[l / 4 + 8 * r][2 * (l % 4) + 1]);
        set<uint32_t>(w.row(i.op[r]), l, low | high << 16);
      } else {
        float const sum = static_cast<float>(d[l / 4 + 8 * (r >> 1)][2 * (l % 4) + (r & 1)]);
        set<float>(w.row(i.op[r]), l, sum == sum ? sum : std::bit_cast<float>(0x7fffffffu));
      }
    }
  }
}

void decode_ldmatrix(Instruction& i, Modifiers const& m) {
  if (!m.has("m8n8") || i.type != Type::b16) throw UnknownForm{};
  i.flow = Flow::aligned;
  i.vector = m.has("x4") ? 4 : m.has("x2") ? 2 : 1;
  i.kind = m.has("trans");
  i.space = m.has("shared") || m.has("shared::cta") ? Space::shared : Space::generic;
  i.run = load_matrix;
}

void decode_mma(Instruction& i, Modifiers const& m) {
  if (!m.has("sync") || !m.has("row") || !m.has("col") || m.types.size() != 4 || m.type(1) != m.type(2))
    throw UnknownForm{};
  Type const in = m.type(1);
  bool const k8 = m.has("m16n8k8"), k16 = m.has("m16n8k16"), k4 = m.has("m16n8k4");
  if (in == Type::f16 && (k8 || k16))
    i.kind = half;
  else if (in == Type::bf16 && (k8 || k16))
    i.kind = brain;
  else if (in == Type::tf32 && (k4 || k8))
    i.kind = tf;
  else
    throw UnknownForm{};
  i.kind2 = m.type(0) == Type::f16;
  if (m.type(0) != m.type(3) || (m.type(0) != Type::f32 && !(i.kind2 && i.kind == half))) throw UnknownForm{};
  i.flow = Flow::aligned;
  i.run = multiply;
}

}  // namespace

void add_matrix(Decoders& d) {
  d["ldmatrix"] = decode_ldmatrix;
  d["mma"] = decode_mma;
}

}  // namespace emulator
