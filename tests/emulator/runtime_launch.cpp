// SPDX-License-Identifier: Apache-2.0
// The runtime's kernels: launches, attributes, occupancy.
#include "runtime.hpp"

#include <algorithm>
#include <cstring>

using namespace emulator;

namespace {

struct Configuration {
  dim3 grid, block;
  size_t shared = 0;
  cudaStream_t stream = nullptr;
};
thread_local std::vector<Configuration> configurations;

RegisteredKernel& kernel_of(void const* function) {
  RegisteredKernel* const kernel = find_kernel(function);
  if (!kernel) throw cudaErrorInvalidDeviceFunction;
  return *kernel;
}

uint32_t blocks_per_multiprocessor(Machine const& m, Function const& f, Module const& module, uint64_t threads,
                                   uint64_t dynamic) {
  uint64_t const shared = f.shared_bytes + module.module_shared_bytes + dynamic + 1024;
  uint64_t const by_threads = static_cast<uint64_t>(m.threads_per_multiprocessor()) / ((threads + 31) / 32 * 32);
  return static_cast<uint32_t>(std::min({by_threads, m.shared_per_multiprocessor() / shared, uint64_t{32}}));
}

cudaError_t launch(Runtime& r, void const* function, dim3 grid, dim3 block, void** arguments, size_t dynamic,
                   cudaStream_t stream, bool cooperative) {
  RegisteredKernel& kernel = kernel_of(function);
  Stream* const s = stream_of(stream);
  Module const& module = module_of(*kernel.binary, s->device);
  Function const& f = function_of(kernel, module);
  uint64_t const threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64 || grid.x == 0 ||
      grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  uint64_t const most = uint64_t{f.max_threads[0]} * f.max_threads[1] * f.max_threads[2];
  if (most && threads > most) return cudaErrorInvalidValue;
  uint64_t const fixed = f.shared_bytes + module.module_shared_bytes;
  if (dynamic > kernel.dynamic_limit || fixed + dynamic > r.machine.shared_per_block()) return cudaErrorInvalidValue;
  Launch l;
  l.module = &module;
  l.function = &f;
  l.grid = {grid.x, grid.y, grid.z};
  l.block = {block.x, block.y, block.z};
  l.dynamic_shared_bytes = dynamic;
  l.cooperative = cooperative;
  l.parameters.assign((f.parameter_bytes + 15) / 16 * 16, 0);
  for (size_t k = 0; k < f.parameters.size(); ++k)
    std::memcpy(l.parameters.data() + f.parameters[k].offset, arguments[k], f.parameters[k].bytes);
  uint32_t const per = blocks_per_multiprocessor(r.machine, f, module, threads, dynamic);
  if (per == 0) return cudaErrorInvalidConfiguration;
  uint64_t resident = std::min(uint64_t{per} * 4, uint64_t{8});  // a small card: more would only cost cache
  if (cooperative) {
    resident = uint64_t{per} * static_cast<uint64_t>(r.machine.multiprocessors);
    if (l.grid.count() > resident) return cudaErrorCooperativeLaunchTooLarge;
  }
  auto work = r.make(f.name, nullptr);
  work->start = [l, &r, resident] { return std::make_unique<Grid>(l, r.random, static_cast<uint32_t>(resident)); };
  r.enqueue(s, work);
  return cudaSuccess;
}

}  // namespace

extern "C" {

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configurations.push_back({grid, block, shared, static_cast<cudaStream_t>(stream)});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  Configuration const c = configurations.back();
  configurations.pop_back();
  *grid = c.grid;
  *block = c.block;
  *shared = c.shared;
  std::memcpy(stream, &c.stream, sizeof c.stream);
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, void const* function) {  // the stub's address is our handle
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(void const* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  return api([&](Runtime& r) { return launch(r, function, grid, block, arguments, shared, stream, false); });
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}
cudaError_t cudaLaunchCooperativeKernel(void const* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                                        cudaStream_t stream) {
  return api([&](Runtime& r) { return launch(r, function, grid, block, arguments, shared, stream, true); });
}
cudaError_t cudaLaunchKernelExC(cudaLaunchConfig_t const* c, void const* function, void** arguments) {
  return api([&](Runtime& r) {
    bool cooperative = false;
    for (unsigned k = 0; k < c->numAttrs; ++k) {
      auto const& a = c->attrs[k];
      if (a.id == cudaLaunchAttributeCooperative) cooperative = a.val.cooperative;
      if (a.id == cudaLaunchAttributeClusterDimension &&
          a.val.clusterDim.x * a.val.clusterDim.y * a.val.clusterDim.z != 1)
        return cudaErrorNotSupported;
    }
    return launch(r, function, c->gridDim, c->blockDim, arguments, c->dynamicSmemBytes, c->stream, cooperative);
  });
}

cudaError_t cudaFuncSetAttribute(void const* function, cudaFuncAttribute attribute, int value) {
  return api([&](Runtime& r) {
    RegisteredKernel& kernel = kernel_of(function);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    Module const& module = module_of(*kernel.binary, this_thread.device);
    uint64_t const fixed = function_of(kernel, module).shared_bytes + module.module_shared_bytes;
    if (value < 0 || fixed + static_cast<uint64_t>(value) > r.machine.shared_per_block()) return cudaErrorInvalidValue;
    kernel.dynamic_limit = static_cast<uint64_t>(value);
    return cudaSuccess;
  });
}
cudaError_t cudaFuncSetCacheConfig(void const*, cudaFuncCache) { return cudaSuccess; }
cudaError_t cudaFuncGetName(char const** name, void const* function) {
  return api([&](Runtime&) { return *name = kernel_of(function).name.c_str(), cudaSuccess; });
}
/// numRegs is a stand-in: PTX knows no registers of the machine.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* out, void const* function) {
  return api([&](Runtime& r) {
    RegisteredKernel& kernel = kernel_of(function);
    Module const& module = module_of(*kernel.binary, this_thread.device);
    Function const& f = function_of(kernel, module);
    *out = {};
    uint64_t const most = uint64_t{f.max_threads[0]} * f.max_threads[1] * f.max_threads[2];
    out->sharedSizeBytes = f.shared_bytes + module.module_shared_bytes;
    out->maxThreadsPerBlock = most ? static_cast<int>(most) : 1024;
    out->numRegs = 32;
    out->ptxVersion = out->binaryVersion = r.machine.arch;
    out->maxDynamicSharedSizeBytes = static_cast<int>(kernel.dynamic_limit);
    return cudaSuccess;
  });
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void const* function, int threads,
                                                                   size_t dynamic, unsigned) {
  return api([&](Runtime& r) {
    RegisteredKernel& kernel = kernel_of(function);
    Module const& module = module_of(*kernel.binary, this_thread.device);
    *blocks = static_cast<int>(blocks_per_multiprocessor(r.machine, function_of(kernel, module), module,
                                                         static_cast<uint64_t>(threads), dynamic));
    return cudaSuccess;
  });
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void const* function, int threads,
                                                          size_t dynamic) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, dynamic, 0);
}

}  // extern "C"
