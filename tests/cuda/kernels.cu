// SPDX-License-Identifier: Apache-2.0
// Every shipped kernel of one precision (RINGATTN_PRECISION) for one kind of card (RINGATTN_CARD: 80 or 86), for
// budgets.py; run, it prints what a block of each takes. With RINGATTN_SHAPES instead: other masks, and values narrower
// than keys.
#include <ringattn/cuda/sm80/attention.cuh>
#include <ringattn/cuda/sm80/attention_backward.cuh>
#include <ringattn/policy.hpp>

#include <cstdio>

using namespace ringattn;
namespace sm = ringattn::cuda::sm80;
constexpr int card = RINGATTN_CARD;

void const* volatile kept;
template <class Function> void keep(Function* f) { kept = reinterpret_cast<void const*>(f); }

/// Gradients by atomics, which are the same kernels but for one place: these stand for all.
template <class Mask, int head_dim> void atomic_kernel(char const* mask) {
  using K = Kernel<RINGATTN_PRECISION, Mask, Plain, DefaultTiles, head_dim, head_dim>;
  using B = sm::BackwardSizes<K, card>;
  keep(sm::attend_backward<K, card, sm::Adding::atomic>);
  std::printf("attend_backward_atomic_%s %d %d %zu %d %d\n", mask, head_dim, B::threads, size_t(B::shared), B::tile.q,
              B::tile.kv);
}

template <int head_dim> void kernels() {
  using K = Kernel<RINGATTN_PRECISION, Causal, Plain, DefaultTiles, head_dim, head_dim>;
  using F = sm::Sizes<K, card>;
  using B = sm::BackwardSizes<K, card>;
  keep(sm::attend<K, card>);
  keep(sm::finish<K, card>);
  keep(sm::attend_backward<K, card>);
  keep(sm::find_facts<K, card>);
  keep(sm::write_dq<K, card>);
  std::printf("attend %d %d %zu %d %d\n", head_dim, F::threads, size_t(F::shared), F::tile.q, F::tile.kv);
  if constexpr (std::is_same_v<RINGATTN_PRECISION, Bf16> && (head_dim == 64 || head_dim == 128)) {
    atomic_kernel<Causal, head_dim>("causal");
    atomic_kernel<Full, head_dim>("full");
  }
  std::printf("attend_backward %d %d %zu %d %d\n", head_dim, B::threads, size_t(B::shared), B::tile.q, B::tile.kv);
}

#ifdef RINGATTN_SHAPES
template <class Mask, int head_dim, int value_dim> void shape() {
  using K = Kernel<RINGATTN_PRECISION, Mask, Plain, DefaultTiles, head_dim, value_dim>;
  keep(sm::attend<K, card>);
  keep(sm::finish<K, card>);
  keep(sm::attend_backward<K, card>);
  keep(sm::find_facts<K, card>);
  keep(sm::write_dq<K, card>);
}
template <class Mask> void shapes() {
  shape<Mask, 64, 64>();
  shape<Mask, 128, 128>();
  shape<Mask, 192, 128>();
}

int main() {
  shapes<Full>();
  shapes<SlidingWindow>();
  shape<Causal, 192, 128>();
}
#else
int main() {
  kernels<32>();
  kernels<64>();
  kernels<96>();
  kernels<128>();
  kernels<192>();
  kernels<256>();
}
#endif
