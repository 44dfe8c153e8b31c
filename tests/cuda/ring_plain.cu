// SPDX-License-Identifier: Apache-2.0
// The pipeline on the Cuda backend with plain kernels: transports, commits, streams, graphs, allocators and faults.
#include <doctest/doctest.h>

#include "plain_arch.cuh"
#include "ring.cuh"

using namespace ringattn;
using namespace ringattn::test;
using namespace std::chrono_literals;

namespace {

struct Plain16 : Policy {
  using Mask = RingMask;
  using Shard = AnyShard;
  using Precision = Fp32;
  using Backend = Cuda<PlainArch>;
  using Communicator = CudaPeer;
  static constexpr int head_dim = 16;
};

PlanOptions<Plain16> options_of(int mask, int shard, int64_t seq, Commit commit = Commit::automatic) {
  PlanOptions<Plain16> o{.problem = {.batch = 2, .seq = seq, .heads = 2, .kv_heads = 1}, .commit = commit};
  o.mask = {mask, {}, {.left = seq / 4}};
  o.shard = o.kv_shard = {shard};
  return o;
}

using Tensors = DeviceTensors<Plain16>;

}  // namespace

TEST_CASE("cuda ring: transports, masks and shards") {
  int row = 0;
  for (int ranks : {1, 2, 3, 4})
    for (int mask : {RingMask::full, RingMask::causal, RingMask::window}) {
      int const shard = row++ % 5;
      CAPTURE(ranks);
      CAPTURE(mask);
      CAPTURE(shard);
      auto const setup = make_setup<Plain16>(options_of(mask, shard, 13 + row, row % 2 ? Commit::all : Commit::local),
                                             InputClass::normal, std::uint64_t(row));
      CHECK(check_ring(ranks, setup, row % 2 == 0) == "");
    }
}

TEST_CASE("cuda ring: late and poisoned messages change nothing") {
  auto const setup = make_setup<Plain16>(options_of(RingMask::causal, AnyShard::zigzag, 24), InputClass::normal, 7);
  auto const calm = run_device_ring<Plain16>(3, setup, true);
  auto const wild = run_device_ring<Plain16>(3, setup, true, chaotic(5));
  for (size_t r = 0; r < calm.size(); ++r) CHECK(same_bits(calm[r], wild[r]));
}

TEST_CASE("cuda ring: calls can be captured in a graph and replayed") {
  for (int ranks : {1, 2, 3}) {
    CAPTURE(ranks);
    auto const setup = make_setup<Plain16>(options_of(RingMask::causal, AnyShard::zigzag, 20), InputClass::normal, 9);
    CHECK_NOTHROW(check_graph<Plain16>(ranks, setup, [](CudaPeer& peer) -> CudaPeer& { return peer; }));
  }
}

TEST_CASE("cuda backend: the user's stream and allocator") {
  cudaStream_t stream = nullptr;
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  int allocations = 0, releases = 0;
  {
    CudaAllocator const mine{.allocate =
                                 [&](size_t bytes, cudaStream_t s) {
                                   void* p = nullptr;
                                   cuda::check(cudaMallocAsync(&p, bytes, s), "mine");
                                   CHECK(s == stream);
                                   ++allocations;
                                   return p;
                                 },
                             .release =
                                 [&](void* p, size_t, cudaStream_t s) {
                                   (void)cudaFreeAsync(p, s);
                                   ++releases;
                                 }};
    Cuda<PlainArch> backend({.stream = stream, .device = 0, .allocator = mine});
    CHECK(backend.stream() == stream);
    run_ranks<CudaPeer>(1, [&](CudaPeer& comm) {
      auto const setup = make_setup<Plain16>(options_of(RingMask::full, 0, 8), InputClass::normal, 1);
      RingAttention<Plain16> ring(backend, comm, setup.options);
      CHECK(allocations == 1);
      Tensors t(backend, setup, ring);
      int const before = allocations;
      t.call(ring);
      ring.synchronize();
      CHECK(allocations == before);  // calls allocate nothing
    });
  }
  CHECK(allocations == releases);
  (void)cudaStreamDestroy(stream);
}

