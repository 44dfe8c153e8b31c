// SPDX-License-Identifier: Apache-2.0
// What lanes of a warp tell each other: shuffles, votes, matches, reductions.
#include "decode.hpp"
#include "exec.hpp"

namespace emulator {
namespace {

enum Shuffle : uint8_t { up, down, butterfly, index };

void shuffle(Warp& w, Instruction const& i, uint32_t lanes) {
  size_t const at = i.op[1].piped ? 2 : 1;
  uint32_t const *const a = w.source<uint32_t>(i.op[at]), *const b = w.source<uint32_t>(i.op[at + 1]),
                        *const c = w.source<uint32_t>(i.op[at + 2]);
  uint32_t results[32], valid = 0;
  for_lanes(lanes, [&](int l) {
    auto const lane = static_cast<uint32_t>(l);
    uint32_t const clamp = c[l] & 31, segment = c[l] >> 8 & 31, by = b[l] & 31;
    uint32_t const highest = (lane & segment) | (clamp & ~segment), lowest = lane & segment;
    uint32_t from = 0;
    bool inside = false;
    switch (i.kind) {
      case up:
        from = lane - by;
        inside = static_cast<int>(from) >= static_cast<int>(highest);
        break;
      case down:
        from = lane + by;
        inside = from <= highest;
        break;
      case butterfly:
        from = lane ^ by;
        inside = from <= highest;
        break;
      default:
        from = lowest | (by & ~segment);
        inside = from <= highest;
    }
    if (!inside) from = lane;
    if (!(lanes >> from & 1)) {
      Fault fault("diverged shuffle", "lane " + std::to_string(lane) + " reads lane " + std::to_string(from) +
                                          ", which takes no part (lanes that do: " + hex(lanes) + ")");
      fault.lane = l;
      throw fault;
    }
    results[l] = a[from];
    valid |= uint32_t{inside} << l;
  });
  if (!i.op[0].sink) for_lanes(lanes, [&](int l) { set<uint32_t>(w.row(i.op[0]), l, results[l]); });
  if (at == 2) w.set_predicate(i.op[1], lanes, valid);
}

enum Vote : uint8_t { all_of, any_of, uniform, ballot };

void vote(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const p = w.predicate(i.op[1]) & lanes;
  if (i.kind == ballot) {
    for_lanes(lanes, [&](int l) { set<uint32_t>(w.row(i.op[0]), l, p); });
  } else {
    bool const yes = i.kind == all_of ? p == lanes : i.kind == any_of ? p != 0 : p == lanes || p == 0;
    w.set_predicate(i.op[0], lanes, yes ? ~0u : 0);
  }
}

template <class T> void match(Warp& w, Instruction const& i, uint32_t lanes) {
  size_t const at = i.op[1].piped ? 2 : 1;
  uint32_t const* const a = w.source<T>(i.op[at]);
  uint32_t results[32];
  bool all = true;
  for_lanes(lanes, [&](int l) {
    uint32_t same = 0;
    for_lanes(lanes, [&](int other) { same |= uint32_t{get<T>(a, other) == get<T>(a, l)} << other; });
    all = all && same == lanes;
    results[l] = same;
  });
  for_lanes(lanes, [&](int l) { set<uint32_t>(w.row(i.op[0]), l, i.kind == all_of ? (all ? lanes : 0) : results[l]); });
  if (at == 2) w.set_predicate(i.op[1], lanes, all ? ~0u : 0);
}

enum Reduce : uint8_t { r_add, r_min, r_max, r_and, r_or, r_xor };

void reduce(Warp& w, Instruction const& i, uint32_t lanes) {
  uint32_t const* const a = w.source<uint32_t>(i.op[1]);
  bool is_first = true;
  uint32_t r = 0;
  for_lanes(lanes, [&](int l) {
    uint32_t const v = a[l];
    bool const less = i.type == Type::s32 ? static_cast<int32_t>(v) < static_cast<int32_t>(r) : v < r;
    if (is_first)
      r = v;
    else if (i.kind == r_add)
      r += v;
    else if (i.kind == r_min)
      r = less ? v : r;
    else if (i.kind == r_max)
      r = less ? r : v;
    else
      r = i.kind == r_and ? r & v : i.kind == r_or ? r | v : r ^ v;
    is_first = false;
  });
  for_lanes(lanes, [&](int l) { set<uint32_t>(w.row(i.op[0]), l, r); });
}

void active_mask(Warp& w, Instruction const& i, uint32_t lanes) {
  for_lanes(lanes, [&](int l) { set<uint32_t>(w.row(i.op[0]), l, lanes); });
}

void elect(Warp& w, Instruction const& i, uint32_t lanes) {
  auto const leader = static_cast<uint32_t>(std::countr_zero(lanes));
  if (!i.op[0].sink) for_lanes(lanes, [&](int l) { set<uint32_t>(w.row(i.op[0]), l, leader); });
  w.set_predicate(i.op[1], lanes, 1u << leader);
}

void needs_mask(Instruction& i, Modifiers const& m) {
  if (!m.has("sync")) throw UnknownForm{};  // the forms before sm_70
  i.flow = Flow::warp_sync;
  i.mask_operand = static_cast<uint16_t>(i.op.size() - 1);
}

}  // namespace

void add_warp(Decoders& d) {
  d["shfl"] = [](Instruction& i, Modifiers const& m) {
    needs_mask(i, m);
    i.kind = m.has("up") ? up : m.has("down") ? down : m.has("bfly") ? butterfly : index;
    i.run = shuffle;
  };
  d["vote"] = [](Instruction& i, Modifiers const& m) {
    needs_mask(i, m);
    i.kind = m.has("ballot") ? ballot : m.has("all") ? all_of : m.has("any") ? any_of : uniform;
    i.run = vote;
  };
  d["match"] = [](Instruction& i, Modifiers const& m) {
    needs_mask(i, m);
    i.kind = m.has("all") ? all_of : any_of;
    i.run = bytes_of(i.type) == 8 ? match<uint64_t> : match<uint32_t>;
  };
  d["redux"] = [](Instruction& i, Modifiers const& m) {
    needs_mask(i, m);
    if (i.type == Type::f32) throw UnknownForm{};
    i.kind = m.has("add")   ? r_add
             : m.has("min") ? r_min
             : m.has("max") ? r_max
             : m.has("and") ? r_and
             : m.has("or")  ? r_or
                            : r_xor;
    i.run = reduce;
  };
  d["elect"] = [](Instruction& i, Modifiers const& m) {
    needs_mask(i, m);
    i.run = elect;
  };
  d["activemask"] = [](Instruction& i, Modifiers const&) { i.run = active_mask; };
}

}  // namespace emulator
