// SPDX-License-Identifier: Apache-2.0
// Branches, calls, barriers of a block, fences, and functions of the device runtime.
#include <cstdio>

#include "decode.hpp"
#include "exec.hpp"

namespace emulator {

void unknown_opcode(Warp&, Instruction const& i, uint32_t) {
  throw Fault("unknown opcode", "'" + std::string(i.name) + "' is not modelled by the emulator");
}

namespace {
void nothing(Warp&, Instruction const&, uint32_t) {}

void trap(Warp&, Instruction const&, uint32_t) { throw Fault("trap", "the kernel stopped itself"); }

uint32_t first_lane(Warp& w, Operand const& o, uint32_t lanes) {
  return w.source<uint32_t>(o)[std::countr_zero(lanes)];
}

enum BarrierKind : uint8_t { sync, popc, all_of, any_of };

void barrier(Warp& w, Instruction const& i, uint32_t lanes) {
  bool const reduces = i.kind != sync;
  size_t const id_at = reduces ? 1 : 0;
  uint32_t const id = first_lane(w, i.op[id_at], lanes);
  size_t const plain = reduces ? 3 : 1;  // operands without a thread count
  uint32_t const count = i.op.size() > plain ? first_lane(w, i.op[id_at + 1], lanes) : 0;
  if (reduces && id < w.block.barriers.size()) {
    Barrier& b = w.block.barriers[id];
    uint32_t const p = w.predicate(i.op.back()) & lanes;
    b.count_true += static_cast<uint32_t>(std::popcount(p));
    b.all_true = b.all_true && p == lanes;
    b.any_true = b.any_true || p != 0;
  }
  w.block.arrive(w, id, count, true, i);
}

void barrier_arrive(Warp& w, Instruction const& i, uint32_t lanes) {
  w.block.arrive(w, first_lane(w, i.op[0], lanes), first_lane(w, i.op[1], lanes), false, i);
}

void warp_barrier(Warp& w, Instruction const&, uint32_t) { ++w.clock[w.index]; }

void decode_bar(Instruction& i, Modifiers const& m) {
  if (m.has("warp")) {
    i.flow = Flow::warp_sync;
    i.run = warp_barrier;
    i.mask_operand = 0;
    return;
  }
  if (m.has("cluster")) throw UnknownForm{};
  i.flow = Flow::barrier;
  if (m.has("arrive")) {
    i.run = barrier_arrive;
    return;
  }
  i.run = barrier;
  i.kind = m.has("popc") ? popc : m.has("and") ? all_of : m.has("or") ? any_of : sync;
}

// ---------------------------------------------------------------- functions that the device runtime has
/// printf's arguments lie in local memory, each aligned to its size.
void device_printf(Warp& w, Instruction const& i, uint32_t lanes) {
  size_t argument = 0;
  while (i.op[argument].kind != Operand::Kind::label) ++argument;
  auto text = [&](uint64_t address, int lane) {
    std::string all;
    for (char c; (c = static_cast<char>(*w.read(Space::generic, address++, 1, lane))) != 0;) all += c;
    return all;
  };
  for_lanes(lanes, [&](int lane) {
    uint64_t format_at, values_at;
    std::memcpy(&format_at, w.local.read(i.op[argument + 1].value, 8, lane), 8);
    std::memcpy(&values_at, w.local.read(i.op[argument + 2].value, 8, lane), 8);
    std::string const format = text(format_at, lane);
    std::string out;
    uint64_t at = values_at;
    for (size_t k = 0; k < format.size();) {
      if (format[k] != '%') {
        out += format[k++];
        continue;
      }
      size_t const end = format.find_first_of("diouxXcsfFeEgGaAp%", k + 1);
      if (end == format.npos) break;
      std::string spec = format.substr(k, end - k + 1);
      k = end + 1;
      char const kind = spec.back();
      char buffer[256];
      if (kind == '%') {
        out += '%';
        continue;
      }
      bool const wide =
          std::string_view("fFeEgGaAps").find(kind) != std::string_view::npos || spec.find('l') != spec.npos;
      at = wide ? (at + 7) / 8 * 8 : (at + 3) / 4 * 4;
      uint64_t bits = 0;
      std::memcpy(&bits, w.read(Space::generic, at, wide ? 8 : 4, lane), wide ? 8 : 4);
      at += wide ? 8 : 4;
      if (kind == 's') {
        out += text(bits, lane);
        continue;
      }
      if (std::string_view("fFeEgGaA").find(kind) != std::string_view::npos) {
        std::snprintf(buffer, sizeof buffer, spec.c_str(), std::bit_cast<double>(bits));
      } else if (wide) {
        std::snprintf(buffer, sizeof buffer, spec.c_str(), bits);
      } else {
        std::snprintf(buffer, sizeof buffer, spec.c_str(), static_cast<uint32_t>(bits));
      }
      out += buffer;
    }
    std::fputs(out.c_str(), stdout);
    if (argument > 0) {
      uint32_t const written = static_cast<uint32_t>(out.size());
      std::memcpy(w.local.write(i.op[0].value, 4, lane), &written, 4);
    }
  });
}

void device_assert(Warp& w, Instruction const& i, uint32_t lanes) {
  int const lane = std::countr_zero(lanes);
  size_t argument = 0;
  while (i.op[argument].kind != Operand::Kind::label) ++argument;
  auto text = [&](size_t k) {
    uint64_t address;
    std::memcpy(&address, w.local.read(i.op[argument + k].value, 8, lane), 8);
    std::string all;
    for (char c; (c = static_cast<char>(*w.read(Space::generic, address++, 1, lane))) != 0;) all += c;
    return all;
  };
  uint32_t line;
  std::memcpy(&line, w.local.read(i.op[argument + 3].value, 4, lane), 4);
  Fault fault("assertion", text(2) + ":" + std::to_string(line) + ": " + text(4) + ": '" + text(1) + "' failed");
  fault.lane = lane;
  throw fault;
}
}  // namespace

/// When a reducing barrier is complete, every warp in it gets the result.
void barrier_result(Warp& w, Instruction const& i, Barrier const& b) {
  if (i.flow != Flow::barrier || i.kind == sync) return;
  if (i.kind == popc) {
    for_lanes(w.lanes, [&](int lane) { set<uint32_t>(w.row(i.op[0]), lane, b.count_true); });
  } else {
    w.set_predicate(i.op[0], w.lanes, (i.kind == all_of ? b.all_true : b.any_true) ? ~0u : 0);
  }
}

Handler builtin_function(std::string_view name) {
  if (name == "vprintf") return device_printf;
  if (name == "__assertfail") return device_assert;
  return nullptr;
}

void add_flow(Decoders& d) {
  d["bra"] = [](Instruction& i, Modifiers const&) { i.flow = Flow::branch; };
  d["brx"] = [](Instruction& i, Modifiers const&) { i.flow = Flow::branch_table; };
  d["call"] = [](Instruction& i, Modifiers const&) { i.flow = Flow::call; };
  d["ret"] = [](Instruction& i, Modifiers const&) { i.flow = Flow::ret; };
  d["exit"] = [](Instruction& i, Modifiers const&) { i.flow = Flow::exit; };
  d["trap"] = [](Instruction& i, Modifiers const&) { i.run = trap; };
  d["bar"] = d["barrier"] = decode_bar;
  // Memory is sequentially consistent here; what orders accesses for the race checks are barriers and release/acquire.
  for (char const* const name :
       {"membar", "fence", "nanosleep", "prefetch", "prefetchu", "discard", "applypriority", "pmevent"}) {
    d[name] = [](Instruction& i, Modifiers const&) { i.run = nothing; };
  }
}

Decoders const& decoders() {
  static Decoders const all = [] {
    Decoders d;
    add_move(d);
    add_integer(d);
    add_bits(d);
    add_float(d);
    add_half(d);
    add_convert(d);
    add_memory(d);
    add_atomic(d);
    add_warp(d);
    add_flow(d);
    add_async_copy(d);
    add_matrix(d);
    return d;
  }();
  return all;
}

}  // namespace emulator
