// SPDX-License-Identifier: Apache-2.0
// Rings of emulated or real devices: what a policy on Cuda computes over CudaPeer and Nccl, judged as on the CPU.
#pragma once

#include <ringattn/comm/cuda_peer.hpp>
#include <ringattn/cuda/device.cuh>
#if __has_include(<nccl.h>)
#include <ringattn/comm/nccl.hpp>
#define RINGATTN_TEST_NCCL
#endif

#include "../any_shard.hpp"
#include "../replay.hpp"

namespace ringattn::test {

/// Device memory that starts as a vector.
template <class T, class... Choices> class Held<T, Cuda<Choices...>> {
 public:
  Held(Cuda<Choices...>& backend, std::vector<T> const& values)
      : backend_(&backend), size_(values.size()), memory_(backend.allocate(size_ * sizeof(T))) {
    if (size_ > 0)
      cuda::check(cudaMemcpyAsync(data(), values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice, backend.stream()),
                  "to device");
    backend.synchronize();
  }
  T* data() { return reinterpret_cast<T*>(memory_.data()); }
  std::vector<T> get() {
    std::vector<T> values(size_);
    if (size_ > 0)
      cuda::check(cudaMemcpyAsync(values.data(), data(), size_ * sizeof(T), cudaMemcpyDeviceToHost, backend_->stream()),
                  "to host");
    backend_->synchronize();
    return values;
  }

 private:
  Cuda<Choices...>* backend_;
  size_t size_;
  typename Cuda<Choices...>::Buffer memory_;
};

/// A mask chosen at run time, so that one compiled kernel tests all of them.
struct RingMask {
  enum Kind { full, causal, window };

  int kind = full;
  Causal diagonal{};
  SlidingWindow band{};

  RINGATTN_HD constexpr bool visible(int64_t q, int64_t k) const {
    return kind == full || (kind == causal ? diagonal.visible(q, k) : band.visible(q, k));
  }
  RINGATTN_HD constexpr Coverage coverage(Rows q, Rows k) const {
    if (kind == full) return Coverage::full;
    return kind == causal ? diagonal.coverage(q, k) : band.coverage(q, k);
  }
  constexpr std::uint64_t fingerprint() const {
    return fingerprint_of("ring mask", kind, diagonal.fingerprint(), band.fingerprint());
  }
};

inline int device_count() {
  int n = 0;
  cuda::check(cudaGetDeviceCount(&n), "cudaGetDeviceCount");
  return n;
}

/// Calls f(backend, comm) on every rank. `spread`: ranks have devices of their own as far as there are enough; Nccl
/// always wants that.
template <class P, class F> void run_devices(int ranks, bool spread, F f, RunOptions const& options) {
  using Backend = typename P::Backend;
  int const devices = device_count();
  if constexpr (std::is_same_v<typename P::Communicator, CudaPeer>) {
    run_ranks<CudaPeer>(
        ranks,
        [&](CudaPeer& comm) {
          Backend backend({.device = spread ? comm.rank() % devices : 0});
          f(backend, comm);
        },
        options);
  } else {
    run_ranks(
        ranks,
        [&](InProcess& host) {
          typename P::Communicator comm(host, host.rank() % devices);
          Backend backend({.device = host.rank() % devices});
          f(backend, comm);
        },
        options);
  }
}

template <class P>
std::vector<RankResult<typename P::Precision>> run_device_ring(int ranks, Setup<P> const& setup, bool spread,
                                                               RunOptions const& options = {
                                                                   .deadline = std::chrono::seconds(100)}) {
  std::vector<RankResult<typename P::Precision>> results(static_cast<size_t>(ranks));
  run_devices<P>(
      ranks, spread,
      [&](auto& backend, auto& comm) { results[size_t(comm.rank())] = run_rank<P>(backend, comm, setup); }, options);
  return results;
}

/// A rank's tensors in device memory, and a call of each pass.
template <class P> class DeviceTensors {
 public:
  using Backend = typename P::Backend;
  using Element = typename P::Precision::Element;

  DeviceTensors(Backend& backend, Setup<P> const& s, RingAttention<P> const& ring)
      : local_(ring.local()),
        q_(backend, take_rows(s.q, s.q_extents(), ring.rows())),
        k_(backend, take_rows(s.k, s.k_extents(), ring.kv_rows())),
        v_(backend, take_rows(s.v, s.v_extents(), ring.kv_rows())),
        dout_(backend, take_rows(s.dout, s.out_extents(), ring.rows())) {
    spoil(backend);
  }
  /// Outputs of garbage.
  void spoil(Backend& backend) {
    out_.emplace(backend, garbage<Element>(local_.out));
    lse_.emplace(backend, garbage<float>(local_.lse));
    dq_.emplace(backend, garbage<Element>(local_.q));
    dk_.emplace(backend, garbage<Element>(local_.k));
    dv_.emplace(backend, garbage<Element>(local_.v));
  }
  void call(RingAttention<P>& ring) {
    using In = View<Element const, DeviceSpace>;
    using Out = View<Element, DeviceSpace>;
    Local const& l = local_;
    In const q(q_.data(), l.q), k(k_.data(), l.k), v(v_.data(), l.v), dout(dout_.data(), l.out);
    Out const out(out_->data(), l.out);
    View<float, DeviceSpace> const lse(lse_->data(), l.lse);
    ring.forward({.q = q, .k = k, .v = v, .out = out, .lse = lse});
    ring.backward({.q = q,
                   .k = k,
                   .v = v,
                   .out = out,
                   .lse = lse,
                   .dout = dout,
                   .dq = Out(dq_->data(), l.q),
                   .dk = Out(dk_->data(), l.k),
                   .dv = Out(dv_->data(), l.v)});
  }
  RankResult<typename P::Precision> get() {
    RankResult<typename P::Precision> r;
    r.out = out_->get();
    r.lse = lse_->get();
    r.dq = dq_->get();
    r.dk = dk_->get();
    r.dv = dv_->get();
    return r;
  }

 private:
  Local local_;
  Held<Element, Backend> q_, k_, v_, dout_;
  std::optional<Held<Element, Backend>> out_, dq_, dk_, dv_;
  std::optional<Held<float, Backend>> lse_;
};

/// Captures a forward and a backward call of all ranks (virtual ones, on one device) in one graph, forked from one
/// stream and joined again, replays it twice and wants the bits of the calls. Throws what is wrong. `as_transport`: the
/// policy's communicator of a CudaPeer.
template <class P, class As> void check_graph(int ranks, Setup<P> const& setup, As as_transport) {
  cudaStream_t origin = nullptr;
  cudaEvent_t fork = nullptr;
  std::vector<cudaEvent_t> joins(static_cast<size_t>(ranks));
  cudaGraphExec_t graph = nullptr;
  std::function<void(CudaPeer&)> const rank = [&](CudaPeer& peer) {
    typename P::Backend backend({.device = 0});
    decltype(auto) comm = as_transport(peer);
    RingAttention<P> ring(backend, comm, setup.options);
    DeviceTensors<P> t(backend, setup, ring);
    t.call(ring);  // streams and events are made here
    auto const eager = t.get();
    t.spoil(backend);
    backend.synchronize();
    auto const meet = [&] {
      std::vector<char> all(static_cast<size_t>(ranks));
      all_gather(peer, char(1), std::span(all), "meet");
    };
    cudaEvent_t& join = joins[size_t(peer.rank())];
    cuda::check(cudaEventCreateWithFlags(&join, cudaEventDisableTiming), "event");
    if (peer.rank() == 0) {
      cuda::check(cudaStreamCreateWithFlags(&origin, cudaStreamNonBlocking), "stream");
      cuda::check(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming), "event");
      cuda::check(cudaStreamBeginCapture(origin, cudaStreamCaptureModeRelaxed), "begin");
      cuda::check(cudaEventRecord(fork, origin), "fork");
    }
    meet();
    cuda::check(cudaStreamWaitEvent(backend.stream(), fork), "fork");
    t.call(ring);
    cuda::check(cudaEventRecord(join, backend.stream()), "join");
    meet();
    if (peer.rank() == 0) {
      for (cudaEvent_t j : joins) cuda::check(cudaStreamWaitEvent(origin, j), "join");
      cudaGraph_t captured = nullptr;
      cuda::check(cudaStreamEndCapture(origin, &captured), "end");
      cuda::check(cudaGraphInstantiate(&graph, captured, 0), "instantiate");
      cuda::check(cudaGraphDestroy(captured), "destroy");
      for (int i = 0; i < 2; ++i) cuda::check(cudaGraphLaunch(graph, origin), "launch");
      cuda::check(cudaStreamSynchronize(origin), "synchronize");
    }
    meet();
    if (!same_bits(eager, t.get())) throw std::runtime_error("the graph gives other bits than the calls");
    meet();
  };
  run_ranks<CudaPeer>(ranks, rank, {.deadline = std::chrono::seconds(100)});
  (void)cudaGraphExecDestroy(graph);
  for (cudaEvent_t e : joins) (void)cudaEventDestroy(e);
  (void)cudaEventDestroy(fork);
  (void)cudaStreamDestroy(origin);
}

