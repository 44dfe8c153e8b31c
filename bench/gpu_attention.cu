// SPDX-License-Identifier: Apache-2.0
// Times attention on one GPU by CUDA events: one call, and a ring of virtual ranks on the same device, beside a matrix
// product of cuBLAS (8192 cubed, bf16). JSON lines out. `--tiny` only shows that it runs; `--only TEXT`: cases that
// have it in their name, as in `bf16 causal d128 b1 n16384 h16/16`.
#include <ringattn/comm/cuda_peer.hpp>
#include <ringattn/comm/solo.hpp>

#include <string>

#if __has_include(<cublas_v2.h>) && !defined(BENCH_WITHOUT_CUBLAS)
#include <cublas_v2.h>
#define BENCH_CUBLAS
#endif

#include "gpu_timing.cuh"
#include "json.hpp"

namespace bench {

using namespace ringattn;

struct Shape {
  int64_t batch, seq, heads, kv_heads;
};

template <class Precision_, class Mask_, int head_dim_, class Communicator_, class Gradients = OrderedGradients>
struct GpuPolicy : Policy {
  using Precision = Precision_;
  using Mask = Mask_;
  using Shard = ZigZag;
  using Backend = Cuda<sm80, Gradients>;
  using Communicator = Communicator_;
  static constexpr int head_dim = head_dim_;
};

double gemm_tflops(bool tiny) {
#ifdef BENCH_CUBLAS
  int const n = tiny ? 64 : 8192;
  Cuda<> backend;
  auto a = backend.allocate(size_t(n) * size_t(n) * 2), b = backend.allocate(size_t(n) * size_t(n) * 2),
       c = backend.allocate(size_t(n) * size_t(n) * 2);
  for (auto* x : {&a, &b})
    cuda::launch("fill", fill<BFloat16>, 1024, 256, 0, {backend.stream(), backend.device()},
                 reinterpret_cast<BFloat16*>(x->data()), int64_t(n) * n, 1u);
  cublasHandle_t handle = nullptr;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return 0;
  (void)cublasSetStream(handle, backend.stream());
  float const one = 1, zero = 0;
  double const ms = milliseconds(backend.stream(), 7, 10, [&] {
    (void)cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, a.data(), CUDA_R_16BF, n, b.data(), CUDA_R_16BF,
                       n, &zero, c.data(), CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  });
  (void)cublasDestroy(handle);
  return 2e-9 * n * n * n / ms;
#else
  (void)tiny;
  return 0;
#endif
}

struct Bench {
  double gemm = 0;
  bool tiny = false;
  std::string only{};

  void line(char const* pass, char const* precision, char const* mask, int head_dim, Shape const& s, int ranks,
            double ms, double flop) const {
    double const tflops = flop / ms * 1e-9;
    Json j{{"engine", "ringattn"},
           {"pass", pass},
           {"precision", precision},
           {"mask", mask},
           {"head_dim", head_dim},
           {"batch", s.batch},
           {"seq", s.seq},
           {"heads", s.heads},
           {"kv_heads", s.kv_heads},
           {"ranks", ranks},
           {"ms", ms},
           {"tflops", tflops}};
    if (gemm > 0) j.set("of_gemm", tflops / gemm);
    std::printf("%s\n", j.dump().c_str());
    std::fflush(stdout);
  }

