// SPDX-License-Identifier: Apache-2.0
// Runs the rows of a CUDA covering list: each on CudaPeer and on Nccl, against the oracle, one device and each other.
#pragma once

#include <doctest/doctest.h>
#include <ringattn/cuda/backend.cuh>

#include <optional>
#include <variant>

#include "../covering_rows.hpp"
#include "ring.cuh"

namespace ringattn::test {

/// A communicator chosen at run time, so that one compiled pipeline serves all transports. By default a ring of one.
class AnyTransport {
  template <class C>
  using TransferOf = decltype(std::declval<C&>().all_gather(std::span<std::byte const>(), std::span<std::byte>()));

 public:
#ifdef RINGATTN_TEST_NCCL
  template <template <class...> class Either> using Each = Either<Solo, CudaPeer, Nccl<InProcess>>;
#else
  template <template <class...> class Either> using Each = Either<Solo, CudaPeer>;
#endif

 private:
  template <class... C> struct Choice {
    using Communicator = std::variant<C*...>;
    using Transfer = std::variant<TransferOf<C>...>;
  };
  using Chosen = Each<Choice>;

  template <class F> decltype(auto) of(F f) const {
    return std::visit([&](auto* c) -> decltype(auto) { return f(*c); }, chosen_);
  }

 public:
  class Transfer {
   public:
    Transfer() = default;
    template <class B> bool wait_for(B& backend, std::chrono::nanoseconds slice) {
      return std::visit([&](auto& t) { return t.wait_for(backend, slice); }, transfer_);
    }

   private:
    friend class AnyTransport;
    explicit Transfer(typename Chosen::Transfer t) : transfer_(std::move(t)) {}
    typename Chosen::Transfer transfer_;
  };

  template <class Space> static constexpr bool moves = true;

  AnyTransport() : solo_(std::make_unique<Solo>()), chosen_(solo_.get()) {}
  template <class C> explicit AnyTransport(C& comm) : chosen_(&comm) {}

  int rank() const {
    return of([](auto& c) { return c.rank(); });
  }
  int size() const {
    return of([](auto& c) { return c.size(); });
  }
  template <class B> Transfer exchange(B& backend, std::span<Send const> sends, std::span<Recv const> recvs) {
    return of([&](auto& c) { return Transfer(typename Chosen::Transfer(c.exchange(backend, sends, recvs))); });
  }
  Transfer all_gather(std::span<std::byte const> mine, std::span<std::byte> all) {
    return of([&](auto& c) { return Transfer(typename Chosen::Transfer(c.all_gather(mine, all))); });
  }
  void progress() {
    of([](auto& c) { c.progress(); });
  }
  void abort(std::string reason) {
    of([&](auto& c) { c.abort(reason); });
  }
  std::optional<std::string> aborted() const {
    return of([](auto& c) { return c.aborted(); });
  }
  std::chrono::nanoseconds deadline() const {
    return of([](auto& c) { return c.deadline(); });
  }

 private:
  std::unique_ptr<Solo> solo_;
  typename Chosen::Communicator chosen_;
};

/// A shard of a ring, or that shard walked through on one device: one type, so that both share their pipeline.
struct RingShard {
  static constexpr bool walks = true;

  AnyShard shard{};
  int size = 0;  ///< of the ring that is walked through; 0: a ring's own
  int first = 0, direction = 1;

