// SPDX-License-Identifier: Apache-2.0
// An architecture of plain kernels, one thread per row: cheap to compile and to emulate, so that transports, streams
// and graphs can be tested apart from the kernels that are shipped.
#pragma once

#include <ringattn/cuda/device.cuh>
#include <ringattn/softmax.hpp>

namespace ringattn::test {

/// A thread's place: (batch, row, head) of a view.
struct Place {
  int64_t b, s, h;
  bool inside;
  __device__ explicit Place(Extents const& e) {
    int64_t const i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    inside = i < e.batch * e.seq * e.heads;
    h = i % e.heads;
    s = i / e.heads % e.seq;
    b = i / e.heads / e.seq;
  }
};

/// Global positions of local rows.
struct Positions {
  static constexpr int capacity = 8;
  Rows run[capacity];
  int count = 0;

  explicit Positions(std::span<Rows const> runs) {
    for (Rows const& r : runs) run[count++] = r;
  }
  __device__ int64_t operator()(int64_t local) const {
    int i = 0;
    for (; local >= run[i].count; ++i) local -= run[i].count;
    return run[i].at(local);
  }
};

/// Everything a step's kernels read.
template <class K> struct PlainStep {
  View<typename K::Element const, DeviceSpace> q, k, v, out, dout;
  View<float const, DeviceSpace> lse;
  View<float, DeviceSpace> dk, dv;
  Positions q_at, k_at;
  typename K::Mask mask;
  float scale;
  float* state;  // forward: per row o | max, sum; backward: per row dq | delta

  explicit PlainStep(AttendStep<K, DeviceSpace> const& a)
      : q(a.q),
        k(a.k),
        v(a.v),
        q_at(a.q_rows),
        k_at(a.k_rows),
        mask(a.mask),
        scale(a.scale),
        state(reinterpret_cast<float*>(a.state)) {}
  explicit PlainStep(BackwardStep<K, DeviceSpace> const& a)
      : PlainStep(static_cast<AttendStep<K, DeviceSpace> const&>(a)) {
    out = a.out;
    dout = a.dout;
    lse = a.lse;
    dk = a.dk;
    dv = a.dv;
  }
  __device__ float* row(Place const& p, int width) const {
    return state + ((p.b * q.extents.seq + p.s) * q.extents.heads + p.h) * width;
  }
  __device__ float score(Place const& p, int64_t j) const {
    int64_t const g = p.h / (q.extents.heads / k.extents.heads);
    float s = 0;
    for (int d = 0; d < K::head_dim; ++d) s += float(q(p.b, p.s, p.h, d)) * float(k(p.b, j, g, d));
    return s * scale;
  }
};

template <class K> __global__ void plain_forward(__grid_constant__ PlainStep<K> const a) {
  Place const p(a.q.extents);
  if (!p.inside) return;
  float* const o = a.row(p, K::value_dim + 2);
  float &max = o[K::value_dim], &sum = o[K::value_dim + 1];
  int64_t const at = a.q_at(p.s), g = p.h / (a.q.extents.heads / a.k.extents.heads);
  for (int64_t j = 0; j < a.k.extents.seq; ++j) {
    if (!a.mask.visible(at, a.k_at(j))) continue;
    float const s = a.score(p, j) * float(softmax::log2_e), m = softmax::max(max, s), keep = softmax::rescale(max, m),
                w = softmax::weight(s, m);
    sum = sum * keep + w;
    max = m;
    for (int d = 0; d < K::value_dim; ++d) o[d] = o[d] * keep + w * float(a.v(p.b, j, g, d));
  }
}

template <class K> __global__ void plain_clear(__grid_constant__ PlainStep<K> const a, int width, bool forward) {
  Place const p(a.q.extents);
  if (!p.inside) return;
  float* const o = a.row(p, width);
  for (int d = 0; d < width; ++d) o[d] = 0;
  if (forward) o[K::value_dim] = softmax::minus_infinity<float>;
}

template <class K>
__global__ void plain_finish(__grid_constant__ PlainStep<K> const a,
                             __grid_constant__ AttendResult<K, DeviceSpace> const r) {
  Place const p(a.q.extents);
  if (!p.inside) return;
  float const* const o = a.row(p, K::value_dim + 2);
  float const max = o[K::value_dim], sum = o[K::value_dim + 1], n = softmax::normaliser(sum);
  for (int d = 0; d < K::value_dim; ++d) r.out(p.b, p.s, p.h, d) = cuda::convert<typename K::Element>(o[d] * n);
  if (r.lse) r.lse(p.b, p.s, p.h, 0) = softmax::lse(max, sum);
}

/// dS of one pair; `weight` is its P.
template <class K>
__device__ float plain_ds(PlainStep<K> const& a, Place const& p, int64_t j, float delta, float& weight) {
  int64_t const g = p.h / (a.q.extents.heads / a.k.extents.heads);
  float dp = 0;
  for (int d = 0; d < K::value_dim; ++d) dp += float(a.dout(p.b, p.s, p.h, d)) * float(a.v(p.b, j, g, d));
  weight = exp2f((a.score(p, j) - a.lse(p.b, p.s, p.h, 0)) * float(softmax::log2_e));
  return weight * (dp - delta) * a.scale;
}

template <class K> __device__ float plain_delta(PlainStep<K> const& a, Place const& p) {
  float delta = 0;
  for (int d = 0; d < K::value_dim; ++d) delta += float(a.dout(p.b, p.s, p.h, d)) * float(a.out(p.b, p.s, p.h, d));
  return delta;
}

template <class K> __global__ void plain_backward_q(__grid_constant__ PlainStep<K> const a) {
  Place const p(a.q.extents);
  if (!p.inside) return;
  float* const dq = a.row(p, K::head_dim);
  float const delta = plain_delta(a, p);
  int64_t const at = a.q_at(p.s), g = p.h / (a.q.extents.heads / a.k.extents.heads);
  for (int64_t j = 0; j < a.k.extents.seq; ++j) {
    if (!a.mask.visible(at, a.k_at(j))) continue;
    float weight, ds = plain_ds(a, p, j, delta, weight);
    for (int d = 0; d < K::head_dim; ++d) dq[d] += ds * float(a.k(p.b, j, g, d));
  }
}

template <class K> __global__ void plain_backward_k(__grid_constant__ PlainStep<K> const a) {
  Place const p(a.k.extents);
  if (!p.inside) return;
  int64_t const group = a.q.extents.heads / a.k.extents.heads;
  for (int d = 0; d < K::head_dim; ++d) a.dk(p.b, p.s, p.h, d) = 0;
  for (int d = 0; d < K::value_dim; ++d) a.dv(p.b, p.s, p.h, d) = 0;
  for (int64_t h = p.h * group; h < (p.h + 1) * group; ++h)
    for (int64_t i = 0; i < a.q.extents.seq; ++i) {
      if (!a.mask.visible(a.q_at(i), a.k_at(p.s))) continue;
      Place q = p;
      q.h = h;
      q.s = i;
      float weight, ds = plain_ds(a, q, p.s, plain_delta(a, q), weight);
      for (int d = 0; d < K::head_dim; ++d) a.dk(p.b, p.s, p.h, d) += ds * float(a.q(q.b, i, h, d));
      for (int d = 0; d < K::value_dim; ++d) a.dv(p.b, p.s, p.h, d) += weight * float(a.dout(q.b, i, h, d));
    }
}

template <class K>
__global__ void plain_finish_q(__grid_constant__ PlainStep<K> const a,
                               View<typename K::Element, DeviceSpace> const dq) {
  Place const p(a.q.extents);
  if (!p.inside) return;
  for (int d = 0; d < K::head_dim; ++d)
    dq(p.b, p.s, p.h, d) = cuda::convert<typename K::Element>(a.row(p, K::head_dim)[d]);
}

struct PlainArch {
  static constexpr int number = 80;

