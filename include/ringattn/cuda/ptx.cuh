// SPDX-License-Identifier: Apache-2.0
// Instructions of sm_80 that neither CUDA C++ nor cuda::ptx has a name for, one function each.
#pragma once

#include <cstdint>

#include "cards.hpp"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS::ptx {

using Word = std::uint32_t;  ///< a register: one fp32 or tf32, or two 16-bit elements, the first in the lower half

__device__ inline Word shared_address(void const* p) { return Word(__cvta_generic_to_shared(p)); }

// Not threadIdx: what is derived of these is computed anew where it is used, in loops too. Addresses that the compiler
// keeps across a loop take the registers of accumulators.
__device__ inline int thread() {
  int x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
}
__device__ inline int lane() {
  int x;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(x));
  return x;
}

// ---------------------------------------------------------------- asynchronous copies, global to shared

/// Starts a copy of 16 bytes, both sides aligned to 16. Not `valid`: writes zeros and reads nothing.
__device__ inline void copy_16(Word to, void const* from, bool valid) {
  int const bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
/// Ends a group: the copies this thread started since the last one.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `pending` of this thread's youngest groups are under way. Others' copies need a barrier, too.
template <int pending> __device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---------------------------------------------------------------- shared memory

/// Four 8 x 8 matrices of 16-bit elements. Lane 8 i + r gives the address of row r of matrix i; register i of lane l
/// gets elements 2 (l % 4) and the next of row l / 4 (transposed: of column l / 4). A matrix not transposed can also be
/// 8 x 4 words.
__device__ inline void load_matrices(Word (&r)[4], Word address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_matrices_transposed(Word (&r)[4], Word address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline Word load_word(Word address) {
  Word x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
  return x;
}
__device__ inline void load_words(Word (&x)[2], Word address) {
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "r"(address) : "memory");
}
__device__ inline void load_words(Word (&x)[4], Word address) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}
__device__ inline void store_word(Word address, Word x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}
__device__ inline void store_words(Word address, Word const (&x)[2]) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(x[0]), "r"(x[1]) : "memory");
}
__device__ inline void store_words(Word address, Word const (&x)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
}

// ---------------------------------------------------------------- hand-over between blocks

/// What the writer's warp or block did before its release is seen after this, once a barrier has told the other lanes.
__device__ inline Word load_acquire(Word const* p) {
  Word x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}
__device__ inline void store_release(Word* p, Word x) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}
/// Between two looks at what another block will write: leaves the scheduler to other warps for some tens of
/// nanoseconds.
__device__ inline void pause() { __nanosleep(32); }
/// *p += x, and four neighbours at a time; nothing is read back. Subnormal numbers and sums count as 0.
__device__ inline void add(float* p, float x) {
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(p), "f"(x) : "memory");
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline void add(float4* p, float const (&x)[4]) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(x[0]), "f"(x[1]), "f"(x[2]),
               "f"(x[3])
               : "memory");
}
#endif

// ---------------------------------------------------------------- c += a b, fp32 accumulators

// c: 16 x 8. Lane l = 4 g + t holds rows g (c[0], c[1]) and g + 8 (c[2], c[3]), columns 2t and 2t + 1.
__device__ inline void mma_bf16(float (&c)[4], Word const (&a)[4], Word const (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma_fp16(float (&c)[4], Word const (&a)[4], Word const (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// Depth 8: a[0], a[1] are column t of rows g, g + 8; a[2], a[3] column t + 4; b[0] row t and b[1] row t + 4 of column
/// g.
__device__ inline void mma_tf32(float (&c)[4], Word const (&a)[4], Word const (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---------------------------------------------------------------- numbers

/// 2^x to 2 ulp; subnormal results are 0; 2^-inf = 0.
__device__ inline float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// The larger one; NaN if one is NaN.
__device__ inline float max(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
/// Rounds to the nearest tf32, ties away from zero.
__device__ inline Word to_tf32(float x) {
  Word y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}
__device__ inline Word to_bf16(float low, float high) {
  Word y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
__device__ inline Word to_fp16(float low, float high) {
  Word y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

}  // namespace ringattn::cuda::ptx