  operator AnyShard() const { return shard; }
  std::vector<Rows> rows(Ring ring, int64_t seq) const {
    if (size > 0) return Walk<AnyShard>{shard, size, first, direction}.rows(ring, seq);
    auto const runs = shard.rows(ring, seq);
    return {runs.begin(), runs.end()};
  }
  std::uint64_t fingerprint() const {
    return fingerprint_of("ring shard", shard.fingerprint(), size, first, direction);
  }
};

template <class Precision_, int head_dim_, int value_dim_> struct KernelPolicy : Policy {
  using Mask = RingMask;
  using Shard = RingShard;
  using Precision = Precision_;
  using Backend = Cuda<>;
  using Communicator = AnyTransport;
  static constexpr int head_dim = head_dim_, value_dim = value_dim_;
};

enum class Devices { one, several };

struct DeviceRow : RunTime {
  AnyShard::Kind shard, kv_shard;
  Devices devices;
};

inline RingMask mask_of(RunTime const& r, Problem const& p) {
  RingMask m;
  if (r.mask == MaskVariant::full) return m;
  m.kind = r.mask <= MaskVariant::causal_bottom_right ? RingMask::causal : RingMask::window;
  if (m.kind == RingMask::causal) set_mask(m.diagonal, r, p);
  if (m.kind == RingMask::window) set_mask(m.band, r, p);
  return m;
}

template <class P> void run_row(DeviceRow const& r, std::string const& text) {
  CAPTURE(text);
  // Some tiles per rank, with a rest: enough to show what goes wrong between tiles and between steps.
  PlanOptions<P> options{.problem = problem_of(r, 24 * r.ranks + 72), .commit = r.commit};
  options.mask = mask_of(r, options.problem);
  options.shard = {{r.shard}};
  options.kv_shard = {{r.kv_shard}};
  options.backward = r.calls == Calls::with_backward;
  auto const setup = make_setup<P>(options, r.input, std::uint64_t(2000 + r.row));
  RunOptions const patience{.deadline = std::chrono::seconds(200)};
  using Precision = typename P::Precision;
  std::vector<RankResult<Precision>> got(static_cast<size_t>(r.ranks)), other(got);
  int const devices = device_count();
  std::function<void(CudaPeer&)> const over_peer = [&](CudaPeer& peer) {
    Cuda<> backend({.device = r.devices == Devices::several ? peer.rank() % devices : 0});
    AnyTransport comm(peer);
    got[size_t(peer.rank())] = run_rank<P>(backend, comm, setup);
  };
  run_ranks<CudaPeer>(r.ranks, over_peer, patience);
  Verdict const verdict = Oracle<Precision>(setup).judge(got);
  CHECK_MESSAGE(verdict.ok(), verdict.text());
  CHECK(differs_from_replay(setup, got, std::max(1, r.ranks - 1)) == "");
#ifdef RINGATTN_TEST_NCCL
  std::function<void(InProcess&)> const over_nccl = [&](InProcess& host) {
    int const device = host.rank() % devices;
    Nccl<InProcess> nccl(host, device);
    Cuda<> backend({.device = device});
    AnyTransport comm(nccl);
    other[size_t(host.rank())] = run_rank<P>(backend, comm, setup);
  };
  if (devices >= r.ranks) {  // NCCL wants one for every rank
    run_ranks(r.ranks, over_nccl, patience);
    for (size_t i = 0; i < got.size(); ++i) CHECK(same_bits(got[i], other[i]));
  }
#endif
  covering_count.add(verdict.worst());
}

template <class P> void run_graph() {
  PlanOptions<P> options{.problem = {.batch = 1, .seq = 200, .heads = 2, .kv_heads = 1}};
  options.mask.kind = RingMask::causal;
  options.shard = options.kv_shard = {{AnyShard::zigzag}};
  auto const setup = make_setup<P>(options, InputClass::normal, 11);
  CHECK_NOTHROW(check_graph<P>(2, setup, [](CudaPeer& peer) { return AnyTransport(peer); }));
}

/// The rows of one precision. Define ROW_LIST to the list's file.
template <class Wanted> void run_rows(char const* name) {
  covering_count.list = "cuda_covering";
  covering_count.part = name;
#define ROW(row, policy, Precision, head_dim, value_dim, mask, shard, kv_shard, heads, kv_heads, ranks, length, calls, \
            input, commit, devices)                                                                                    \
  if constexpr (std::is_same_v<Precision, Wanted>)                                                                     \
    run_row<KernelPolicy<Precision, head_dim, value_dim>>(                                                             \
        {{row, MaskVariant::mask, heads, kv_heads, ranks, Length::length, Calls::calls, InputClass::input,             \
          Commit::commit},                                                                                             \
         AnyShard::shard,                                                                                              \
         AnyShard::kv_shard,                                                                                           \
         Devices::devices},                                                                                            \
        "row " #row ": " #Precision " " #head_dim "/" #value_dim " " #mask " " #shard " " #kv_shard " heads " #heads   \
        "/" #kv_heads " P " #ranks " " #length " " #calls " " #input " " #commit " " #devices);
#include ROW_LIST
#undef ROW
}

}  // namespace ringattn::test
