// SPDX-License-Identifier: Apache-2.0
// One instruction after the other over edge cases and random operands, against the host. With `--print`, every result's
// bits as one line per instruction: what a card prints for the same program is what the emulator has to print.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <type_traits>

#include "check.cuh"

namespace {

bool print = false;

template <class T> std::vector<T> inputs() {
  std::vector<T> v;
  std::mt19937_64 random(11);
  if constexpr (std::is_floating_point_v<T>) {
    using L = std::numeric_limits<T>;
    for (T const x : {T(0), T(1), T(0.5), T(1.5), T(2.5), T(3), T(1e-3), T(1e9), T(3e9), T(1e20), L::min(),
                      L::denorm_min(), L::max(), L::epsilon(), L::infinity()}) {
      v.push_back(x);
      v.push_back(-x);
    }
    v.push_back(L::quiet_NaN());
    for (int i = 0; i < 65; ++i)
      v.push_back(static_cast<T>(
          std::ldexp(static_cast<double>(random() % 2000001) / 1e6 - 1, static_cast<int>(random() % 40) - 20)));
  } else {
    using L = std::numeric_limits<T>;
    for (T const x : {T(0), T(1), T(2), T(3), T(7), T(31), T(32), T(33), T(63), T(64), T(255), L::max(), L::min(),
                      T(L::max() - 1), T(-1), T(-2)})
      v.push_back(x);
    for (int i = 0; i < 80; ++i) v.push_back(static_cast<T>(random() >> random() % (8 * sizeof(T))));
  }
  return v;
}

template <class Case, class D, class S> __global__ void apply(S const* in, D* out, int n) {
  int const i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n * n) out[i] = Case::device(in[i % n], in[i / n], in[(i + i / n) % n]);
}

template <class T> bool same(T a, T b, double tolerance) {
  if (std::memcmp(&a, &b, sizeof a) == 0) return true;
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) && std::isnan(b)) return true;
    return tolerance > 0 &&
           std::fabs(static_cast<double>(a) - static_cast<double>(b)) <= tolerance * std::fabs(static_cast<double>(b));
  }
  return false;
}

template <class Case, class D, class S> void run(char const* name, double tolerance) {
  std::vector<S> const in = inputs<S>();
  int const n = static_cast<int>(in.size()), all = n * n;
  S* const device_in = device_copy(in);
  D* const device_out = device_array<D>(all);
  apply<Case, D, S><<<(all + 127) / 128, 128>>>(device_in, device_out, n);
  auto const out = host_copy(device_out, all);
  int wrong = 0;
  uint64_t hash = 14695981039346656037u;
  for (int i = 0; i < all; ++i) {
    S const a = in[i % n], b = in[i / n], c = in[(i + i / n) % n];
    D const expected = Case::host(a, b, c);
    unsigned char bytes[sizeof(D)];
    std::memcpy(bytes, &out[i], sizeof(D));
    for (unsigned char const byte : bytes) hash = (hash ^ byte) * 1099511628211u;
    if (!same(out[i], expected, tolerance) && ++wrong <= 3) {
      std::printf("%s(%.9g, %.9g, %.9g): %.9g, expected %.9g\n", name, static_cast<double>(a), static_cast<double>(b),
                  static_cast<double>(c), static_cast<double>(out[i]), static_cast<double>(expected));
    }
  }
  if (print) std::printf("%s %016llx\n", name, static_cast<unsigned long long>(hash));
  failures += wrong;
  CHECK_CUDA(cudaFree(device_in));
  CHECK_CUDA(cudaFree(device_out));
}

