// SPDX-License-Identifier: Apache-2.0
// Gradients summed by atomics: right to rounding, and everything but dQ with the bits of the ordered sums. With
// RINGATTN_TEST_MORE also other precisions, head_dims and rings.
#include <doctest/doctest.h>
#include <ringattn/cuda/backend.cuh>

#include "ring.cuh"

using namespace ringattn;
using namespace ringattn::test;

namespace {

template <class Precision_, int head_dim_, class Gradients> struct Choice : Policy {
  using Mask = RingMask;
  using Shard = AnyShard;
  using Precision = Precision_;
  using Backend = Cuda<sm80, Gradients>;
  using Communicator = CudaPeer;
  static constexpr int head_dim = head_dim_;
};

/// Enough keys for some blocks to meet at the same queries.
template <class Precision, int head_dim> void check(int ranks, int mask, int64_t seq) {
  CAPTURE(head_dim);
  CAPTURE(ranks);
  CAPTURE(mask);
  using Ordered = Choice<Precision, head_dim, OrderedGradients>;
  using Atomic = Choice<Precision, head_dim, AtomicGradients>;
  PlanOptions<Ordered> o{.problem = {.batch = 1, .seq = seq, .heads = 2, .kv_heads = 1}};
  o.mask = {mask, {}, {.left = seq / 3}};
  o.shard = o.kv_shard = {AnyShard::zigzag};
  auto const setup = make_setup<Ordered>(o, InputClass::normal, 21);
  auto const ordered = run_device_ring<Ordered>(ranks, setup, false);
  auto atomic = run_device_ring<Atomic>(ranks, setup_over<Atomic>(setup), false);
  Verdict const verdict = Oracle<Precision>(setup).judge(atomic);
  CHECK_MESSAGE(verdict.ok(), verdict.text());
  for (size_t r = 0; r < ordered.size(); ++r) {
    atomic[r].dq = ordered[r].dq;
    CHECK(same_bits(atomic[r], ordered[r]));
  }
}

}  // namespace

TEST_CASE("atomic gradients: dQ is right to rounding, all else bitwise what it is without them") {
  check<Bf16, 64>(2, RingMask::causal, 330);
#ifdef RINGATTN_TEST_MORE
  for (int mask : {RingMask::full, RingMask::window}) {
    check<Bf16, 64>(1, mask, 700);
    check<Bf16, 128>(3, mask, 500);
    check<Fp32, 64>(2, mask, 300);
    check<Fp16, 256>(2, mask, 200);
  }
#endif
}
