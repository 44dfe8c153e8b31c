// SPDX-License-Identifier: Apache-2.0
// Instantiates the grids of tiles for one precision (BENCH_PRECISION) and head_dim (BENCH_HEAD_DIM); BENCH_TILES takes
// so many of each grid only.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error \
    "bench/tune_cuda: kernels need compute capability 8.0; where this machine has no card, name one: -Dtune_cuda_arch=sm_90"
#endif
#include <ringattn/comm/solo.hpp>

#include <memory>
#include <utility>

#include "gpu_timing.cuh"
#include "tune_cuda_case.hpp"

#ifndef BENCH_TILES
#define BENCH_TILES 1000
#endif

namespace bench {

/// Tiles that fit on some card, by the same arithmetic that the library asserts; the default is a candidate anyway.
struct Grid {
  Tile tile[128] = {};
  int count = 0;
};
template <class Needs> constexpr Grid grid_of(int head_dim, int element_bytes, Tile default_tile) {
  constexpr bool backward = std::is_same_v<Needs, budget::Backward>;
  Grid g;
  for (int keys : {32, 0})
    for (int q : {128, 64, 32})
      for (int kv : {128, 64, 96, 32})
        for (int warps : {4, 8})
          for (int stages : {1, 2}) {
            if (keys > 0 && (!backward || warps * keys <= kv || q < 64 || kv < 64)) continue;  // as 0, or idle warps
            Tile const t{.q = q, .kv = kv, .stages = stages, .warps = warps, .keys_per_warp = keys};
            bool const fits = Needs{t, head_dim, head_dim, element_bytes}.fits(budget::most_shared_bytes);
            if (fits && !(t == default_tile) && g.count < BENCH_TILES) g.tile[g.count++] = t;
          }
  return g;
}
template <class Precision, int head_dim> struct Grids {
  static constexpr int bytes = int(sizeof(typename Precision::Element));
  static constexpr Grid forward =
      grid_of<budget::Forward>(head_dim, bytes, DefaultTiles{}(80, head_dim, head_dim, bytes));
  static constexpr Grid backward = grid_of<budget::Backward>(
      head_dim, bytes, budget::backward_tile(budget::shared_bytes_of(80), head_dim, head_dim, bytes));
};

template <class Grids, int i> struct ForwardTiles {
  constexpr Tile operator()(int, int, int, int) const { return Grids::forward.tile[i]; }
};
template <class Grids, int i> struct BackwardTiles : DefaultTiles {
  constexpr Tile backward(int, int, int, int) const { return Grids::backward.tile[i]; }
};

template <class Precision_, int head_dim_, class Mask_, class Tiles_ = DefaultTiles> struct Pipeline : Policy {
  using Precision = Precision_;
  using Mask = Mask_;
  using Tiles = Tiles_;
  using Backend = Cuda<>;
  using Communicator = Solo;
  static constexpr int head_dim = head_dim_;
};

/// A card and a problem's tensors, which all candidates share.
template <class Element> struct Operands {
  explicit Operands(CudaShape const& s) : shape(s), backend({.device = s.device}) {
    cuda::check(cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, s.device), "limit");
  }
  CudaShape shape;
  Cuda<> backend;
  int shared_limit = 0;
  std::unique_ptr<Tensors<Element>> tensors;
};

template <class P, bool backward, class Shared> double time_one(Shared const& o, int repeat) {
  Solo comm;
  RingAttention<P> ring(o->backend, comm, {.problem = o->shape.problem});
  return milliseconds(o->backend.stream(), 1, repeat, [&] {
    if constexpr (backward)
      o->tensors->backward(ring);
    else
      o->tensors->forward(ring);
  });
}

/// The candidates of one precision, head_dim and mask.
template <class Precision, int head_dim, class Mask> struct Candidates {
  using Element = typename Precision::Element;
  template <class Tiles> using With = Pipeline<Precision, head_dim, Mask, Tiles>;
  using Grids = bench::Grids<Precision, head_dim>;

  std::shared_ptr<Operands<Element>> operands;
  std::vector<CudaCandidate> list{};

  template <class P, bool backward> void add(Tile tile, int shared) {
    if (shared > operands->shared_limit) return;
    list.push_back({tile, shared, [o = operands](int repeat) { return time_one<P, backward>(o, repeat); }});
  }
  template <class Tiles, int arch> void add_forward() {
    using Sizes = cuda::sm80::Sizes<KernelOf<With<Tiles>>, arch>;
    add<With<Tiles>, false>(Sizes::tile, int(Sizes::shared));
  }
  template <class Tiles, int arch> void add_backward() {
    using Sizes = cuda::sm80::BackwardSizes<KernelOf<With<Tiles>>, arch>;
    add<With<Tiles>, true>(Sizes::tile, int(Sizes::shared));
  }
  template <int... i> void add_forward_grid(std::integer_sequence<int, i...>) {
    (add_forward<ForwardTiles<Grids, i>, 80>(), ...);
  }
  template <int... i> void add_backward_grid(std::integer_sequence<int, i...>) {
    (add_backward<BackwardTiles<Grids, i>, 80>(), ...);
  }

  explicit Candidates(CudaShape const& shape) : operands(std::make_shared<Operands<Element>>(shape)) {
    Solo comm;
    RingAttention<With<DefaultTiles>> ring(operands->backend, comm, {.problem = shape.problem});
    operands->tensors = std::make_unique<Tensors<Element>>(operands->backend, ring.local());
    operands->tensors->forward(ring);  // out and lse for the backward passes of all
    operands->backend.synchronize();
    // A card with less shared memory takes the default of 86.
    if (shape.backward) {
      add_backward<DefaultTiles, 80>();
      if (list.empty()) add_backward<DefaultTiles, 86>();
      add_backward_grid(std::make_integer_sequence<int, Grids::backward.count>());
    } else {
      add_forward<DefaultTiles, 80>();
      if (list.empty()) add_forward<DefaultTiles, 86>();
      add_forward_grid(std::make_integer_sequence<int, Grids::forward.count>());
    }
  }
};

template <class Precision> constexpr char const* precision_name() {
  if (std::is_same_v<Precision, Bf16>) return "bf16";
  if (std::is_same_v<Precision, Fp16>) return "fp16";
  return std::is_same_v<Precision, Tf32> ? "tf32" : "fp32";
}

namespace {

std::vector<CudaCandidate> candidates(CudaShape const& shape) {
  if (shape.causal) return Candidates<BENCH_PRECISION, BENCH_HEAD_DIM, Causal>(shape).list;
  return Candidates<BENCH_PRECISION, BENCH_HEAD_DIM, Full>(shape).list;
}

[[maybe_unused]] bool const registered = [] {
  cuda_tune_entries().push_back(
      {precision_name<BENCH_PRECISION>(), BENCH_HEAD_DIM, int(sizeof(BENCH_PRECISION::Element)), candidates});
  return true;
}();

}  // namespace
}  // namespace bench
