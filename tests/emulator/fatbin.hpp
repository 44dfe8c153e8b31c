// SPDX-License-Identifier: Apache-2.0
// What nvcc's start-up code registers: fat binaries, kernels, variables.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptx.hpp"

namespace emulator {

struct FatBinary {
  std::string ptx;  // the newest that the emulated card can run
  std::string why_none;
  std::map<int, std::unique_ptr<Module>> modules;  // per device, loaded at first use
};

struct RegisteredKernel {
  FatBinary* binary = nullptr;
  std::string name;
  uint64_t dynamic_limit = 48 * 1024;  // cudaFuncAttributeMaxDynamicSharedMemorySize
};

struct RegisteredVariable {
  FatBinary* binary = nullptr;
  std::string name;
  size_t bytes = 0;
};

RegisteredKernel* find_kernel(void const* host_function);
RegisteredVariable* find_variable(void const* host_variable);
/// Throws Fault when there is no PTX or it cannot be parsed.
Module& module_of(FatBinary& binary, int device);
Function const& function_of(RegisteredKernel const& kernel, Module const& module);

}  // namespace emulator
