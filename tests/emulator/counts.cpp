// SPDX-License-Identifier: Apache-2.0
#include "counts.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "exec.hpp"

namespace emulator {
namespace {

constexpr uint32_t banks = 32, sector = 32;

/// Where an instruction's lanes access memory.
struct Access {
  Operand const* at = nullptr;
  Space space = Space::generic;
  uint32_t bytes = 0;  // of a lane
};

bool starts(Instruction const& i, char const* name) { return i.name.rfind(name, 0) == 0; }

/// Up to two: an asynchronous copy reads here and writes there.
int accesses_of(Instruction const& i, Access (&all)[2]) {
  auto const bytes = static_cast<uint32_t>(bytes_of(i.type)) * i.vector;
  if (starts(i, "ldmatrix")) return all[0] = {&i.op[i.vector], i.space, 16}, 1;
  if (starts(i, "ld")) return all[0] = {&i.op[i.vector], i.space, bytes}, 1;
  if (starts(i, "st.")) return all[0] = {&i.op[0], i.space, bytes}, 1;
  if (starts(i, "red.")) {
    auto const values = static_cast<uint32_t>(i.op.size() - 1);
    return all[0] = {&i.op[0], i.space, static_cast<uint32_t>(bytes_of(i.type)) * values}, 1;
  }
  if (starts(i, "atom.")) return all[0] = {&i.op[1], i.space, bytes}, 1;
  if (!starts(i, "cp.async.c") || i.op.size() < 3) return 0;  // .ca, .cg; not .commit_group
  auto const size = static_cast<uint32_t>(i.op[2].value);
  all[0] = {&i.op[0], Space::shared, size};
  all[1] = {&i.op[1], Space::global, size};
  return 2;
}

}  // namespace

void Counts::add(Warp& warp, Instruction const& i, uint32_t lanes) {
  instructions += starts(i, "cvt.rna.tf32") ? 4 : 1;  // what ptxas makes of it
  if (i.flow == Flow::barrier || i.flow == Flow::barrier_arrive) ++barriers;
  if (starts(i, "mma.")) {  // m16n8, and the depth that the name ends its shape with
    size_t const k = i.name.find("m16n8k");
    tensor_flop += 2 * 16 * 8 * static_cast<uint64_t>(std::atoi(std::string(i.name.substr(k + 6, 2)).c_str()));
    return;
  }
  Access all[2];
  int const n = accesses_of(i, all);
  bool const matrices = starts(i, "ldmatrix");
  if (matrices) lanes = i.vector == 4 ? ~0u : (1u << (8 * i.vector)) - 1;  // whose addresses are taken
  for (Access const* a = all; a < all + n; ++a) {
    if (a->bytes == 0) continue;
    std::set<uint64_t> sectors;
    // As many lanes at a time as fill the banks.
    int const together = static_cast<int>(std::min<uint32_t>(32, 4 * banks / std::max(a->bytes, 4u)));
    for (int first = 0; first < 32; first += together) {
      std::set<uint64_t> words[banks];
      for (int lane = first; lane < first + together; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        uint64_t const address = warp.address(*a->at, lane), window = address & window_mask;
        bool const shared = a->space == Space::shared || (a->space == Space::generic && window == shared_window);
        bool const global = a->space == Space::global || (a->space == Space::generic && window == 0);
        uint64_t const end = (address & ~window_mask) + a->bytes;
        for (uint64_t byte = address & ~window_mask; shared && byte < end; byte += 4)
          words[byte / 4 % banks].insert(byte / 4);
        for (uint64_t byte = address / sector; global && byte * sector < end; ++byte) sectors.insert(byte);
      }
      size_t cycles = 0;
      for (auto const& bank : words) cycles = std::max(cycles, bank.size());
      shared_cycles += cycles;
      shared_least += cycles > 0;
    }
    global_bytes += sector * sectors.size();
  }
}

void Counts::write(std::string const& file, Launch const& launch) const {
  std::FILE* const out = std::fopen(file.c_str(), "a");
  if (!out) return void(std::fprintf(stderr, "emulator: cannot write %s\n", file.c_str()));
  int status = 0;
  char* const readable = abi::__cxa_demangle(launch.function->name.c_str(), nullptr, nullptr, &status);
  auto const number = [](uint64_t x) { return static_cast<unsigned long long>(x); };
  std::fprintf(
      out,
      "{\"kernel\": \"%s\", \"blocks\": %llu, \"threads\": %llu, \"instructions\": %llu, \"tensor_flop\": %llu, "
      "\"shared_cycles\": %llu, \"shared_least\": %llu, \"global_bytes\": %llu, \"barriers\": %llu}\n",
      status == 0 && readable ? readable : launch.function->name.c_str(), number(launch.grid.count()),
      number(launch.block.count()), number(instructions), number(tensor_flop), number(shared_cycles),
      number(shared_least), number(global_bytes), number(barriers));
  std::free(readable);
  std::fclose(out);
}

}  // namespace emulator
