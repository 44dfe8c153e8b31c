// SPDX-License-Identifier: Apache-2.0
// The runtime's devices, attributes and errors.
#include "runtime.hpp"

#include <cstdio>
#include <cstring>
#include <set>

using namespace emulator;

namespace emulator {
cudaError_t sticky_error() {
  std::string const& kind = Runtime::get().fault_kind;
  if (kind.empty()) return cudaSuccess;
  if (kind == "out-of-bounds" || kind == "use after free" || kind == "shared-memory overrun")
    return cudaErrorIllegalAddress;
  if (kind == "misaligned access") return cudaErrorMisalignedAddress;
  if (kind == "assertion") return cudaErrorAssert;
  if (kind == "no PTX") return cudaErrorNoKernelImageForDevice;
  if (kind == "PTX") return cudaErrorInvalidPtx;
  return cudaErrorLaunchFailure;
}
}  // namespace emulator

namespace {
std::set<std::pair<int, int>>& peers() {
  static auto* const all = new std::set<std::pair<int, int>>;
  return *all;
}
bool exists(int device) { return device >= 0 && device < Runtime::get().machine.devices; }
}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) { return *count = Runtime::get().machine.devices, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = this_thread.device, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  if (!exists(device)) return remember(cudaErrorInvalidDevice);
  this_thread.device = device;
  return cudaSuccess;
}
cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
  return exists(device) ? cudaSuccess : remember(cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceSynchronize() {
  return api([&](Runtime&) {
    wait_for_device(this_thread.device);
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceReset() { return cudaDeviceSynchronize(); }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) { return cudaSuccess; }
cudaError_t cudaDeviceGetLimit(size_t* value, cudaLimit) { return *value = 0, cudaSuccess; }
cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache) { return cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!exists(device) || !exists(peer)) return remember(cudaErrorInvalidDevice);
  return *can = device != peer, cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  return api([&](Runtime&) {
    if (!exists(peer) || peer == this_thread.device) return cudaErrorInvalidDevice;
    return peers().insert({this_thread.device, peer}).second ? cudaSuccess : cudaErrorPeerAccessAlreadyEnabled;
  });
}
cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  return api([&](Runtime&) {
    return peers().erase({this_thread.device, peer}) ? cudaSuccess : cudaErrorPeerAccessNotEnabled;
  });
}
cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr, int, int) { return *value = 1, cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (!exists(device)) return remember(cudaErrorInvalidDevice);
  Machine const& m = Runtime::get().machine;
  *p = {};
  std::snprintf(p->name, sizeof p->name, "ringattn emulator (sm_%d)", m.arch);
  p->totalGlobalMem = Memory::get().capacity();
  p->sharedMemPerBlock = 48 * 1024;
  p->sharedMemPerBlockOptin = m.shared_per_block();
  p->sharedMemPerMultiprocessor = m.shared_per_multiprocessor();
  p->reservedSharedMemPerBlock = 1024;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7fffffff;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->totalConstMem = 65536;
  p->major = m.arch / 10;
  p->minor = m.arch % 10;
  p->multiProcessorCount = m.multiprocessors;
  p->maxThreadsPerMultiProcessor = m.threads_per_multiprocessor();
  p->maxBlocksPerMultiProcessor = 32;
  p->l2CacheSize = 40 << 20;
  p->asyncEngineCount = 3;
  p->concurrentKernels = p->unifiedAddressing = p->canMapHostMemory = p->managedMemory = p->cooperativeLaunch = 1;
  p->memoryPoolsSupported = p->streamPrioritiesSupported = p->hostRegisterSupported = 1;
  p->pciBusID = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!exists(device)) return remember(cudaErrorInvalidDevice);
  Machine const& m = Runtime::get().machine;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
      *value = 1024;
      break;
    case cudaDevAttrMaxBlockDimZ:
      *value = 64;
      break;
    case cudaDevAttrMaxGridDimX:
      *value = 0x7fffffff;
      break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      *value = 65535;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 * 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(m.shared_per_block());
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(m.shared_per_multiprocessor());
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrTotalConstantMemory:
      *value = 65536;
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = 65536;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = m.multiprocessors;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = m.threads_per_multiprocessor();
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = 32;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = m.arch / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = m.arch % 10;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 40 << 20;
      break;
    case cudaDevAttrAsyncEngineCount:
      *value = 3;
      break;
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrHostRegisterSupported:
    case cudaDevAttrStreamPrioritiesSupported:
      *value = 1;
      break;
    default:
      *value = 0;
  }
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  cudaError_t const error = this_thread.last;
  std::lock_guard guard(Runtime::get().lock);
  this_thread.last = sticky_error();
  return error != cudaSuccess ? error : this_thread.last;
}
cudaError_t cudaPeekAtLastError() {
  std::lock_guard guard(Runtime::get().lock);
  return this_thread.last != cudaSuccess ? this_thread.last : sticky_error();
}

char const* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define EMULATOR_NAME(E) \
  case E:                \
    return #E
    EMULATOR_NAME(cudaSuccess);
    EMULATOR_NAME(cudaErrorInvalidValue);
    EMULATOR_NAME(cudaErrorMemoryAllocation);
    EMULATOR_NAME(cudaErrorInvalidConfiguration);
    EMULATOR_NAME(cudaErrorInvalidPitchValue);
    EMULATOR_NAME(cudaErrorInvalidSymbol);
    EMULATOR_NAME(cudaErrorInvalidDevice);
    EMULATOR_NAME(cudaErrorInvalidDeviceFunction);
    EMULATOR_NAME(cudaErrorNoKernelImageForDevice);
    EMULATOR_NAME(cudaErrorInvalidPtx);
    EMULATOR_NAME(cudaErrorInvalidResourceHandle);
    EMULATOR_NAME(cudaErrorIllegalState);
    EMULATOR_NAME(cudaErrorNotReady);
    EMULATOR_NAME(cudaErrorIllegalAddress);
    EMULATOR_NAME(cudaErrorMisalignedAddress);
    EMULATOR_NAME(cudaErrorAssert);
    EMULATOR_NAME(cudaErrorLaunchFailure);
    EMULATOR_NAME(cudaErrorCooperativeLaunchTooLarge);
    EMULATOR_NAME(cudaErrorNotSupported);
    EMULATOR_NAME(cudaErrorPeerAccessAlreadyEnabled);
    EMULATOR_NAME(cudaErrorPeerAccessNotEnabled);
    EMULATOR_NAME(cudaErrorHostMemoryAlreadyRegistered);
    EMULATOR_NAME(cudaErrorHostMemoryNotRegistered);
    EMULATOR_NAME(cudaErrorStreamCaptureUnsupported);
    EMULATOR_NAME(cudaErrorStreamCaptureUnjoined);
    EMULATOR_NAME(cudaErrorStreamCaptureImplicit);
    EMULATOR_NAME(cudaErrorCapturedEvent);
#undef EMULATOR_NAME
    default:
      return "an error of the CUDA runtime";
  }
}
char const* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

}  // extern "C"
