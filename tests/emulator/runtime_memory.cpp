// SPDX-License-Identifier: Apache-2.0
// The runtime's memory: allocation, copies, fills, symbols.
#include "runtime.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

using namespace emulator;

namespace {

uint64_t number(void const* pointer) { return reinterpret_cast<uint64_t>(pointer); }
Memory& memory() { return Memory::get(); }

uint64_t allocate(size_t bytes) {
  uint64_t const address = memory().allocate(bytes, this_thread.device);
  if (!address) throw cudaErrorMemoryAllocation;
  return address;
}

/// Host memory that was not allocated or registered here: the driver copies it aside, so such copies do not overlap.
bool pageable(void const* pointer) { return !memory().is_device(number(pointer)) && !memory().find(number(pointer)); }

void check_kind(void const* to, void const* from, cudaMemcpyKind kind) {
  bool const to_device = memory().is_device(number(to)), from_device = memory().is_device(number(from));
  auto const managed = [](void const* p) {
    Allocation const* const a = memory().find(number(p));
    return a && a->managed;
  };
  bool const want_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  bool const want_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind == cudaMemcpyDefault) return;
  if ((want_to != to_device && !managed(to)) || (want_from != from_device && !managed(from)))
    throw cudaErrorInvalidValue;
}

void copy(Runtime& r, void* to, void const* from, size_t bytes, cudaMemcpyKind kind, Stream* stream, bool wait) {
  if (bytes == 0) return;
  check_kind(to, from, kind);
  bool const to_device = memory().is_device(number(to)), from_device = memory().is_device(number(from));
  char const* const name = to_device ? from_device ? "copy on the device" : "copy to the device" : "copy to the host";
  if (to_device && !from_device && pageable(from)) {
    std::vector<uint8_t> staged(static_cast<uint8_t const*>(from), static_cast<uint8_t const*>(from) + bytes);
    r.enqueue(stream, r.make(name, [=, staged = std::move(staged)] {
      std::memcpy(memory().write(number(to), bytes), staged.data(), bytes);
    }));
    if (wait) wait_for(stream);
    return;
  }
  r.enqueue(stream, r.make(name, [=] { memory().copy(number(to), number(from), bytes); }));
  if (!to_device && from_device && pageable(to)) {
    refuse_capture(stream);
    wait = true;
  }
  if (wait && !(to_device && from_device)) wait_for(stream);
}

void fill(Runtime& r, void* to, int value, size_t bytes, Stream* stream) {
  if (bytes == 0) return;
  r.enqueue(stream, r.make("fill", [=] { std::memset(memory().write(number(to), bytes), value, bytes); }));
}

