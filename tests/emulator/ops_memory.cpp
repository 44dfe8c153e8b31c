// SPDX-License-Identifier: Apache-2.0
// Loads and stores of every state space, one to four values at a time.
#include "decode.hpp"
#include "exec.hpp"

namespace emulator {
namespace {

void publish(Warp& w, uint64_t address) {
  auto& clock = w.block.released[address & ~window_mask & ~uint64_t{3}];
  clock.resize(w.clock.size());
  for (size_t k = 0; k < clock.size(); ++k) clock[k] = std::max(clock[k], w.clock[k]);
  ++w.clock[w.index];
}
void observe(Warp& w, uint64_t address) {
  auto const found = w.block.released.find(address & ~window_mask & ~uint64_t{3});
  if (found == w.block.released.end()) return;
  for (size_t k = 0; k < w.clock.size(); ++k) w.clock[k] = std::max(w.clock[k], found->second[k]);
}
bool in_shared(Instruction const& i, uint64_t address) {
  return i.space == Space::shared || (i.space == Space::generic && (address & window_mask) == shared_window);
}

template <class T> void load(Warp& w, Instruction const& i, uint32_t lanes) {
  Operand const& from = i.op[i.vector];
  uint32_t const bytes = sizeof(T) * i.vector;
  for_lanes(lanes, [&](int l) {
    uint64_t const address = w.address(from, l);
    if (i.ordered && in_shared(i, address)) observe(w, address);
    uint8_t const* const p = w.read(i.space, address, bytes, l, i.ordered);
    for (int k = 0; k < i.vector; ++k) {
      if (i.op[k].sink) continue;
      T v;
      std::memcpy(&v, p + k * sizeof(T), sizeof(T));
      set_wide<T>(w.row(i.op[k]), l, v, i.op[k].width);
    }
  });
}

template <class T> void store(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const bytes = sizeof(T) * i.vector;
  for_lanes(lanes, [&](int l) {
    uint64_t const address = w.address(i.op[0], l);
    T values[8];
    for (int k = 0; k < i.vector; ++k) values[k] = get_narrow<T>(w.source<T>(i.op[1 + k]), l, i.op[1 + k].width);
    uint8_t* const p = w.write(i.space, address, bytes, l, i.ordered, reinterpret_cast<uint8_t const*>(values));
    std::memcpy(p, values, bytes);
    if (i.ordered && in_shared(i, address)) publish(w, address);
  });
}

void decode_space(Instruction& i, Modifiers const& m, Operand const& address) {
  i.space = Space::generic;
  for (auto const word : m.all) {
    if (word == "global")
      i.space = Space::global;
    else if (word == "shared" || word == "shared::cta")
      i.space = Space::shared;
    else if (word == "shared::cluster")
      throw UnknownForm{};
    else if (word == "local")
      i.space = Space::local;
    else if (word == "const")
      i.space = Space::constant;
    else if (word.substr(0, 5) == "param")
      i.space = address.space == Space::local ? Space::local : Space::param;
  }
  i.ordered = m.has("volatile") || m.has("relaxed") || m.has("acquire") || m.has("release") || m.has("mmio");
  i.vector = m.has("v8") ? 8 : m.has("v4") ? 4 : m.has("v2") ? 2 : 1;
}

void decode_load(Instruction& i, Modifiers const& m) {
  decode_space(i, m, i.op.back());
  if (i.op.size() != i.vector + 1u) throw UnknownForm{};  // cache policies
  switch (i.type) {
    case Type::s8:
      i.run = load<int8_t>;
      break;
    case Type::s16:
      i.run = load<int16_t>;
      break;
    case Type::s32:
      i.run = load<int32_t>;
      break;
    case Type::u8:
    case Type::b8:
      i.run = load<uint8_t>;
      break;
    case Type::b128:
    case Type::none:
      throw UnknownForm{};
    default:
      i.run = bytes_of(i.type) == 2 ? load<uint16_t> : bytes_of(i.type) == 4 ? load<uint32_t> : load<uint64_t>;
  }
}
void decode_store(Instruction& i, Modifiers const& m) {
  decode_space(i, m, i.op[0]);
  if (i.op.size() != i.vector + 1u) throw UnknownForm{};
  switch (bytes_of(i.type)) {
    case 1:
      i.run = store<uint8_t>;
      break;
    case 2:
      i.run = store<uint16_t>;
      break;
    case 4:
      i.run = store<uint32_t>;
      break;
    case 8:
      i.run = store<uint64_t>;
      break;
    default:
      throw UnknownForm{};
  }
}

}  // namespace

void add_memory(Decoders& d) {
  d["ld"] = d["ldu"] = decode_load;
  d["st"] = decode_store;
}

}  // namespace emulator
