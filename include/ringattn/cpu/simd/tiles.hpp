// SPDX-License-Identifier: Apache-2.0
// Matrix registers (AMX): eight of 16 rows of 64 bytes. One instruction adds the product of 16 rows of 32 bfloat16 and
// 16 columns of as many to 16 rows of 16 floats.
//
// A thread has to say what shape its registers have before it uses them, and a process has to ask the operating system.
// The instructions are assembly: intrinsics want the registers' numbers as literals, and GCC 12's loads do not tell the
// compiler that they read memory.
#pragma once

#include <cstdint>

#include "../../config.hpp"

namespace ringattn::inline RINGATTN_ABI::simd {

#if RINGATTN_AMX

inline constexpr bool has_tiles = true;
inline constexpr int tile_side = 16;   ///< rows of a matrix register, and 32-bit columns
inline constexpr int tile_steps = 16;  ///< pairs of a sum that one instruction takes

/// Registers by number; strides in bytes.
template <int t> RINGATTN_INLINE void tile_zero() { asm volatile("tilezero %%tmm%c0" : : "i"(t)); }
template <int t> RINGATTN_INLINE void tile_load(void const* p, std::int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(t) : "memory");
}
template <int t> RINGATTN_INLINE void tile_store(void* p, std::int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(t) : "memory");
}
/// c[i][j] += sum over k of a[i][k] b[k][j], k counting pairs: two chains of fma from 0, of the pairs' first numbers
/// and of their second ones, whose sum is then added to c. Subnormals are taken for 0; rounded to nearest, whatever the
/// mode.
template <int c, int a, int b> RINGATTN_INLINE void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

/// The calling thread's matrix registers have their full size while this lives; then they are as they were, but empty.
class TileScope {
 public:
  TileScope() {
    Shape all;
    asm volatile("sttilecfg %0" : "=m"(before_));
    asm volatile("ldtilecfg %0" : : "m"(all));
  }
  ~TileScope() {
    if (before_.palette == 0)
      asm volatile("tilerelease");
    else
      asm volatile("ldtilecfg %0" : : "m"(before_));
  }
  TileScope(TileScope const&) = delete;
  TileScope& operator=(TileScope const&) = delete;

 private:
  /// What LDTILECFG reads.
  struct alignas(64) Shape {
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  Shape before_;
};

#else

inline constexpr bool has_tiles = false;
inline constexpr int tile_side = 1, tile_steps = 1;
class TileScope;

#endif

}  // namespace ringattn::simd