TEST_CASE("cuda backend: memory is given back on the backend's device, whichever is current") {
  if (device_count() < 2) return;
  // The null stream is that of the current device; work on that of another device is ordered behind nothing here.
  cudaStream_t const null = nullptr;
  std::vector<int> current;
  CudaAllocator const mine{.allocate =
                               [&](size_t bytes, cudaStream_t s) {
                                 void* p = nullptr;
                                 cuda::check(cudaMallocAsync(&p, bytes, s), "mine");
                                 return p;
                               },
                           .release =
                               [&](void* p, size_t, cudaStream_t s) {
                                 int device = -1;
                                 (void)cudaGetDevice(&device);
                                 current.push_back(device);
                                 (void)cudaFreeAsync(p, s);
                               }};
  for (CudaAllocator const& allocator : {CudaAllocator(), mine}) {
    Cuda<PlainArch> backend({.stream = null, .device = 1, .allocator = allocator});
    {
      auto const buffer = backend.allocate(1 << 16);
      cuda::DeviceGuard const guard(1);
      cuda::check(cudaMemsetAsync(buffer.data(), 1, buffer.size(), null), "fill");
    }
    CHECK_NOTHROW(backend.synchronize());
    CHECK_NOTHROW(Cuda<PlainArch>({.stream = null, .device = 0}).synchronize());
    int device = -1;
    cuda::check(cudaGetDevice(&device), "cudaGetDevice");
    CHECK(device == 0);
  }
  CHECK(current == std::vector<int>{1});
}

TEST_CASE("cuda backend: wrong options and exhausted memory are typed errors") {
  auto const code_of = [](auto f) {
    try {
      f();
    } catch (Error const& e) {
      return int(e.code());
    }
    return 0;
  };
  CHECK(code_of([] { Cuda<PlainArch> b({.device = 1000}); }) == int(ErrorCode::invalid_argument));
  CHECK(code_of([] { Cuda<PlainArch> b({.device = -2}); }) == int(ErrorCode::invalid_argument));
  CHECK(code_of([] { Cuda<PlainArch> b({.allocator = {.allocate = [](size_t, cudaStream_t) { return nullptr; }}}); }) ==
        int(ErrorCode::invalid_argument));
  CHECK(code_of([] {
          Cuda<PlainArch> b({.allocator = {.allocate = [](size_t, cudaStream_t) -> void* { return nullptr; },
                                           .release = [](void*, size_t, cudaStream_t) {}}});
          b.allocate(1);
        }) == int(ErrorCode::out_of_memory));
  CHECK(code_of([] { Cuda<PlainArch>().allocate(size_t(1) << 62); }) == int(ErrorCode::out_of_memory));
  int device = -1;
  cuda::check(cudaGetDevice(&device), "cudaGetDevice");
  CHECK(device == 0);
}

