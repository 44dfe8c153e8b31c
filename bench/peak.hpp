// SPDX-License-Identifier: Apache-2.0
// What the multipliers of this machine do at most, measured now: the 100 % of the benchmarks' "percent of peak".
//
// The loops are assembly, because compilers spill a loop over an array of accumulators, which then measures the store
// buffer. They touch registers only. The instruction set is that of the compiler's target flags, as in the kernels.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <ringattn/cpu/simd/tiles.hpp>
#include <thread>
#include <vector>

namespace bench {

enum class Unit { fp32, fp64, bf16 };  ///< which multiplier

inline char const* isa_name() {
#if RINGATTN_AMX
  return "avx512+bf16+amx";
#elif defined(__AVX512F__) && defined(__AVX512BF16__)
  return "avx512+bf16";
#elif defined(__AVX512F__)
  return "avx512";
#elif defined(__AVX2__) && defined(__FMA__)
  return "avx2";
#else
  return "portable";
#endif
}

namespace detail {

// Twelve or more independent sums hide the latency of two units (4 cycles for FMA, 6 for the bf16 dot).
#if defined(__AVX512F__)
#define BENCH_LIST "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,30,31"
#define BENCH_SUMS "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23"
#define BENCH_CLOBBER                                                                                                 \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
      "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30", "xmm31", "cc"
#define BENCH_LOOP(name, instruction, flops_each)                                                                    \
  inline double name(long rounds) {                                                                                  \
    long left = rounds;                                                                                              \
    asm volatile(".irp r," BENCH_LIST                                                                                \
                 "\n vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n .endr\n"                                                  \
                 "1:\n .irp r," BENCH_SUMS "\n " instruction " %%zmm30, %%zmm31, %%zmm\\r\n .endr\n dec %0\n jne 1b" \
                 : "+r"(left)                                                                                        \
                 :                                                                                                   \
                 : BENCH_CLOBBER);                                                                                   \
    return double(rounds) * 24 * flops_each;                                                                         \
  }
BENCH_LOOP(loop_fp32, "vfmadd231ps", 32)
BENCH_LOOP(loop_fp64, "vfmadd231pd", 16)
#if RINGATTN_AMX
/// Six matrix registers of sums, in a quarter of the rounds: a product takes 16 cycles.
inline double loop_bf16(long rounds) {
  [[maybe_unused]] static bool const granted = ringattn::simd::tiles_granted();
  ringattn::simd::TileScope const registers;
  long left = (rounds + 3) / 4;
  double const flops = double(left) * 6 * 2 * 16 * 16 * 32;
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7\n tilezero %%tmm\\r\n .endr\n"
      "1:\n .irp r,0,1,2,3,4,5\n tdpbf16ps %%tmm7, %%tmm6, %%tmm\\r\n .endr\n dec %0\n jne 1b"
      : "+r"(left)
      :
      : "cc");
  return flops;
}
#elif defined(__AVX512BF16__)
BENCH_LOOP(loop_bf16, "vdpbf16ps", 64)
#else
inline double loop_bf16(long rounds) { return loop_fp32(rounds); }  // bf16 is widened, then multiplied as fp32
#endif
#elif defined(__AVX2__) && defined(__FMA__)
#define BENCH_LIST "0,1,2,3,4,5,6,7,8,9,10,11,14,15"
#define BENCH_SUMS "0,1,2,3,4,5,6,7,8,9,10,11"
#define BENCH_CLOBBER                                                                                                 \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", "xmm15", \
      "cc"
#define BENCH_LOOP(name, instruction, flops_each)                                                                    \
  inline double name(long rounds) {                                                                                  \
    long left = rounds;                                                                                              \
    asm volatile(".irp r," BENCH_LIST                                                                                \
                 "\n vxorps %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"                                                  \
                 "1:\n .irp r," BENCH_SUMS "\n " instruction " %%ymm14, %%ymm15, %%ymm\\r\n .endr\n dec %0\n jne 1b" \
                 : "+r"(left)                                                                                        \
                 :                                                                                                   \
                 : BENCH_CLOBBER);                                                                                   \
    return double(rounds) * 12 * flops_each;                                                                         \
  }
BENCH_LOOP(loop_fp32, "vfmadd231ps", 16)
BENCH_LOOP(loop_fp64, "vfmadd231pd", 8)
inline double loop_bf16(long rounds) { return loop_fp32(rounds); }
#else
/// Multiply and add of 16-byte vectors: named sums stay in registers, and the barrier keeps the loop.
template <class T> double loop_portable(long rounds) {
  typedef T Vector __attribute__((vector_size(16)));
  Vector a{}, b{}, s0{}, s1{}, s2{}, s3{}, s4{}, s5{}, s6{}, s7{}, s8{}, s9{}, s10{}, s11{};
  for (long i = 0; i < rounds; ++i) {
    asm volatile("" : "+m"(a), "+m"(b));
    Vector const x = a, y = b;
    s0 = s0 * x + y, s1 = s1 * x + y, s2 = s2 * x + y, s3 = s3 * x + y;
    s4 = s4 * x + y, s5 = s5 * x + y, s6 = s6 * x + y, s7 = s7 * x + y;
    s8 = s8 * x + y, s9 = s9 * x + y, s10 = s10 * x + y, s11 = s11 * x + y;
  }
  Vector sum = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9 + s10 + s11;
  asm volatile("" : "+m"(sum));
  return double(rounds) * 12 * 2 * double(16 / sizeof(T));
}
inline double loop_fp32(long rounds) { return loop_portable<float>(rounds); }
inline double loop_fp64(long rounds) { return loop_portable<double>(rounds); }
inline double loop_bf16(long rounds) { return loop_fp32(rounds); }
#endif
#if defined(BENCH_LOOP)
#undef BENCH_LOOP
#undef BENCH_LIST
#undef BENCH_SUMS
#undef BENCH_CLOBBER
#endif

inline double loop(Unit unit, long rounds) {
  if (unit == Unit::fp64) return loop_fp64(rounds);
  return unit == Unit::bf16 ? loop_bf16(rounds) : loop_fp32(rounds);
}

/// The best of three bursts of about a millisecond: another program's time slice only ever makes a burst slower.
inline double burst_gflops(Unit unit) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int i = 0; i < 3; ++i) {
    long const rounds = 100'000;
    auto const start = Clock::now();
    double const flops = loop(unit, rounds);
    best = std::max(best, flops / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best * 1e-9;
}

}  // namespace detail

/// GFLOP/s of `threads` threads at once, all together.
inline double peak_gflops(Unit unit, int threads) {
  if (threads == 1) return detail::burst_gflops(unit);
  std::atomic<int> waiting{threads};
  std::vector<double> rate(static_cast<size_t>(threads));
  std::vector<std::thread> pool;
  for (double& r : rate)
    pool.emplace_back([&] {
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
      r = detail::burst_gflops(unit);
    });
  for (auto& t : pool) t.join();
  double sum = 0;
  for (double r : rate) sum += r;
  return sum;
}

/// GB/s at which one thread reads memory that no cache holds: the slope of the roofline.
inline double read_gigabytes_per_second() {
  using Clock = std::chrono::steady_clock;
  std::vector<std::uint64_t> memory(size_t(1) << 25, 1);  // 256 MiB
  double best = 0;
  for (int i = 0; i < 3; ++i) {
    auto const start = Clock::now();
    std::uint64_t sum = 0;
    for (std::uint64_t x : memory) sum += x;
    asm volatile("" : : "r"(sum));
    best = std::max(best, double(memory.size() * 8) / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best * 1e-9;
}

}  // namespace bench