  /// One call each, and the same work as a ring of virtual ranks: its time is that of all of them together.
  template <class Precision, class Mask, int head_dim, bool atomic = false>
  void run(char const* precision, char const* mask, Shape const& s, std::initializer_list<int> rings) {
    std::string const name = std::string(precision) + ' ' + mask + " d" + std::to_string(head_dim) + " b" +
                             std::to_string(s.batch) + " n" + std::to_string(s.seq) + " h" + std::to_string(s.heads) +
                             '/' + std::to_string(s.kv_heads);
    if (name.find(only) == std::string::npos) return;
    double const flop = 4. * double(s.batch * s.heads * s.seq * s.seq) * head_dim * (mask[0] == 'c' ? 0.5 : 1);
    int const rounds = tiny ? 1 : 7, repeat = tiny ? 1 : 3;
    {
      using P = GpuPolicy<Precision, Mask, head_dim, Solo>;
      Cuda<> backend;
      Solo comm;
      RingAttention<P> ring(backend, comm, {.problem = {s.batch, s.seq, -1, s.heads, s.kv_heads}});
      Tensors<typename Precision::Element> t(backend, ring.local());
      double const forward = milliseconds(backend.stream(), rounds, repeat, [&] { t.forward(ring); });
      double const backward = milliseconds(backend.stream(), rounds, repeat, [&] { t.backward(ring); });
      line("forward", precision, mask, head_dim, s, 1, forward, flop);
      line("backward", precision, mask, head_dim, s, 1, backward, 2.5 * flop);
      backend.synchronize();
    }
    if constexpr (atomic) {
      using P = GpuPolicy<Precision, Mask, head_dim, Solo, AtomicGradients>;
      Cuda<sm80, AtomicGradients> backend;
      Solo comm;
      RingAttention<P> ring(backend, comm, {.problem = {s.batch, s.seq, -1, s.heads, s.kv_heads}});
      Tensors<typename Precision::Element, Cuda<sm80, AtomicGradients>> t(backend, ring.local());
      t.forward(ring);
      line("backward, atomic dQ", precision, mask, head_dim, s, 1,
           milliseconds(backend.stream(), rounds, repeat, [&] { t.backward(ring); }), 2.5 * flop);
      backend.synchronize();
    }
    for (int ranks : rings) {
      using P = GpuPolicy<Precision, Mask, head_dim, CudaPeer>;
      std::vector<double> ms(2);
      run_ranks<CudaPeer>(ranks, [&](CudaPeer& comm) {
        Cuda<> backend;
        RingAttention<P> ring(backend, comm, {.problem = {s.batch, s.seq, -1, s.heads, s.kv_heads}});
        Tensors<typename Precision::Element> t(backend, ring.local());
        auto const timed = [&](auto call) {
          std::vector<double> times;
          for (int r = 0; r < rounds + 1; ++r) {
            std::vector<char> all(static_cast<size_t>(ranks));
            ring.synchronize();
            all_gather(comm, char(1), std::span(all), "meet");
            auto const begin = std::chrono::steady_clock::now();
            for (int i = 0; i < repeat; ++i) call();
            ring.synchronize();
            all_gather(comm, char(1), std::span(all), "meet");
            times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() * 1e3 /
                            repeat);
          }
          std::sort(times.begin(), times.end());
          return times[times.size() / 2];
        };
        double const forward = timed([&] { t.forward(ring); }), backward = timed([&] { t.backward(ring); });
        if (comm.rank() == 0) ms = {forward, backward};
      });
      line("forward", precision, mask, head_dim, s, ranks, ms[0], flop);
      line("backward", precision, mask, head_dim, s, ranks, ms[1], 2.5 * flop);
    }
  }
};

}  // namespace bench

int main(int argc, char** argv) {
  using namespace bench;
  Bench b;
  b.tiny = argc > 1 && std::string(argv[1]) == "--tiny";
  if (argc > 2 && std::string(argv[1]) == "--only") b.only = argv[2];
  try {
    int runtime = 0, driver = 0, major = 0, minor = 0;
    cuda::check(cudaRuntimeGetVersion(&runtime), "version");
    cuda::check(cudaDriverGetVersion(&driver), "version");
    cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "capability");
    cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "capability");
    b.gemm = b.tiny || !b.only.empty() ? 0 : gemm_tflops(false);
    std::printf("%s\n", Json{{"engine", "cublas"},
                             {"pass", "gemm 8192^3 bf16"},
                             {"tflops", b.gemm},
                             {"runtime", runtime},
                             {"driver", driver},
                             {"capability", 10 * major + minor}}
                            .dump()
                            .c_str());
    Shape const small{1, 256, 2, 1},
        at_2k = b.tiny ? small : Shape{8, 2048, 16, 16}, at_8k = b.tiny ? small : Shape{2, 8192, 16, 16},
        at_16k = b.tiny ? small : Shape{1, 16384, 16, 16}, grouped = b.tiny ? small : Shape{1, 16384, 32, 4};
    b.run<Bf16, Full, 128, true>("bf16", "full", at_16k, {2, 4});
    b.run<Bf16, Causal, 128, true>("bf16", "causal", at_16k, {2, 4});
    if (b.tiny) return 0;
    b.run<Bf16, Full, 128>("bf16", "full", at_2k, {});
    b.run<Bf16, Causal, 128>("bf16", "causal", at_8k, {});
    b.run<Bf16, Causal, 128>("bf16", "causal", grouped, {});
    b.run<Bf16, Full, 64, true>("bf16", "full", at_16k, {});
    b.run<Bf16, Causal, 64, true>("bf16", "causal", at_16k, {});
    b.run<Bf16, Causal, 256>("bf16", "causal", at_8k, {});
    b.run<Fp16, Causal, 128>("fp16", "causal", at_8k, {});
    b.run<Tf32, Causal, 64>("tf32", "causal", at_8k, {});
    b.run<Fp32, Causal, 64>("fp32", "causal", at_8k, {});
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