  static dim3 blocks(Extents const& e) { return dim3(unsigned((e.batch * e.seq * e.heads + 31) / 32)); }
  static size_t rows(AttendShape const& s) { return size_t(s.batch * s.heads * count_rows(s.q_rows)); }

  template <class K> struct Forward {
    using Step = AttendStep<K, DeviceSpace>;
    static size_t bytes(AttendShape const& s) { return rows(s) * (K::value_dim + 2) * sizeof(float); }
    static void begin(Step const& s, cuda::Launch const& l) {
      cuda::launch("begin", plain_clear<K>, blocks(s.q.extents), 32, 0, l, PlainStep<K>(s), K::value_dim + 2, true);
    }
    static void step(Step const& s, cuda::Launch const& l) {
      cuda::launch("step", plain_forward<K>, blocks(s.q.extents), 32, 0, l, PlainStep<K>(s));
    }
    static void finish(Step const& s, AttendResult<K, DeviceSpace> const& r, cuda::Launch const& l) {
      cuda::launch("finish", plain_finish<K>, blocks(s.q.extents), 32, 0, l, PlainStep<K>(s), r);
    }
  };
  template <class K> struct Backward {
    using Step = BackwardStep<K, DeviceSpace>;
    static size_t bytes(AttendShape const& s) { return rows(s) * K::head_dim * sizeof(float); }
    static void begin(Step const& s, cuda::Launch const& l) {
      cuda::launch("begin", plain_clear<K>, blocks(s.q.extents), 32, 0, l, PlainStep<K>(s), K::head_dim, false);
    }
    static void step(Step const& s, cuda::Launch const& l) {
      cuda::launch("step q", plain_backward_q<K>, blocks(s.q.extents), 32, 0, l, PlainStep<K>(s));
      cuda::launch("step k", plain_backward_k<K>, blocks(s.k.extents), 32, 0, l, PlainStep<K>(s));
    }
    static void finish(Step const& s, View<typename K::Element, DeviceSpace> const& dq, cuda::Launch const& l) {
      cuda::launch("finish", plain_finish_q<K>, blocks(s.q.extents), 32, 0, l, PlainStep<K>(s), dq);
    }
  };
};

}  // namespace ringattn::test