float rounded(double exact, int mode) {  // with a rounding mode of the host
  std::fesetround(mode);
  double const volatile v = exact;
  float const volatile r = static_cast<float>(v);
  std::fesetround(FE_TONEAREST);
  return r;
}
float flush(float a) { return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0f, a) : a; }
template <class D, class S> D saturated(S v) {  // to an integer
  if (std::isnan(v)) return 0;
  if (v <= static_cast<S>(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
  if (v >= static_cast<S>(std::numeric_limits<D>::max())) return std::numeric_limits<D>::max();
  return static_cast<D>(v);
}
uint32_t permuted(uint32_t a, uint32_t b, uint32_t c) {
  uint64_t const bytes = uint64_t{b} << 32 | a;
  uint32_t r = 0;
  for (int k = 0; k < 4; ++k) {
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (c >> 4 * k & 7)) & 255;
    if (c >> 4 * k & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << 8 * k;
  }
  return r;
}
int32_t field(int32_t a, uint32_t b, uint32_t c) {
  int const pos = b & 255, len = c & 255;
  if (len == 0) return 0;
  int const top = std::min(pos + len - 1, 31);
  int64_t const sign = a >> top & 1;
  int64_t r = 0;
  for (int k = 0; k < 32; ++k) r |= (k < len && pos + k < 32 ? int64_t{a >> (pos + k) & 1} : sign) << k;
  return static_cast<int32_t>(r);
}

}  // namespace

// A name for each line's type, since kernels cannot be instantiated with local types.
#define JOIN_(A, B) A##B
#define JOIN(A, B) JOIN_(A, B)
#define CASE(NAME, D, S, DEVICE, HOST, TOLERANCE) \
  struct JOIN(Case, __LINE__) {                   \
    static __device__ D device(S a, S b, S c) {   \
      D d = 0;                                    \
      (void)a, (void)b, (void)c;                  \
      DEVICE;                                     \
      return d;                                   \
    }                                             \
    static D host(S a, S b, S c) {                \
      (void)a, (void)b, (void)c;                  \
      return HOST;                                \
    }                                             \
  };                                              \
  bool const JOIN(listed, __LINE__) = list([] { run<JOIN(Case, __LINE__), D, S>(NAME, TOLERANCE); });
#define ASM1(TEXT, D, A) asm(TEXT " %0, %1;" : "=" D(d) : A(a))
#define ASM2(TEXT, D, A, B) asm(TEXT " %0, %1, %2;" : "=" D(d) : A(a), B(b))
#define ASM3(TEXT, D, A, B, C) asm(TEXT " %0, %1, %2, %3;" : "=" D(d) : A(a), B(b), C(c))

namespace {

std::vector<void (*)()>& cases() {
  static std::vector<void (*)()> all;
  return all;
}
bool list(void (*one)()) {
  cases().push_back(one);
  return true;
}

// clang-format off
using u64 = unsigned long long;
using s64 = long long;
CASE("add.s32", int, int, ASM2("add.s32", "r", "r", "r"), static_cast<int>(unsigned(a) + unsigned(b)), 0)
CASE("sub.u64", u64, u64, ASM2("sub.u64", "l", "l", "l"), a - b, 0)
CASE("mul.lo.s32", int, int, ASM2("mul.lo.s32", "r", "r", "r"), static_cast<int>(unsigned(a) * unsigned(b)), 0)
CASE("mul.hi.s32", int, int, ASM2("mul.hi.s32", "r", "r", "r"), static_cast<int>(s64{a} * b >> 32), 0)
CASE("mul.hi.u32", unsigned, unsigned, ASM2("mul.hi.u32", "r", "r", "r"), static_cast<unsigned>(u64{a} * b >> 32), 0)
CASE("mul.hi.u64", u64, u64, ASM2("mul.hi.u64", "l", "l", "l"), static_cast<u64>(static_cast<unsigned __int128>(a) * b >> 64), 0)
CASE("mul.wide.s32", s64, int, ASM2("mul.wide.s32", "l", "r", "r"), s64{a} * b, 0)
CASE("mul.wide.u32", u64, unsigned, ASM2("mul.wide.u32", "l", "r", "r"), u64{a} * b, 0)
CASE("mad.lo.s32", int, int, ASM3("mad.lo.s32", "r", "r", "r", "r"), static_cast<int>(unsigned(a) * unsigned(b) + unsigned(c)), 0)
CASE("mad.hi.u32", unsigned, unsigned, ASM3("mad.hi.u32", "r", "r", "r", "r"), static_cast<unsigned>(u64{a} * b >> 32) + c, 0)
CASE("div.s32", int, int, d = b ? a / (b == -1 ? 1 : b) : 0, b ? a / (b == -1 ? 1 : b) : 0, 0)
CASE("rem.u64", u64, u64, d = b ? a % b : 0, b ? a % b : 0, 0)
CASE("min.s32", int, int, ASM2("min.s32", "r", "r", "r"), std::min(a, b), 0)
CASE("max.u32", unsigned, unsigned, ASM2("max.u32", "r", "r", "r"), std::max(a, b), 0)
CASE("min.s64", s64, s64, ASM2("min.s64", "l", "l", "l"), std::min(a, b), 0)
CASE("abs.s32", int, int, ASM1("abs.s32", "r", "r"), a < 0 ? static_cast<int>(0u - unsigned(a)) : a, 0)
CASE("sad.u32", unsigned, unsigned, ASM3("sad.u32", "r", "r", "r", "r"), c + (a < b ? b - a : a - b), 0)
CASE("shl.b32", unsigned, unsigned, ASM2("shl.b32", "r", "r", "r"), b > 31 ? 0 : a << b, 0)
CASE("shr.u32", unsigned, unsigned, ASM2("shr.u32", "r", "r", "r"), b > 31 ? 0 : a >> b, 0)
CASE("shr.s32", int, int, ASM2("shr.s32", "r", "r", "r"), unsigned(b) > 31 ? (a < 0 ? -1 : 0) : a >> b, 0)
CASE("shf.l.wrap", unsigned, unsigned, ASM3("shf.l.wrap.b32", "r", "r", "r", "r"), static_cast<unsigned>((u64{b} << 32 | a) << (c & 31) >> 32), 0)
CASE("shf.r.clamp", unsigned, unsigned, ASM3("shf.r.clamp.b32", "r", "r", "r", "r"), static_cast<unsigned>((u64{b} << 32 | a) >> std::min(c, 32u)), 0)
CASE("lop3", unsigned, unsigned, asm("lop3.b32 %0, %1, %2, %3, 0xCA;" : "=r"(d) : "r"(a), "r"(b), "r"(c)), (a & b) | (~a & c), 0)
CASE("prmt", unsigned, unsigned, ASM3("prmt.b32", "r", "r", "r", "r"), permuted(a, b, c), 0)
CASE("bfe.s32", int, int, ASM3("bfe.s32", "r", "r", "r", "r"), field(a, b, c), 0)
CASE("bfi", unsigned, unsigned, asm("bfi.b32 %0, %1, %2, 5, 9;" : "=r"(d) : "r"(a), "r"(b)), (b & ~(511u << 5)) | (a & 511) << 5, 0)
CASE("popc", unsigned, unsigned, d = __popc(a), static_cast<unsigned>(__builtin_popcount(a)), 0)
CASE("clz.b64", unsigned, u64, d = __clzll(static_cast<s64>(a)), a ? static_cast<unsigned>(__builtin_clzll(a)) : 64u, 0)
CASE("brev", unsigned, unsigned, d = __brev(a), [&] { unsigned r = 0; for (int k = 0; k < 32; ++k) r |= (a >> k & 1) << (31 - k); return r; }(), 0)
CASE("bfind.s32", unsigned, int, ASM1("bfind.s32", "r", "r"), [&] { unsigned const v = a < 0 ? ~unsigned(a) : unsigned(a); return v ? 31u - static_cast<unsigned>(__builtin_clz(v)) : ~0u; }(), 0)
CASE("bfind.shiftamt", unsigned, unsigned, ASM1("bfind.shiftamt.u32", "r", "r"), a ? static_cast<unsigned>(__builtin_clz(a)) : ~0u, 0)
CASE("add.cc 64", u64, u64, asm("{ .reg .b32 a0, a1, b0, b1; mov.b64 {a0, a1}, %1; mov.b64 {b0, b1}, %2; add.cc.u32 a0, a0, b0; addc.u32 a1, a1, b1; mov.b64 %0, {a0, a1}; }" : "=l"(d) : "l"(a), "l"(b)), a + b, 0)
CASE("mad.cc 64", u64, u64, asm("{ .reg .u64 h, l; mad.lo.cc.u64 l, %1, %2, %3; madc.hi.u64 h, %1, %2, 0; xor.b64 %0, h, l; }" : "=l"(d) : "l"(a), "l"(b), "l"(c)), [&] { unsigned __int128 const r = static_cast<unsigned __int128>(a) * b + c; return static_cast<u64>(r >> 64) ^ static_cast<u64>(r); }(), 0)
CASE("cvt.s64.s32", s64, s64, asm("cvt.s64.s32 %0, %1;" : "=l"(d) : "r"(static_cast<int>(a))), static_cast<int>(a), 0)
CASE("cvt.u32.s8", unsigned, int, asm("cvt.s32.s8 %0, %1;" : "=r"(d) : "r"(a)), static_cast<unsigned>(static_cast<int8_t>(a)), 0)
CASE("cvt.sat.u8.s32", unsigned, int, asm("cvt.sat.u8.s32 %0, %1;" : "=r"(d) : "r"(a)), static_cast<unsigned>(std::min(std::max(a, 0), 255)), 0)
CASE("cvt.rn.f32.s64", float, s64, d = __ll2float_rn(a), static_cast<float>(a), 0)
CASE("cvt.rz.f32.u32", float, unsigned, d = __uint2float_rz(a), rounded(a, FE_TOWARDZERO), 0)
CASE("cvt.rp.f32.s32", float, int, d = __int2float_ru(a), rounded(a, FE_UPWARD), 0)
CASE("setp.lt.and", int, int, d = a < b && b < c ? 1 : 0, a < b && b < c, 0)

CASE("add.f32", float, float, ASM2("add.rn.f32", "f", "f", "f"), a + b, 0)
CASE("add.rz.f32", float, float, ASM2("add.rz.f32", "f", "f", "f"), rounded(double(a) + double(b), FE_TOWARDZERO), std::ldexp(1.0, -22))
CASE("mul.f32", float, float, ASM2("mul.rn.f32", "f", "f", "f"), a * b, 0)
CASE("mul.rm.f32", float, float, ASM2("mul.rm.f32", "f", "f", "f"), rounded(double(a) * double(b), FE_DOWNWARD), 0)
CASE("mul.ftz.f32", float, float, ASM2("mul.rn.ftz.f32", "f", "f", "f"), flush(flush(a) * flush(b)), 0)
CASE("fma.f32", float, float, ASM3("fma.rn.f32", "f", "f", "f", "f"), std::fma(a, b, c), 0)
CASE("fma.f64", double, double, ASM3("fma.rn.f64", "d", "d", "d", "d"), std::fma(a, b, c), 0)
CASE("div.f32", float, float, ASM2("div.rn.f32", "f", "f", "f"), a / b, 0)
CASE("div.f64", double, double, ASM2("div.rn.f64", "d", "d", "d"), a / b, 0)
CASE("sqrt.f32", float, float, ASM1("sqrt.rn.f32", "f", "f"), std::sqrt(a), 0)
CASE("rcp.f32", float, float, ASM1("rcp.rn.f32", "f", "f"), 1 / a, 0)
CASE("min.f32", float, float, ASM2("min.f32", "f", "f", "f"), std::isnan(a) ? b : std::isnan(b) ? a : a < b || (a == b && std::signbit(a)) ? a : b, 0)
CASE("max.NaN.f32", float, float, ASM2("max.NaN.f32", "f", "f", "f"), std::isnan(a) || std::isnan(b) ? NAN : a > b || (a == b && std::signbit(b)) ? a : b, 0)
CASE("ex2.approx", float, float, ASM1("ex2.approx.f32", "f", "f"), std::exp2(a), 1e-6)
CASE("ex2.approx.ftz", float, float, ASM1("ex2.approx.ftz.f32", "f", "f"), flush(std::exp2(flush(a))), 1e-6)
CASE("lg2.approx", float, float, ASM1("lg2.approx.f32", "f", "f"), std::log2(a), 1e-6)
CASE("rsqrt.approx", float, float, ASM1("rsqrt.approx.f32", "f", "f"), 1 / std::sqrt(a), 1e-6)
CASE("tanh.approx", float, float, ASM1("tanh.approx.f32", "f", "f"), std::tanh(a), 1e-3)
CASE("expf", float, float, d = expf(a), std::exp(a), 1e-6)
CASE("__expf", float, float, d = __expf(a), std::exp(a), 1e-4)
CASE("logf", float, float, d = logf(a), std::log(a), 1e-6)
CASE("exp", double, double, d = exp(a), std::exp(a), 1e-15)
CASE("sat", float, float, d = __saturatef(a), std::isnan(a) ? 0 : std::min(std::max(a + 0.0f, 0.0f), 1.0f), 0)
CASE("setp.gtu", int, float, d = !(a <= b) ? 1 : 0, !(a <= b), 0)
CASE("setp.num", int, float, asm("{ .reg .pred p; setp.num.f32 p, %1, %2; selp.s32 %0, 1, 0, p; }" : "=r"(d) : "f"(a), "f"(b)), !std::isnan(a) && !std::isnan(b), 0)
CASE("cvt.rni.s32.f32", int, float, d = __float2int_rn(a), (saturated<int, double>(std::nearbyint(a))), 0)
CASE("cvt.rzi.u32.f32", unsigned, float, d = __float2uint_rz(a), (saturated<unsigned, double>(std::trunc(a))), 0)
CASE("cvt.rmi.s64.f64", long long, double, asm("cvt.rmi.s64.f64 %0, %1;" : "=l"(d) : "d"(std::isnan(a) ? 0.0 : a)) , std::isnan(a) ? 0 : (saturated<long long, double>(std::floor(a))), 0)
CASE("cvt.rpi.f32.f32", float, float, d = ceilf(a), std::ceil(a), 0)
CASE("cvt.rn.f32.f64", float, double, d = static_cast<float>(a), static_cast<float>(a), 0)
CASE("cvt.rz.f32.f64", float, double, d = __double2float_rz(a), rounded(a, FE_TOWARDZERO), 0)
CASE("cvt.f64.f32", double, float, d = static_cast<double>(a), static_cast<double>(a), 0)

// The host halves of cuda_bf16.h and cuda_fp16.h are NVIDIA's own; they are the expectation.
CASE("cvt.rn.bf16.f32", float, float, d = __bfloat162float(__float2bfloat16_rn(a)), __bfloat162float(__float2bfloat16_rn(a)), 0)
CASE("cvt.rz.bf16.f32", float, float, d = __bfloat162float(__float2bfloat16_rz(a)), __bfloat162float(__float2bfloat16_rz(a)), 0)
CASE("cvt.rn.f16.f32", float, float, d = __half2float(__float2half_rn(a)), __half2float(__float2half_rn(a)), 0)
CASE("cvt.rz.f16.f32", float, float, d = __half2float(__float2half_rz(a)), __half2float(__float2half_rz(a)), 0)
CASE("cvt.rp.f16.f32", float, float, d = __half2float(__float2half_ru(a)), __half2float(__float2half_ru(a)), 0)
CASE("cvt.rn.bf16x2", unsigned, float, __nv_bfloat162 const t = __floats2bfloat162_rn(a, b); memcpy(&d, &t, 4), [&] { __nv_bfloat162 const t = __floats2bfloat162_rn(a, b); unsigned bits; std::memcpy(&bits, &t, 4); return bits; }(), 0)
CASE("fma.f16", float, float, d = __half2float(__hfma(__float2half(a), __float2half(b), __float2half(c))), __half2float(__double2half(std::fma(double(__half2float(__float2half(a))), double(__half2float(__float2half(b))), double(__half2float(__float2half(c)))))), 0)
CASE("fma.bf16", float, float, d = __bfloat162float(__hfma(__float2bfloat16(a), __float2bfloat16(b), __float2bfloat16(c))), __bfloat162float(__double2bfloat16(std::fma(double(__bfloat162float(__float2bfloat16(a))), double(__bfloat162float(__float2bfloat16(b))), double(__bfloat162float(__float2bfloat16(c)))))), 0)
CASE("max.bf16x2", float, float, d = __low2float(__hmax2(__floats2bfloat162_rn(a, b), __floats2bfloat162_rn(b, a))), __bfloat162float(__hmax(__float2bfloat16(a), __float2bfloat16(b))), 0)
CASE("cvt.rna.tf32", unsigned, float, asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(d) : "f"(a)), [&] { unsigned bits; std::memcpy(&bits, &a, 4); if (std::isnan(a)) return 0x7fffffffu; if (std::isinf(a)) return bits; return (bits + 0x1000) & ~0x1fffu; }(), 0)
// clang-format on

}  // namespace

int main(int argc, char** argv) {
  print = argc > 1 && std::strcmp(argv[1], "--print") == 0;
  for (auto const one : cases()) one();
  std::printf("%d failures\n", failures);
  return failures != 0;
}
