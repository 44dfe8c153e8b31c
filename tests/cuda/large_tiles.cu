// SPDX-License-Identifier: Apache-2.0
// Tiles that take more shared memory than every card has: right where the card has it, a typed error where not. With
// RINGATTN_TEST_MORE they also compute.
#include <doctest/doctest.h>
#include <ringattn/cuda/backend.cuh>

#include "ring.cuh"

using namespace ringattn;
using namespace ringattn::test;

constexpr int of_8_6 = 99 * 1024, of_8_0 = 163 * 1024;

/// 128.5 KB forward and 146 KB backward at head_dim 128 in 16 bits.
struct LargeTiles : FixedTiles<128, 192> {
  constexpr Tile backward(int, int, int, int) const { return {.q = 64, .kv = 128, .stages = 2, .warps = 8}; }
};

/// 32 keys a warp, P in shared memory: 161.5 KB, and 193.5 KB of a card that has 227.
struct ManyKeys : LargeTiles {
  constexpr Tile backward(int, int, int, int) const {
    return {.q = 64, .kv = 128, .stages = 2, .warps = 8, .keys_per_warp = 32};
  }
};
struct ManyKeysAndQueries : LargeTiles {
  constexpr Tile backward(int, int, int, int) const {
    return {.q = 128, .kv = 128, .stages = 1, .warps = 8, .keys_per_warp = 32};
  }
};

template <class Tiles_> struct With : Policy {
  using Mask = RingMask;
  using Shard = AnyShard;
  using Precision = Bf16;
  using Tiles = Tiles_;
  using Backend = Cuda<>;
  using Communicator = CudaPeer;
  static constexpr int head_dim = 128;
};
using LargeKernel = KernelOf<With<LargeTiles>>;

static_assert(cuda::sm80::Sizes<LargeKernel, 80>::shared > of_8_6 &&
              cuda::sm80::Sizes<LargeKernel, 80>::shared <= of_8_0);
static_assert(cuda::sm80::BackwardSizes<LargeKernel, 80>::shared > of_8_6 &&
              cuda::sm80::BackwardSizes<LargeKernel, 80>::shared <= of_8_0);
static_assert(cuda::sm80::BackwardSizes<KernelOf<With<ManyKeys>>, 80>::shared <= of_8_0 &&
              cuda::sm80::BackwardSizes<KernelOf<With<ManyKeysAndQueries>>, 80>::shared > of_8_0);

namespace {

template <class F> std::string thrown_by(F f) {
  try {
    f();
  } catch (Error const& e) {
    CHECK(e.code() == ErrorCode::invalid_argument);
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("tiles above 99 KB: a card that has less says so before it does anything") {
  cuda::Launch const small{nullptr, 0, of_8_6, 4};
  std::string const forward = thrown_by([&] { cuda::sm80::Forward<LargeKernel>::begin({}, small); });
  CHECK_MESSAGE(forward.find(std::to_string(cuda::sm80::Sizes<LargeKernel, 80>::shared)) != std::string::npos, forward);
  std::string const backward = thrown_by([&] { cuda::sm80::Backward<LargeKernel>::begin({}, small); });
  CHECK_MESSAGE(backward.find(std::to_string(cuda::sm80::BackwardSizes<LargeKernel, 80>::shared)) != std::string::npos,
                backward);
  using Largest = KernelOf<With<ManyKeysAndQueries>>;
  cuda::Launch const larger{nullptr, 0, of_8_0, 4};
  std::string const largest = thrown_by([&] { cuda::sm80::Backward<Largest>::begin({}, larger); });
  CHECK_MESSAGE(largest.find(std::to_string(cuda::sm80::BackwardSizes<Largest, 80>::shared)) != std::string::npos,
                largest);
}

#ifdef RINGATTN_TEST_MORE
TEST_CASE_TEMPLATE("tiles above 99 KB compute where the card has the memory", Tiles, LargeTiles, ManyKeys,
                   ManyKeysAndQueries) {
  using Large = With<Tiles>;
  int limit = 0;
  REQUIRE(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) == cudaSuccess);
  if (cuda::sm80::BackwardSizes<KernelOf<Large>, 80>::shared > limit) {
    MESSAGE("this card has less shared memory");
    return;
  }
  PlanOptions<Large> o{.problem = {.batch = 1, .seq = 420, .heads = 2, .kv_heads = 1}};
  o.mask.kind = RingMask::causal;
  o.shard = o.kv_shard = {AnyShard::zigzag};
  auto const setup = make_setup<Large>(o, InputClass::normal, 5);
  Verdict const verdict = Oracle<Bf16>(setup).judge(run_device_ring<Large>(2, setup, false));
  CHECK_MESSAGE(verdict.ok(), verdict.text());
}
#endif
