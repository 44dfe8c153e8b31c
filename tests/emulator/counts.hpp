// SPDX-License-Identifier: Apache-2.0
// What a kernel asks of a multiprocessor: instructions, tensor-core products, cycles of shared memory, bytes from L2.
#pragma once
#include <cstdint>
#include <string>

namespace emulator {

class Warp;
struct Instruction;
struct Launch;

/// Of one launch. Of PTX, as far as it was executed: ptxas merges and moves instructions, and polls depend on the seed.
struct Counts {
  uint64_t instructions = 0;   ///< by warps, but for branches, calls and exits; cvt.rna.tf32 is four
  uint64_t tensor_flop = 0;    ///< of mma.sync
  uint64_t shared_cycles = 0;  ///< in which the 32 banks give or take a word each
  uint64_t shared_least = 0;   ///< ... if no two lanes wanted different words of a bank
  uint64_t global_bytes = 0;   ///< in sectors of 32, each once per instruction
  uint64_t barriers = 0;       ///< by warps

  /// Before a warp executes it; `lanes`: those that do.
  void add(Warp& warp, Instruction const& i, uint32_t lanes);
  /// Appends a JSON line to the file.
  void write(std::string const& file, Launch const& launch) const;
};

}  // namespace emulator
