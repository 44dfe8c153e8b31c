// SPDX-License-Identifier: Apache-2.0
// Blocks and grids: seeded interleaving of warps, block barriers, and the report when something goes wrong.
#include "exec.hpp"

#include <cxxabi.h>
#include <algorithm>

namespace emulator {
namespace {
void join(std::vector<uint32_t>& into, std::vector<uint32_t> const& from) {
  into.resize(std::max(into.size(), from.size()));
  for (size_t k = 0; k < from.size(); ++k) into[k] = std::max(into[k], from[k]);
}
std::string text(Dim const& d) {
  return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}
}  // namespace

Block::Block(Grid& g, Dim at)
    : grid(g),
      index(at),
      threads(static_cast<uint32_t>(g.launch.block.count())),
      shared(*g.launch.module, *g.launch.function, g.launch.dynamic_shared_bytes, (threads + 31) / 32) {
  uint32_t const count = (threads + 31) / 32;
  unfinished = count;
  for (uint32_t w = 0; w < count; ++w) {
    uint32_t const lanes = threads - w * 32 >= 32 ? ~0u : (1u << (threads - w * 32)) - 1;
    warps.push_back(std::make_unique<Warp>(*this, w, lanes));
    warps.back()->clock.assign(count, 0);
    warps.back()->clock[w] = 1;
  }
}

bool Block::step(uint32_t budget) {
  size_t const start = grid.random() % warps.size();
  for (size_t k = 0; k < warps.size(); ++k) {
    Warp& warp = *warps[(start + k) % warps.size()];
    if (warp.status() != Warp::Status::ready) continue;
    uint32_t left = budget;
    try {
      warp.run(left);
    } catch (Fault& f) {
      throw Fault(f.kind, grid.place(warp, f.lane) + "\n  " + f.what());
    }
    grid.executed += budget - left;
    return true;
  }
  return false;
}

void Block::arrive(Warp& warp, uint32_t id, uint32_t expected, bool wait, Instruction const& i) {
  if (id >= barriers.size()) throw Fault("barrier", "there is no barrier " + std::to_string(id));
  Barrier& b = barriers[id];
  if (expected == 0) expected = static_cast<uint32_t>(warps.size() * 32);
  if (expected % 32 != 0) throw Fault("barrier", "thread count " + std::to_string(expected) + " is no multiple of 32");
  if (b.arrived && b.expected != expected) {
    throw Fault("barrier divergence", "barrier " + std::to_string(id) + " waits for " + std::to_string(b.expected) +
                                          " threads since " + grid.launch.module->where(b.line) + ", this warp says " +
                                          std::to_string(expected));
  }
  b.expected = expected;
  b.arrived += 32;
  b.line = i.line;
  join(b.clock, warp.clock);
  if (b.arrived < expected) {
    if (wait) {
      b.waiting.push_back(warp.index);
      warp.status_ = Warp::Status::waiting;
    } else {
      ++warp.clock[warp.index];
    }
    return;
  }
  if (wait) barrier_result(warp, i, b);
  for (uint32_t const other : b.waiting) {
    barrier_result(*warps[other], *warps[other]->current, b);
    warps[other]->release_barrier();
    join(warps[other]->clock, b.clock);
    ++warps[other]->clock[other];
  }
  if (wait) join(warp.clock, b.clock);
  ++warp.clock[warp.index];
  b = {};
}

std::string Block::describe() const {
  std::string all = "block " + text(index) + ":";
  for (auto const& warp : warps) all += "\n    " + warp->describe();
  return all;
}

Grid::Grid(Launch l, std::mt19937_64& r, uint32_t resident)
    : launch(std::move(l)), random(r), resident_(std::max(1u, resident)) {}

bool Grid::run(uint32_t budget) {
  uint64_t const stop = executed + budget;
  while (executed < stop && !done()) {
    while (blocks.size() < resident_ && next_ < launch.grid.count()) {
      Dim const& g = launch.grid;
      Dim const at{static_cast<uint32_t>(next_ % g.x), static_cast<uint32_t>(next_ / g.x % g.y),
                   static_cast<uint32_t>(next_ / g.x / g.y)};
      blocks.push_back(std::make_unique<Block>(*this, at));
      ++next_;
    }
    size_t const start = random() % blocks.size();
    bool moved = false;
    for (size_t k = 0; k < blocks.size() && !moved; ++k) {
      size_t const which = (start + k) % blocks.size();
      moved = blocks[which]->step(static_cast<uint32_t>(random() % 128 + 1));
      if (moved && blocks[which]->done()) blocks.erase(blocks.begin() + static_cast<ptrdiff_t>(which));
    }
    if (!moved) return false;
  }
  return true;
}

std::string Grid::describe() const {
  std::string all = "kernel " + launch.function->name;
  for (auto const& block : blocks) all += "\n  " + block->describe();
  return all;
}

std::string Grid::place(Warp const& warp, int lane) const {
  int status = 0;
  char* const readable = abi::__cxa_demangle(launch.function->name.c_str(), nullptr, nullptr, &status);
  std::string where = "kernel " + (status == 0 && readable ? std::string(readable) : launch.function->name);
  std::free(readable);
  where += ", block " + text(warp.block.index);
  if (lane >= 0) {
    Dim const& size = launch.block;
    uint32_t const t = warp.index * 32 + static_cast<uint32_t>(lane);
    where += ", thread " + text({t % size.x, t / size.x % size.y, t / size.x / size.y});
  } else {
    where += ", warp " + std::to_string(warp.index);
  }
  if (warp.current) {
    where += "\n  " + launch.module->where(warp.current->line);
    auto const file = launch.module->files.find(warp.current->source_file);
    if (file != launch.module->files.end() && warp.current->source_line) {
      where += "\n  " + file->second + ":" + std::to_string(warp.current->source_line);
    }
  }
  return where;
}

}  // namespace emulator
