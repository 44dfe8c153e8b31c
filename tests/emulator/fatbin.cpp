// SPDX-License-Identifier: Apache-2.0
// Takes the PTX out of the fat binary that nvcc embeds, and keeps what the start-up code registers.
#include "fatbin.hpp"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "device.hpp"

namespace emulator {
namespace {

struct Registry {
  std::vector<std::unique_ptr<FatBinary>> binaries;
  std::map<void const*, RegisteredKernel> kernels;
  std::map<void const*, RegisteredVariable> variables;
};
Registry& registry() {
  static auto* const all = new Registry;
  return *all;
}

template <class T> T at(char const* memory, size_t offset) {
  T value;
  std::memcpy(&value, memory + offset, sizeof value);
  return value;
}

/// Container: magic, version, header size, payload size; then entries of kind (1: PTX), header size, payload size,
/// arch, flags.
void extract(void const* wrapper, FatBinary& binary) {
  auto const* const outer = static_cast<char const*>(wrapper);
  if (at<uint32_t>(outer, 0) != 0x466243b1) {
    binary.why_none = "unknown fat binary wrapper";
    return;
  }
  auto const* const fat = at<char const*>(outer, 8);
  if (at<uint32_t>(fat, 0) != 0xba55ed50) {
    binary.why_none = "unknown fat binary";
    return;
  }
  int best = 0;
  uint64_t const end = at<uint16_t>(fat, 6) + at<uint64_t>(fat, 8);
  for (uint64_t entry = at<uint16_t>(fat, 6); entry + 64 <= end;) {
    char const* const header = fat + entry;
    uint32_t const header_bytes = at<uint32_t>(header, 4);
    uint64_t const bytes = at<uint64_t>(header, 8);
    int const arch = at<int>(header, 28);
    if (at<uint16_t>(header, 0) == 1 && arch > best && arch <= Runtime::get().machine.arch) {
      std::string_view const text(header + header_bytes, bytes);
      if (text.find(".version") == text.npos) {
        binary.why_none = "its PTX is compressed: build with --no-compress";
      } else {
        binary.ptx = text.substr(0, text.find('\0'));
        best = arch;
      }
    }
    entry += header_bytes + bytes;
  }
  if (binary.ptx.empty() && binary.why_none.empty()) {
    binary.why_none = "it has no PTX for sm_" + std::to_string(Runtime::get().machine.arch) +
                      " or less: build with -gencode=arch=compute_80,code=compute_80";
  }
}

}  // namespace

RegisteredKernel* find_kernel(void const* host_function) {
  auto const found = registry().kernels.find(host_function);
  return found == registry().kernels.end() ? nullptr : &found->second;
}

RegisteredVariable* find_variable(void const* host_variable) {
  auto const found = registry().variables.find(host_variable);
  return found == registry().variables.end() ? nullptr : &found->second;
}

Module& module_of(FatBinary& binary, int device) {
  auto& module = binary.modules[device];
  if (!module) {
    if (binary.ptx.empty()) throw Fault("no PTX", "the fat binary cannot be emulated: " + binary.why_none);
    if (char const* const folder = std::getenv("RINGATTN_EMULATOR_DUMP")) {
      std::ofstream(std::string(folder) + "/module" + std::to_string(reinterpret_cast<uintptr_t>(&binary) & 0xffffff) +
                    ".ptx")
          << binary.ptx;
    }
    module = parse_ptx(binary.ptx, "module");
  }
  return *module;
}

Function const& function_of(RegisteredKernel const& kernel, Module const& module) {
  auto const found = module.functions.find(kernel.name);
  if (found == module.functions.end()) throw Fault("no PTX", "kernel " + kernel.name + " is not in its module");
  return *found->second;
}

}  // namespace emulator

using namespace emulator;

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  std::lock_guard guard(Runtime::get().lock);
  auto& binary = registry().binaries.emplace_back(std::make_unique<FatBinary>());
  extract(wrapper, *binary);
  return reinterpret_cast<void**>(binary.get());
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void** handle, char const* host, char*, char const* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  std::lock_guard guard(Runtime::get().lock);
  registry().kernels[host] = {.binary = reinterpret_cast<FatBinary*>(handle), .name = name};
}

void __cudaRegisterVar(void** handle, char* host, char*, char const* name, int, size_t bytes, int, int) {
  std::lock_guard guard(Runtime::get().lock);
  registry().variables[host] = {.binary = reinterpret_cast<FatBinary*>(handle), .name = name, .bytes = bytes};
}
void __cudaRegisterManagedVar(void** handle, void** host, char*, char const* name, int, size_t bytes, int, int) {
  std::lock_guard guard(Runtime::get().lock);
  registry().variables[host] = {.binary = reinterpret_cast<FatBinary*>(handle), .name = name, .bytes = bytes};
}

}  // extern "C"