/// P over another transport.
template <class P, class C> struct Over : P { using Communicator = C; };
template <class To, class From> Setup<To> setup_over(Setup<From> const& s) {
  auto const& o = s.options;
  Setup<To> t({.problem = o.problem,
               .mask = o.mask,
               .score = o.score,
               .shard = o.shard,
               .kv_shard = o.kv_shard,
               .scale = o.scale,
               .commit = o.commit,
               .backward = o.backward});
  t.q = s.q;
  t.k = s.k;
  t.v = s.v;
  t.dout = s.dout;
  return t;
}

/// Runs a setup on a ring, on both transports; the results are what the oracle says, and bit for bit what one device
/// gives and what the other transport gives. Returns what is wrong, or an empty string.
template <class P> std::string check_ring(int ranks, Setup<P> const& setup, bool spread, bool replay = true) {
  using Peer = Over<P, CudaPeer>;
  auto const peer = setup_over<Peer>(setup);
  auto const got = run_device_ring<Peer>(ranks, peer, spread);
  std::string wrong;
  Verdict const verdict = Oracle<typename P::Precision>(setup).judge(got);
  if (!verdict.ok()) wrong += verdict.text() + "; ";
  if (replay)
    if (std::string const differs = differs_from_replay(peer, got, std::max(1, ranks - 1)); !differs.empty())
      wrong += "replay differs: " + differs + "; ";
#ifdef RINGATTN_TEST_NCCL
  if (device_count() < ranks) return wrong;  // NCCL wants a device for every rank
  using N = Over<P, Nccl<InProcess>>;
  auto const over_nccl = run_device_ring<N>(ranks, setup_over<N>(setup), true);
  for (size_t r = 0; r < got.size(); ++r)
    if (!same_bits(got[r], over_nccl[r])) wrong += "Nccl differs on rank " + std::to_string(r) + "; ";
#endif
  return wrong;
}

}  // namespace ringattn::test
