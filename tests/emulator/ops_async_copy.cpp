// SPDX-License-Identifier: Apache-2.0
// cp.async: issued now, arrives at the wait that covers it. Nothing earlier is promised, so nothing earlier happens.
#include <algorithm>

#include "decode.hpp"
#include "exec.hpp"

namespace emulator {
namespace {

void copy(Warp& w, Instruction const& i, uint32_t lanes) {
  auto const bytes = static_cast<uint32_t>(i.op[2].value);
  for_lanes(lanes, [&](int l) {
    PendingCopy c{.to = w.address(i.op[0], l),
                  .from = w.address(i.op[1], l),
                  .bytes = bytes,
                  .source_bytes = bytes,
                  .lane = static_cast<uint32_t>(l),
                  .group = w.copy_groups[l],
                  .issued = &i};
    if (i.op.size() > 3) {
      if (i.op[3].kind == Operand::Kind::pred) {
        if (w.predicate(i.op[3]) >> l & 1) c.source_bytes = 0;  // ignore-src
      } else {
        c.source_bytes = w.source<uint32_t>(i.op[3])[l];
        if (c.source_bytes > bytes)
          throw Fault("out-of-bounds",
                      "cp.async: source size " + std::to_string(c.source_bytes) + " is more than the copy's");
      }
    }
    if (c.from & (bytes - 1))
      throw Fault("misaligned access", "cp.async of " + std::to_string(bytes) + " bytes from " + hex(c.from));
    if (c.source_bytes) w.read(Space::global, c.from, 1, l);  // the rest is checked when it is copied
    w.write(Space::shared, c.to, bytes, l);  // the earliest moment at which it may land: ordered after all other use
    w.block.shared.set_in_flight(c.to, bytes, true);
    w.copies.push_back(c);
  });
}

void land(Warp& w, PendingCopy const& c) {
  uint8_t values[16] = {};
  Instruction const* const waiting = w.current;
  w.current = c.issued;                        // faults name the copy
  for (uint32_t k = 0; k < c.source_bytes;) {  // whole source when it is a power of two, else byte by byte
    uint32_t const step = std::has_single_bit(c.source_bytes) ? c.source_bytes : 1;
    std::memcpy(values + k, w.read(Space::global, c.from + k, step, static_cast<int>(c.lane)), step);
    k += step;
  }
  w.block.shared.set_in_flight(c.to, c.bytes, false);
  std::memcpy(w.write(Space::shared, c.to, c.bytes, static_cast<int>(c.lane)), values, c.bytes);
  w.current = waiting;
}

void commit(Warp& w, Instruction const&, uint32_t lanes) {
  for_lanes(lanes, [&](int l) { ++w.copy_groups[l]; });
}

/// kind 1: wait_all.
void wait(Warp& w, Instruction const& i, uint32_t lanes) {
  if (i.kind == 1) commit(w, i, lanes);
  uint32_t const open = i.kind == 1 ? 0 : static_cast<uint32_t>(i.op[0].value);
  auto const covered = [&](PendingCopy const& c) {
    uint32_t const committed = w.copy_groups[c.lane];
    return (lanes >> c.lane & 1) && c.group + open < committed;
  };
  for (PendingCopy const& c : w.copies) {
    if (covered(c)) land(w, c);
  }
  std::erase_if(w.copies, covered);
}

void decode_cp(Instruction& i, Modifiers const& m) {
  if (m.all.empty() || m.all[0] != "async" || m.has("bulk") || m.has("mbarrier") || m.has("reduce"))
    throw UnknownForm{};
  if (m.has("commit_group")) {
    i.run = commit;
  } else if (m.has("wait_group") || m.has("wait_all")) {
    i.kind = m.has("wait_all") ? 1 : 0;
    i.run = wait;
  } else {
    if (i.op.size() > 4 || (i.op.size() == 4 && i.op[3].kind == Operand::Kind::reg && i.op[3].width == 8))
      throw UnknownForm{};  // cache policy
    i.run = copy;
  }
}

}  // namespace

void add_async_copy(Decoders& d) { d["cp"] = decode_cp; }

}  // namespace emulator
