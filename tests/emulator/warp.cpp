// SPDX-License-Identifier: Apache-2.0
// One warp: which lanes run next, branches, calls, and instructions that wait for other lanes.
#include <algorithm>

#include "exec.hpp"

namespace emulator {

Warp::Warp(Block& b, uint32_t index, uint32_t lanes)
    : block(b), index(index), lanes(lanes), local(*b.grid.launch.module, *b.grid.launch.function) {
  Launch const& launch = b.grid.launch;
  registers_.assign(size_t{launch.function->rows} * 32 + 64, 0xa5a5a5a5);
  predicates_.assign(launch.function->predicates + 1, 0);
  auto fill = [&](Function const& f) {
    for (Special const& s : f.specials) name_special(s.name, registers_.data() + size_t{s.row} * 32);
  };
  fill(*launch.function);
  for (auto const& [name, f] : launch.module->functions) {
    if (!f->entry) fill(*f);
  }
  groups_.push_back({.pc = launch.function->first, .lanes = lanes, .wait = Group::Wait::none, .calls = {}});
}

void Warp::name_special(std::string_view name, uint32_t* row) const {
  Launch const& launch = block.grid.launch;
  Dim const& size = launch.block;
  auto fill = [&](auto value) {
    for (uint32_t lane = 0; lane < 32; ++lane) row[lane] = static_cast<uint32_t>(value(lane, index * 32 + lane));
  };
  auto all = [&](uint64_t value) { fill([&](uint32_t, uint32_t) { return value; }); };
  if (name == "%tid.x") return fill([&](uint32_t, uint32_t t) { return t % size.x; });
  if (name == "%tid.y") return fill([&](uint32_t, uint32_t t) { return t / size.x % size.y; });
  if (name == "%tid.z") return fill([&](uint32_t, uint32_t t) { return t / size.x / size.y; });
  if (name == "%laneid") return fill([](uint32_t lane, uint32_t) { return lane; });
  if (name == "%lanemask_eq") return fill([](uint32_t lane, uint32_t) { return 1u << lane; });
  if (name == "%lanemask_lt") return fill([](uint32_t lane, uint32_t) { return (1u << lane) - 1; });
  if (name == "%lanemask_le") return fill([](uint32_t lane, uint32_t) { return (2u << lane) - 1; });
  if (name == "%lanemask_gt") return fill([](uint32_t lane, uint32_t) { return ~((2u << lane) - 1); });
  if (name == "%lanemask_ge") return fill([](uint32_t lane, uint32_t) { return ~((1u << lane) - 1); });
  std::pair<std::string_view, uint64_t> const values[] = {
      {"%ntid.x", size.x},
      {"%ntid.y", size.y},
      {"%ntid.z", size.z},
      {"%ctaid.x", block.index.x},
      {"%ctaid.y", block.index.y},
      {"%ctaid.z", block.index.z},
      {"%nctaid.x", launch.grid.x},
      {"%nctaid.y", launch.grid.y},
      {"%nctaid.z", launch.grid.z},
      {"%warpid", index},
      {"%nwarpid", (size.count() + 31) / 32},
      {"%smid", 0},
      {"%nsmid", 4},
      {"%dynamic_smem_size", launch.dynamic_shared_bytes},
      {"%total_smem_size", launch.dynamic_shared_bytes + launch.function->shared_bytes}};
  for (auto const& [known, value] : values) {
    if (name == known) return all(value);
  }
}

/// Lowest address first, deepest call before that, so that lanes meet again where their ways join. Every now and then
/// the others get a turn, as independent thread scheduling promises: a lane may spin until another one has done its
/// part.
void Warp::choose() {
  using Wait = Group::Wait;
  for (size_t a = 0; a < groups_.size(); ++a) {
    for (size_t b = a + 1; b < groups_.size();) {
      Group &one = groups_[a], &other = groups_[b];
      if (one.pc == other.pc && one.calls == other.calls) {
        if (one.wait != other.wait) one.wait = Wait::none;  // whoever waited looks again
        one.lanes |= other.lanes;
        groups_.erase(groups_.begin() + static_cast<ptrdiff_t>(b));
      } else {
        ++b;
      }
    }
  }
  bool const turn = (++since_switch_ & 0xfff) >= 0xe00;
  size_t best = groups_.size();
  for (size_t k = 0; k < groups_.size(); ++k) {
    if (groups_[k].wait != Wait::none) continue;
    if (best == groups_.size()) {
      best = k;
      continue;
    }
    Group const &g = groups_[k], &b = groups_[best];
    bool const first = g.calls.size() != b.calls.size() ? g.calls.size() > b.calls.size() : g.pc < b.pc;
    if (first != turn) best = k;
  }
  active_ = best;
}

Warp::Status Warp::run(uint32_t& budget) {
  auto const& code = block.grid.launch.module->code;
  while (budget > 0 && status_ == Status::ready) {
    if (groups_.size() != 1 || groups_[0].wait != Group::Wait::none) {
      choose();
      if (active_ == groups_.size()) {
        nobody_runs();
        continue;
      }
    } else {
      active_ = 0;
    }
    Group& g = groups_[active_];
    Instruction const& i = code[g.pc];
    current = &i;
    --budget;
    uint32_t run = g.lanes;
    if (i.guarded) run &= i.guard_negated ? ~predicates_[i.guard] : predicates_[i.guard];
    if (i.flow == Flow::next) {
      if (run) execute(i, run);
      ++g.pc;
      continue;
    }
    if (i.flow == Flow::branch) {
      branch(i, run);
      continue;
    }
    if (run == 0) {
      ++g.pc;
      continue;
    }
    if (run != g.lanes) {  // the others go on without it
      Group rest = g;
      rest.lanes &= ~run;
      ++rest.pc;
      groups_[active_].lanes = run;
      groups_.push_back(std::move(rest));
    }
    execute_mask(i, run);
  }
  return status_;
}

void Warp::execute(Instruction const& i, uint32_t run) {
  if (block.grid.counts) block.grid.counts->add(*this, i, run);
  i.run(*this, i, run);
}

void Warp::execute_mask(Instruction const& i, uint32_t run) {
  uint32_t const live = lanes & ~exited;
  switch (i.flow) {
    case Flow::branch_table: {
      Group const from = groups_[active_];
      groups_.erase(groups_.begin() + static_cast<ptrdiff_t>(active_));
      uint32_t const* const at = source<uint32_t>(i.op[0]);
      for_lanes(run, [&](int lane) {
        if (at[lane] >= i.table.size()) throw Fault("out-of-bounds", "branch table index " + std::to_string(at[lane]));
        groups_.push_back({i.table[at[lane]], 1u << lane, Group::Wait::none, from.calls});
      });
      return choose();
    }
    case Flow::call:
      return call(i);
    case Flow::ret:
    case Flow::exit:
      return leave(i, run);
    case Flow::warp_sync:
      if (warp_sync(i, run)) ++groups_[active_].pc;
      return;
    default:
      break;
  }
  // All lanes together.
  if (run != live) return park(i.flow == Flow::aligned ? Group::Wait::aligned : Group::Wait::barrier);
  if (exited & lanes) {
    throw Fault(i.flow == Flow::aligned ? "diverged warp instruction" : "barrier divergence",
                "some lanes of the warp have exited before (lanes " + hex(exited & lanes) + "), the others are here");
  }
  execute(i, run);  // a barrier sets the status
  if (i.flow == Flow::aligned || status_ == Status::ready) ++groups_[active_].pc;
}

void Warp::branch(Instruction const& i, uint32_t taken) {
  Group& g = groups_[active_];
  uint32_t const rest = g.lanes & ~taken;
  if (rest == 0) {
    g.pc = i.target;
  } else if (taken == 0) {
    ++g.pc;
  } else {
    Group other = g;
    other.lanes = rest;
    ++other.pc;
    g.lanes = taken;
    g.pc = i.target;
    groups_.push_back(std::move(other));
  }
}

/// True when all lanes of the group have executed it; otherwise those that wait are parked.
bool Warp::warp_sync(Instruction const& i, uint32_t run) {
  uint32_t const* const member = source<uint32_t>(i.op[i.mask_operand]);
  uint32_t const live = lanes & ~exited;
  uint32_t waiting = 0;
  for (uint32_t rest = run; rest;) {
    uint32_t const mask = member[std::countr_zero(rest)];
    uint32_t same = 0;
    for_lanes(rest, [&](int lane) { same |= uint32_t{member[lane] == mask} << lane; });
    rest &= ~same;
    if (same & ~mask) {
      throw Fault("diverged warp instruction",
                  "lanes " + hex(same & ~mask) + " execute it but their mask " + hex(mask) + " does not name them");
    }
    if (mask & live & ~same) {
      waiting |= same;
    } else {
      execute(i, same);
    }
  }
  if (waiting == 0) return true;
  if (waiting != run) {
    Group done = groups_[active_];
    done.lanes = run & ~waiting;
    ++done.pc;
    groups_[active_].lanes = waiting;
    groups_.push_back(std::move(done));
  }
  park(Group::Wait::warp_sync);
  return false;
}

void Warp::call(Instruction const& i) {
  Group& g = groups_[active_];
  Module const& module = *block.grid.launch.module;
  Function const* callee = nullptr;
  for (auto const& [name, f] : module.functions) {
    if (f->defined && f->first == i.target) callee = f.get();
  }
  if (std::find_if(g.calls.begin(), g.calls.end(), [&](uint32_t c) { return module.code[c].target == i.target; }) !=
      g.calls.end()) {
    throw Fault("unknown opcode", "recursion is not modelled: " + callee->name);
  }
  size_t argument = 0;
  while (i.op[argument].kind != Operand::Kind::label) ++argument;
  ++argument;
  for (Parameter const& p : callee->parameters) {
    Operand const& from = i.op[argument++];
    for_lanes(g.lanes, [&](int lane) { local.copy(p.local, from.value, p.bytes, lane); });
  }
  g.calls.push_back(g.pc);
  g.pc = i.target;
}

void Warp::leave(Instruction const& i, uint32_t run) {
  Group& g = groups_[active_];
  if (i.flow == Flow::exit || g.calls.empty()) {
    exited |= run;
    groups_.erase(groups_.begin() + static_cast<ptrdiff_t>(active_));
    if (groups_.empty()) {
      status_ = Status::done;
      --block.unfinished;
    }
    return;
  }
  Module const& module = *block.grid.launch.module;
  Instruction const& called = module.code[g.calls.back()];
  for (auto const& entry : module.functions) {
    Function const* const f = entry.second.get();
    if (!f->defined || f->first != called.target) continue;
    for (size_t k = 0; k < f->results.size(); ++k) {
      for_lanes(run, [&](int lane) { local.copy(called.op[k].value, f->results[k].local, f->results[k].bytes, lane); });
    }
  }
  g.pc = g.calls.back() + 1;
  g.calls.pop_back();
}

void Warp::park(Group::Wait wait) { groups_[active_].wait = wait; }

/// Every group waits for lanes. Either those lanes have exited meanwhile, or wait at another bar.warp.sync, or never
/// come.
void Warp::nobody_runs() {
  auto const& code = block.grid.launch.module->code;
  uint32_t const live = lanes & ~exited;
  for (Group& g : groups_) {
    Instruction const& i = code[g.pc];
    if (g.wait != Group::Wait::warp_sync) {
      if (g.lanes == live) return void(g.wait = Group::Wait::none);
      continue;
    }
    uint32_t const mask = source<uint32_t>(i.op[i.mask_operand])[std::countr_zero(g.lanes)];
    uint32_t present = 0;
    for (Group const& other : groups_) {
      if (&other == &g || (i.name == "bar.warp.sync" && code[other.pc].name == i.name)) present |= other.lanes;
    }
    if (mask & live & ~present) continue;
    if ((mask & live & ~g.lanes) == 0) return void(g.wait = Group::Wait::none);
    for (Group& other : groups_) {  // bar.warp.sync at several places
      if (!(other.lanes & mask)) continue;
      ++other.pc;
      other.wait = Group::Wait::none;
    }
    ++clock[index];
    return;
  }
  std::string kind = "diverged warp instruction", all;
  for (Group const& g : groups_) {
    current = &code[g.pc];
    if (g.wait == Group::Wait::barrier) kind = "barrier divergence";
    if (g.wait == Group::Wait::warp_sync && current->name.substr(0, 4) == "shfl" && kind[0] == 'd')
      kind = "diverged shuffle";
    all += "\n  " + describe(g);
  }
  if (exited & lanes) all += "\n  lanes " + hex(exited & lanes) + " have exited";
  throw Fault(kind, "lanes wait for each other at different places:" + all);
}

void Warp::release_barrier() {
  status_ = Status::ready;
  ++groups_[active_].pc;
}

std::string Warp::describe(Group const& g) const {
  return "lanes " + hex(g.lanes) + " at " + block.grid.launch.module->where(block.grid.launch.module->code[g.pc].line);
}

std::string Warp::describe() const {
  if (status_ == Status::done) return "warp " + std::to_string(index) + " has exited";
  std::string text = "warp " + std::to_string(index) + (status_ == Status::waiting ? " waits:" : ":");
  for (Group const& g : groups_) text += " " + describe(g);
  return text;
}

uint8_t* Warp::read(Space space, uint64_t address, uint32_t bytes, int lane, bool ordered) {
  try {
    if (address & (bytes - 1))
      throw Fault("misaligned access", "read of " + std::to_string(bytes) + " bytes at " + hex(address));
    if (space == Space::generic && (address & window_mask)) {
      space = (address & window_mask) == shared_window  ? Space::shared
              : (address & window_mask) == local_window ? Space::local
                                                        : Space::param;
      if (space != Space::param) address &= ~window_mask;
    }
    switch (space) {
      case Space::shared: {
        SharedMemory::Access const access{index, static_cast<uint32_t>(lane), current->line, &clock, ordered};
        return block.shared.read(address, bytes, access, *block.grid.launch.module);
      }
      case Space::local:
        return local.read(address, bytes, lane);
      case Space::param: {
        auto const& parameters = block.grid.launch.parameters;
        uint64_t const at = address & ~window_mask;
        if (at + bytes > parameters.size()) throw Fault("out-of-bounds", "read behind the kernel's parameters");
        return const_cast<uint8_t*>(parameters.data()) + at;
      }
      default:
        return Memory::get().read(address, bytes);
    }
  } catch (Fault& f) {
    f.lane = lane;
    throw;
  }
}

uint8_t* Warp::write(Space space, uint64_t address, uint32_t bytes, int lane, bool ordered, uint8_t const* value) {
  try {
    if (address & (bytes - 1))
      throw Fault("misaligned access", "write of " + std::to_string(bytes) + " bytes at " + hex(address));
    if (space == Space::generic && (address & window_mask)) {
      space = (address & window_mask) == shared_window  ? Space::shared
              : (address & window_mask) == local_window ? Space::local
                                                        : Space::param;
      if (space != Space::param) address &= ~window_mask;
    }
    switch (space) {
      case Space::shared: {
        SharedMemory::Access const access{index, static_cast<uint32_t>(lane), current->line, &clock, ordered};
        return block.shared.write(address, bytes, access, *block.grid.launch.module, value);
      }
      case Space::local:
        return local.write(address, bytes, lane);
      case Space::param:
        throw Fault("out-of-bounds", "write to the kernel's parameters");
      default:
        return Memory::get().write(address, bytes, ordered);
    }
  } catch (Fault& f) {
    f.lane = lane;
    throw;
  }
}

}  // namespace emulator
