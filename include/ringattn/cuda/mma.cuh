// SPDX-License-Identifier: Apache-2.0
// How a precision multiplies on tensor cores: fragments of 16 x depth (A) and depth x 8 (B), c += A B in fp32.
//
// `a`, `b` make fragments of words as they lie in memory; a<true> and b<true> take finite numbers only. `of_sums` makes
// the A fragment of an accumulator, so that one product's result is the next one's left factor without leaving the
// registers. For 32-bit elements it takes the depth in pairs: slot t is column 2t, slot t + 4 column 2t + 1. What it is
// multiplied with must be loaded in the same order (product.cuh: ColumnsAsA, ColumnsAsB do so). `of_packed` takes the
// weights of rows: where one is NaN or infinite its row ends as NaN, so that they may be taken as finite.
#pragma once

#include "../policy/precision.hpp"
#include "ptx.cuh"

namespace ringattn::inline RINGATTN_ABI::cuda::inline RINGATTN_CARDS {

using ptx::Word;

template <class Precision> struct Mma;

namespace detail {

/// The two 16-bit formats: m16n8k16.
template <class Format> struct Mma16 : Format {
  static constexpr int depth = 16;
  static constexpr bool split = false;
  struct A {
    Word r[4];
  };
  struct B {
    Word r[2];
  };

  template <bool finite = false> __device__ static A a(Word const (&r)[4]) { return {{r[0], r[1], r[2], r[3]}}; }
  template <bool finite = false> __device__ static B b(Word r0, Word r1) { return {{r0, r1}}; }
  /// The 16 columns that start at accumulator tile 2k.
  template <bool finite = false, int n> __device__ static A of_sums(float const (&c)[n][4], int k) {
    float const(&x)[4] = c[2 * k], (&y)[4] = c[2 * k + 1];
    return {{Format::pack(x[0], x[1]), Format::pack(x[2], x[3]), Format::pack(y[0], y[1]), Format::pack(y[2], y[3])}};
  }
  /// Two weights of a row that will be factors only: rounded, both in the register of the first.
  __device__ static void pack(float& x, float y) { x = __uint_as_float(Format::pack(x, y)); }
  template <int n> __device__ static A of_packed(float const (&c)[n][4], int k) {
    float const(&x)[4] = c[2 * k], (&y)[4] = c[2 * k + 1];
    return {{__float_as_uint(x[0]), __float_as_uint(x[2]), __float_as_uint(y[0]), __float_as_uint(y[2])}};
  }
  __device__ static void multiply(float (&c)[4], A const& a, B const& b) { Format::mma(c, a.r, b.r); }

  /// Is one of the two elements infinite or NaN?
  __device__ static bool special(Word x) {
    Word const e = Format::exponent;
    return (x & e) == e || ((x >> 16) & e) == e;
  }
  /// The word with 0 for its special elements.
  __device__ static Word finite(Word x) {
    Word const e = Format::exponent;
    return ((x & e) == e ? 0 : x & 0xffffu) | (((x >> 16) & e) == e ? 0 : x & 0xffff0000u);
  }
  __device__ static Word negative(Word x) { return x ^ 0x80008000u; }
  /// The element of a word that stands in this column of a tile.
  __device__ static float element(Word x, int column) {
    typename Format::Element e;
    e.bits = static_cast<std::uint16_t>(x >> (column % 2 * 16));
    return float(e);
  }
};

struct Bf16Format {
  using Element = BFloat16;
  static constexpr Word exponent = 0x7f80;
  __device__ static Word pack(float low, float high) { return ptx::to_bf16(low, high); }
  __device__ static void mma(float (&c)[4], Word const (&a)[4], Word const (&b)[2]) { ptx::mma_bf16(c, a, b); }
};
struct Fp16Format {
  using Element = Float16;
  static constexpr Word exponent = 0x7c00;
  __device__ static Word pack(float low, float high) { return ptx::to_fp16(low, high); }
  __device__ static void mma(float (&c)[4], Word const (&a)[4], Word const (&b)[2]) { ptx::mma_fp16(c, a, b); }
};

/// fp32 in memory: m16n8k8.
struct Mma32 {
  using Element = float;
  static constexpr int depth = 8;
  static constexpr Word exponent = 0x7f800000;