TEST_CASE("cuda backend: copies convert between any strides") {
  Cuda<PlainArch> backend;
  Extents const e{2, 3, 2, 8};
  std::vector<float> values(size_t(e.count()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i) * 1.001f;
  auto from = held(backend, values);
  auto same = held(backend, std::vector<float>(values.size())),
       odd = held(backend, std::vector<float>(2 * values.size()));
  auto half = held(backend, std::vector<BFloat16>(values.size()));
  View<float const, DeviceSpace> const in(from.data(), e);
  backend.copy(in, View<float, DeviceSpace>::head_major(same.data(), e));
  backend.copy(in, View<BFloat16, DeviceSpace>(half.data(), e));
  backend.copy(in, View<float, DeviceSpace>(odd.data(), e, {96, 32, 16, 2}));
  auto const a = same.get(), c = odd.get();
  auto const b = half.get();
  bool right = true;
  for (int64_t i = 0; i < e.batch; ++i)
    for (int64_t s = 0; s < e.seq; ++s)
      for (int64_t h = 0; h < e.heads; ++h)
        for (int64_t d = 0; d < e.dim; ++d) {
          float const x = values[size_t(((i * e.seq + s) * e.heads + h) * e.dim + d)];
          right = right && a[size_t(((i * e.heads + h) * e.seq + s) * e.dim + d)] == x &&
                  b[size_t(((i * e.seq + s) * e.heads + h) * e.dim + d)].bits == BFloat16(x).bits &&
                  c[size_t(i * 96 + s * 32 + h * 16 + d * 2)] == x;
        }
  CHECK(right);
}

TEST_CASE("cuda ring: a rank that stops ends the others") {
  for (Commit commit : {Commit::local, Commit::all}) {
    auto const setup = make_setup<Plain16>(options_of(RingMask::full, 0, 12, commit), InputClass::normal, 3);
    try {
      run_devices<Plain16>(3, true,
                           [&](Cuda<PlainArch>& backend, CudaPeer& comm) {
                             RingAttention<Plain16> ring(backend, comm, setup.options);
                             Tensors t(backend, setup, ring);
                             if (comm.rank() == 1) throw std::runtime_error("this rank stops");
                             t.call(ring);
                             ring.synchronize();
                           },
                           {.deadline = 60s});
      CHECK(false);
    } catch (std::exception const& e) {
      CHECK(std::string(e.what()) == "this rank stops");
    }
  }
}

#ifdef RINGATTN_TEST_NCCL
TEST_CASE("cuda ring: over Nccl every rank captures its calls in a graph of its own") {
  using P = Over<Plain16, Nccl<InProcess>>;
  auto const setup =
      setup_over<P>(make_setup<Plain16>(options_of(RingMask::causal, AnyShard::zigzag, 20), InputClass::normal, 9));
  std::function<void(Cuda<PlainArch>&, Nccl<InProcess>&)> const rank = [&](Cuda<PlainArch>& backend,
                                                                           Nccl<InProcess>& comm) {
    cuda::DeviceGuard const guard(backend.device());
    RingAttention<P> ring(backend, comm, setup.options);
    DeviceTensors<P> t(backend, setup, ring);
    t.call(ring);  // connections, streams and events are made here
    auto const eager = t.get();
    t.spoil(backend);
    backend.synchronize();
    cudaGraph_t captured = nullptr;
    cudaGraphExec_t graph = nullptr;
    cuda::check(cudaStreamBeginCapture(backend.stream(), cudaStreamCaptureModeRelaxed), "begin");
    t.call(ring);
    cuda::check(cudaStreamEndCapture(backend.stream(), &captured), "end");
    cuda::check(cudaGraphInstantiate(&graph, captured, 0), "instantiate");
    cuda::check(cudaGraphDestroy(captured), "destroy");
    for (int i = 0; i < 2; ++i) cuda::check(cudaGraphLaunch(graph, backend.stream()), "launch");
    ring.synchronize();
    if (!same_bits(eager, t.get())) throw std::runtime_error("the graph gives other bits than the calls");
    t.call(ring);  // and calls go on outside of it
    if (!same_bits(eager, t.get())) throw std::runtime_error("calls after the graph give other bits");
    (void)cudaGraphExecDestroy(graph);
  };
  for (int ranks : {1, 2, 3}) {
    if (device_count() < ranks) return;
    CAPTURE(ranks);
    CHECK_NOTHROW(run_devices<P>(ranks, true, rank, {.deadline = 100s}));
  }
}

TEST_CASE("cuda ring: a peer that does not come is a timeout where the stream is waited for") {
  using P = Over<Plain16, Nccl<InProcess>>;
  if (device_count() < 2) return;
  for (Commit commit : {Commit::local, Commit::all}) {
    auto const setup = make_setup<P>(
        setup_over<P>(make_setup<Plain16>(options_of(RingMask::full, 0, 12, commit), InputClass::normal, 3)).options,
        InputClass::normal, 3);
    auto const begin = std::chrono::steady_clock::now();
    try {
      run_devices<P>(2, true,
                     [&](Cuda<PlainArch>& backend, Nccl<InProcess>& comm) {
                       // The steps that never get their blocks go on in the end: over memory that somebody has written.
                       auto options = setup.options;
                       size_t const bytes = RingAttention<P>(backend, comm, options).workspace_bytes();
                       auto workspace = held(backend, std::vector<std::byte>(bytes));
                       options.workspace = {workspace.data(), bytes};
                       RingAttention<P> ring(backend, comm, options);
                       if (comm.rank() == 1) {  // stays away until it is told
                         while (!comm.aborted()) std::this_thread::sleep_for(1ms);
                         return;
                       }
                       auto q = held(backend, take_rows(setup.q, setup.q_extents(), ring.rows()));
                       auto k = held(backend, take_rows(setup.k, setup.k_extents(), ring.kv_rows()));
                       auto v = held(backend, take_rows(setup.v, setup.v_extents(), ring.kv_rows()));
                       auto out = held(backend, garbage<float>(ring.local().out));
                       using In = View<float const, DeviceSpace>;
                       Local const l = ring.local();
                       ring.forward({.q = In(q.data(), l.q),
                                     .k = In(k.data(), l.k),
                                     .v = In(v.data(), l.v),
                                     .out = View<float, DeviceSpace>(out.data(), l.out)});
                       ring.synchronize();
                     },
                     {.deadline = 300ms});
      CHECK(false);
    } catch (Error const& e) {
      CHECK(e.code() == ErrorCode::timeout);
    }
    CHECK(std::chrono::steady_clock::now() - begin < 20s);
  }
}
#endif