Variable const& variable_of(void const* symbol, int device) {
  RegisteredVariable const* const v = find_variable(symbol);
  if (!v) throw cudaErrorInvalidSymbol;
  Module const& module = module_of(*v->binary, device);
  auto const found = module.variables.find(v->name);
  if (found == module.variables.end()) throw cudaErrorInvalidSymbol;
  return found->second;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return api([&](Runtime&) {
    *pointer = bytes ? reinterpret_cast<void*>(allocate(bytes)) : nullptr;
    return cudaSuccess;
  });
}
cudaError_t cudaFree(void* pointer) {
  return api([&](Runtime&) {
    if (!pointer) return cudaSuccess;
    Allocation const* const a = memory().find(number(pointer));
    if (!a || a->freed) return cudaErrorInvalidValue;
    wait_for_device(a->device);
    if (a->managed) {
      uint64_t const bytes = a->bytes;
      memory().remove_host(pointer);
      munmap(pointer, bytes);
      return cudaSuccess;
    }
    return memory().free(number(pointer)) ? cudaSuccess : cudaErrorInvalidValue;
  });
}
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  return api([&](Runtime& r) {
    uint64_t const address = bytes ? allocate(bytes) : 0;
    *pointer = reinterpret_cast<void*>(address);
    if (!bytes) return cudaSuccess;
    r.enqueue(stream_of(stream), r.make("allocation", [=] {  // use of it on another stream needs an event
      memory().write(address, bytes);
      memory().poison(address, bytes);
    }));
    return cudaSuccess;
  });
}
cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t, cudaStream_t stream) {
  return cudaMallocAsync(pointer, bytes, stream);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  return api([&](Runtime& r) {
    if (!pointer) return cudaSuccess;
    Allocation const* const a = memory().find(number(pointer));
    if (!a || a->freed) return cudaErrorInvalidValue;
    r.enqueue(stream_of(stream), r.make("free", [=, bytes = a->bytes] {
      memory().write(number(pointer), bytes);  // ordered behind every use
      memory().free(number(pointer));
    }));
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return api([&](Runtime&) {
    void* const p = mmap(nullptr, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return cudaErrorMemoryAllocation;
    memory().add_host(p, bytes, false, this_thread.device);
    *pointer = p;
    return cudaSuccess;
  });
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }
cudaError_t cudaFreeHost(void* pointer) {
  return api([&](Runtime&) {
    if (!pointer) return cudaSuccess;
    Allocation const* const a = memory().find(number(pointer));
    if (!a || a->managed) return cudaErrorInvalidValue;
    uint64_t const bytes = a->bytes;
    wait_for_device(a->device);
    memory().remove_host(pointer);
    munmap(pointer, bytes ? bytes : 1);
    return cudaSuccess;
  });
}
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  return api([&](Runtime&) {
    if (memory().find(number(pointer))) return cudaErrorHostMemoryAlreadyRegistered;
    memory().add_host(pointer, bytes, false, this_thread.device);
    return cudaSuccess;
  });
}
cudaError_t cudaHostUnregister(void* pointer) {
  return api([&](Runtime&) { return memory().remove_host(pointer) ? cudaSuccess : cudaErrorHostMemoryNotRegistered; });
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  return api(
      [&](Runtime&) { return *device = host, memory().find(number(host)) ? cudaSuccess : cudaErrorInvalidValue; });
}
cudaError_t cudaMallocManaged(void** pointer, size_t bytes, unsigned) {
  return api([&](Runtime&) {
    void* const p = mmap(nullptr, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return cudaErrorMemoryAllocation;
    memory().add_host(p, bytes, true, this_thread.device);
    *pointer = p;
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpyAsync(void* to, void const* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return api([&](Runtime& r) { return copy(r, to, from, bytes, kind, stream_of(stream), false), cudaSuccess; });
}
cudaError_t cudaMemcpy(void* to, void const* from, size_t bytes, cudaMemcpyKind kind) {
  return api([&](Runtime& r) { return copy(r, to, from, bytes, kind, stream_of(nullptr), true), cudaSuccess; });
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, void const* from, int, size_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}
cudaError_t cudaMemcpyPeer(void* to, int, void const* from, int, size_t bytes) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, nullptr);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, void const* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return api([&](Runtime& r) {
    if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
    for (size_t row = 0; row < height; ++row) {
      copy(r, static_cast<char*>(to) + row * to_pitch, static_cast<char const*>(from) + row * from_pitch, width, kind,
           stream_of(stream), false);
    }
    return cudaSuccess;
  });
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, void const* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  cudaError_t const error = cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
  return error != cudaSuccess || kind == cudaMemcpyDeviceToDevice ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return api([&](Runtime& r) { return fill(r, to, value, bytes, stream_of(stream)), cudaSuccess; });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) { return cudaMemsetAsync(to, value, bytes, nullptr); }
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
  return api([&](Runtime& r) {
    for (size_t row = 0; row < height; ++row)
      fill(r, static_cast<char*>(to) + row * pitch, value, width, stream_of(stream));
    return cudaSuccess;
  });
}
cudaError_t cudaMemset2D(void* to, size_t pitch, int value, size_t width, size_t height) {
  return cudaMemset2DAsync(to, pitch, value, width, height, nullptr);
}

cudaError_t cudaGetSymbolAddress(void** pointer, void const* symbol) {
  return api([&](Runtime&) {
    *pointer = reinterpret_cast<void*>(variable_of(symbol, this_thread.device).address);
    return cudaSuccess;
  });
}
cudaError_t cudaGetSymbolSize(size_t* bytes, void const* symbol) {
  return api([&](Runtime&) { return *bytes = variable_of(symbol, this_thread.device).bytes, cudaSuccess; });
}
cudaError_t cudaMemcpyToSymbolAsync(void const* symbol, void const* from, size_t bytes, size_t offset,
                                    cudaMemcpyKind kind, cudaStream_t stream) {
  return api([&](Runtime& r) {
    Variable const& v = variable_of(symbol, this_thread.device);
    if (offset + bytes > v.bytes) return cudaErrorInvalidValue;
    copy(r, reinterpret_cast<void*>(v.address + offset), from, bytes, kind, stream_of(stream), false);
    return cudaSuccess;
  });
}
cudaError_t cudaMemcpyToSymbol(void const* symbol, void const* from, size_t bytes, size_t offset, cudaMemcpyKind kind) {
  cudaError_t const error = cudaMemcpyToSymbolAsync(symbol, from, bytes, offset, kind, nullptr);
  return error != cudaSuccess || kind == cudaMemcpyDeviceToDevice ? error : cudaStreamSynchronize(nullptr);
}
cudaError_t cudaMemcpyFromSymbolAsync(void* to, void const* symbol, size_t bytes, size_t offset, cudaMemcpyKind kind,
                                      cudaStream_t stream) {
  return api([&](Runtime& r) {
    Variable const& v = variable_of(symbol, this_thread.device);
    if (offset + bytes > v.bytes) return cudaErrorInvalidValue;
    copy(r, to, reinterpret_cast<void const*>(v.address + offset), bytes, kind, stream_of(stream), false);
    return cudaSuccess;
  });
}
cudaError_t cudaMemcpyFromSymbol(void* to, void const* symbol, size_t bytes, size_t offset, cudaMemcpyKind kind) {
  cudaError_t const error = cudaMemcpyFromSymbolAsync(to, symbol, bytes, offset, kind, nullptr);
  return error != cudaSuccess || kind == cudaMemcpyDeviceToDevice ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return api([&](Runtime&) {
    *total = memory().capacity();
    *free = memory().capacity() - memory().live_bytes();
    return cudaSuccess;
  });
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, void const* pointer) {
  return api([&](Runtime&) {
    *out = {};
    Allocation const* const a = memory().find(number(pointer));
    out->type = !a || a->freed ? cudaMemoryTypeUnregistered
                : a->managed   ? cudaMemoryTypeManaged
                : a->host      ? cudaMemoryTypeHost
                               : cudaMemoryTypeDevice;
    out->device = a ? a->device : -1;
    if (out->type != cudaMemoryTypeUnregistered) out->devicePointer = const_cast<void*>(pointer);
    if (!a || a->host || a->managed) out->hostPointer = const_cast<void*>(pointer);
    return cudaSuccess;
  });
}

// One pool per device stands for all: nothing is cached, so nothing can be trimmed.
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  *pool = reinterpret_cast<cudaMemPool_t>(static_cast<uintptr_t>(device) + 1);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int device) { return cudaDeviceGetDefaultMemPool(pool, device); }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  *static_cast<uint64_t*>(value) = 0;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, cudaMemAccessDesc const*, size_t) { return cudaSuccess; }

}  // extern "C"