  __device__ static void pack(float&, float) {}
  __device__ static bool special(Word x) { return (x & exponent) == exponent; }
  __device__ static Word finite(Word x) { return special(x) ? 0 : x; }
  __device__ static Word negative(Word x) { return x ^ 0x80000000u; }
  __device__ static float element(Word x, int) { return __uint_as_float(x); }
  /// ptx::to_tf32 without its two instructions that let NaN through, half of all: half of the last place is added.
  __device__ static Word finite_to_tf32(float x) { return (__float_as_uint(x) + 0x1000u) & 0xffffe000u; }
};

}  // namespace detail

template <> struct Mma<Bf16> : detail::Mma16<detail::Bf16Format> {};
template <> struct Mma<Fp16> : detail::Mma16<detail::Fp16Format> {};

template <> struct Mma<Tf32> : detail::Mma32 {
  static constexpr bool split = false;
  struct A {
    Word r[4];
  };
  struct B {
    Word r[2];
  };

  template <bool finite = false> __device__ static A a(Word const (&r)[4]) {
    return {{round<finite>(r[0]), round<finite>(r[1]), round<finite>(r[2]), round<finite>(r[3])}};
  }
  template <bool finite = false> __device__ static B b(Word r0, Word r1) {
    return {{round<finite>(r0), round<finite>(r1)}};
  }
  /// The 8 columns of accumulator tile k, in pairs.
  template <bool finite = false, int n> __device__ static A of_sums(float const (&c)[n][4], int k) {
    float const(&x)[4] = c[k];
    Word const r[4] = {__float_as_uint(x[0]), __float_as_uint(x[2]), __float_as_uint(x[1]), __float_as_uint(x[3])};
    return a<finite>(r);
  }
  template <int n> __device__ static A of_packed(float const (&c)[n][4], int k) { return of_sums<true>(c, k); }
  __device__ static void multiply(float (&c)[4], A const& a, B const& b) { ptx::mma_tf32(c, a.r, b.r); }

 private:
  template <bool finite = false> __device__ static Word round(Word x) {
    return finite ? finite_to_tf32(__uint_as_float(x)) : ptx::to_tf32(__uint_as_float(x));
  }
};

/// 3xTF32: x = high + low, both tf32, and a b = high high + high low + low high, to 2^-21 of |a| |b|.
///
/// An infinite factor makes the small products NaN (0 * inf) where the product is infinite. `multiply` with `low` keeps
/// them apart, so that the caller can leave them out (product.cuh: multiply_scores); the other one is for finite
/// factors.
template <> struct Mma<Fp32> : detail::Mma32 {
  static constexpr bool split = true;
  struct A {
    Word high[4], low[4];
  };
  struct B {
    Word high[2], low[2];
  };

  template <bool finite = false> __device__ static A a(Word const (&r)[4]) {
    A x;
#pragma unroll
    for (int i = 0; i < 4; ++i) divide<finite>(__uint_as_float(r[i]), x.high[i], x.low[i]);
    return x;
  }
  template <bool finite = false> __device__ static B b(Word r0, Word r1) {
    B x;
    divide<finite>(__uint_as_float(r0), x.high[0], x.low[0]);
    divide<finite>(__uint_as_float(r1), x.high[1], x.low[1]);
    return x;
  }
  /// The 8 columns of accumulator tile k, in pairs.
  template <bool finite = false, int n> __device__ static A of_sums(float const (&c)[n][4], int k) {
    A x;
#pragma unroll
    for (int i = 0; i < 4; ++i) divide<finite>(c[k][(i & 1) * 2 + (i >> 1)], x.high[i], x.low[i]);
    return x;
  }
  template <int n> __device__ static A of_packed(float const (&c)[n][4], int k) { return of_sums<true>(c, k); }
  __device__ static void multiply(float (&c)[4], float (&low)[4], A const& a, B const& b) {
    ptx::mma_tf32(low, a.low, b.high);
    ptx::mma_tf32(low, a.high, b.low);
    ptx::mma_tf32(c, a.high, b.high);
  }
  __device__ static void multiply(float (&c)[4], A const& a, B const& b) { multiply(c, c, a, b); }

 private:
  template <bool finite = false> __device__ static void divide(float x, Word& high, Word& low) {
    high = finite ? finite_to_tf32(x) : ptx::to_tf32(x);
    float const rest = x - __uint_as_float(high);
    low = finite ? finite_to_tf32(rest) : ptx::to_tf32(rest);
  }
};

}  // namespace ringattn::cuda
