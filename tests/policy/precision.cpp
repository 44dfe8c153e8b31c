// SPDX-License-Identifier: Apache-2.0
// Precisions, tiles, scores and the policy a user derives from: what the defaults are and what the concepts refuse.
#include <ringattn/policy.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace ringattn;

namespace {

struct NarrowAccumulator : Fp64 {
  using Accumulator = float;
};
struct HalfAccumulator : Fp16 {
  using Accumulator = Float16;
};
struct NarrowWire : Fp32 {
  using Wire = BFloat16;
};
struct ShortWire : Bf16 {
  using Wire = BFloat16;
};
struct Integers : Fp32 {
  using Element = int;
};
struct Minimal : Policy {
  using Mask = Causal;
  static constexpr int head_dim = 64;
};
struct Unequal : Minimal {
  using KvShard = Striped;
  static constexpr int value_dim = 32;
};
struct OtherRing : Minimal {
  using Shard = ZigZag;
  using KvShard = Striped;
  using Overlap = Serial;
};
struct OtherTiles : Minimal {
  using Tiles = FixedTiles<8, 16>;
};

}  // namespace

TEST_CASE("precision: never narrower in the middle") {
  CHECK(PrecisionPolicy<Fp64>);
  CHECK(PrecisionPolicy<Bf16>);
  CHECK(PrecisionPolicy<ShortWire>);  // as wide as the element: legal, and the user's choice
  CHECK_FALSE(PrecisionPolicy<NarrowAccumulator>);
  CHECK_FALSE(PrecisionPolicy<HalfAccumulator>);
  CHECK_FALSE(PrecisionPolicy<NarrowWire>);
  CHECK_FALSE(PrecisionPolicy<Integers>);
  std::vector<std::uint64_t> const all = {Fp64::fingerprint, Fp32::fingerprint, Bf16::fingerprint, Fp16::fingerprint};
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t j = 0; j < i; ++j) CHECK(all[i] != all[j]);
}

TEST_CASE("policy: defaults") {
  CHECK(std::is_same_v<KvShardOf<Minimal>, Contiguous>);
  CHECK(value_dim_of<Minimal> == 64);
  CHECK(std::is_same_v<KvShardOf<Unequal>, Striped>);
  CHECK(value_dim_of<Unequal> == 32);
  CHECK(std::is_same_v<Minimal::Precision, Fp32>);
  CHECK(detail::check_policy<Minimal>());
}

TEST_CASE("policy: kernels depend on six things and are shared otherwise") {
  CHECK(std::is_same_v<KernelOf<Minimal>, KernelOf<OtherRing>>);
  CHECK_FALSE(std::is_same_v<KernelOf<Minimal>, KernelOf<OtherTiles>>);
  CHECK(KernelOf<OtherTiles>::tile(0) == Tile{.q = 8, .kv = 16});
}

namespace {

struct ByPrecision {
  constexpr Tile operator()(int, int, int, int) const { return {.q = 16, .kv = 32}; }
  constexpr Tile operator()(int, int, int, int, std::type_identity<Fp16>) const { return {.q = 48, .kv = 64}; }
};

}  // namespace

TEST_CASE("tiles: a policy that looks at the precision is asked with it") {
  CHECK(Kernel<Fp16, Full, Plain, ByPrecision, 64, 64>::tile(0) == Tile{.q = 48, .kv = 64});
  CHECK(Kernel<Bf16, Full, Plain, ByPrecision, 64, 64>::tile(0) == Tile{.q = 16, .kv = 32});
}

TEST_CASE("tiles: positive for every format") {
  for (int bytes : {2, 4, 8})
    for (int dim : {8, 64, 256}) {
      Tile const t = DefaultTiles{}(0, dim, dim, bytes);
      CHECK(t.q > 0);
      CHECK(t.kv > 0);
    }
}

TEST_CASE("score: plain changes nothing") {
  CHECK(Plain{}.apply(1.5f, 0, 1, 2) == 1.5f);
  CHECK(Plain{}.slope(1.5, 0, 1, 2) == 1.0);
  CHECK(Plain::identity);
}
