// SPDX-License-Identifier: Apache-2.0
// Runs the rows of a CUDA covering list: each on CudaPeer and on Nccl, against the oracle, one device and each other.
#pragma once

#include <doctest/doctest.h>
#include <ringattn/cuda/backend.cuh>

#include <optional>
#include <variant>

#include "../report.hpp"
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

enum class MaskVariant { full, causal, causal_bottom_right, window_left_1, window_both_0 };
enum class Length { even, uneven, fewer_than_ranks, one_query, more_keys, fewer_keys };
enum class Calls { forward_only, with_backward };
enum class Devices { one, several };

struct RunTime {
  int row;
  MaskVariant mask;
  AnyShard::Kind shard, kv_shard;
  int64_t heads, kv_heads;
  int ranks;
  Length length;
  Calls calls;
  InputClass input;
  Commit commit;
  Devices devices;
};

/// Some tiles per rank, with a rest: enough to show what goes wrong between tiles and between steps.
inline Problem problem_of(RunTime const& r) {
  int64_t const even = 24 * r.ranks + 72, ranks = r.ranks;
  int64_t uneven = even + 1;
  while (ranks > 1 && uneven % ranks == 0) ++uneven;
  Problem p{.batch = 1 + r.row % 2, .seq = even, .heads = r.heads, .kv_heads = r.kv_heads};
  switch (r.length) {
    case Length::even:
      break;
    case Length::uneven:
      p.seq = uneven;
      break;
    case Length::fewer_than_ranks:
      p.seq = ranks - 1;
      break;
    case Length::one_query:
      p.seq = 1;
      p.kv_seq = uneven;
      break;
    case Length::more_keys:
      p.kv_seq = uneven + 9;
      break;
    case Length::fewer_keys:
      p.kv_seq = even / 2 + 1;
      break;
  }
  return p.resolved();
}

inline RingMask mask_of(RunTime const& r, Problem const& p) {
  RingMask m;
  int64_t const shard = (p.kv_seq + r.ranks - 1) / r.ranks;
  switch (r.mask) {
    case MaskVariant::full:
      break;
    case MaskVariant::causal:
      m.kind = RingMask::causal;
      break;
    case MaskVariant::causal_bottom_right:
      m.kind = RingMask::causal;
      m.diagonal = Causal::bottom_right(p);
      break;
    case MaskVariant::window_left_1:
      m.kind = RingMask::window;
      m.band = {.left = shard};
      break;
    case MaskVariant::window_both_0:
      m.kind = RingMask::window;
      m.band = {.left = shard / 2, .right = shard / 2, .offset = p.kv_seq - p.seq};
      break;
  }
  return m;
}

/// Counts what was run; written to the report when the program ends.
struct CoveringCount {
  std::string name;
  int rows = 0;
  double worst = 0;
  ~CoveringCount() {
    if (rows == 0) return;
    write_report("cuda_covering_" + name,
                 {{"cuda_covering_rows_run", double(rows)}, {"cuda_worst_error_over_tolerance_" + name, worst}});
  }
};
inline CoveringCount covering_count;

template <class P> void run_row(RunTime const& r, std::string const& text) {
  CAPTURE(text);
  PlanOptions<P> options{.problem = problem_of(r), .commit = r.commit};
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
  ++covering_count.rows;
  covering_count.worst = std::max(covering_count.worst, verdict.worst());
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
  covering_count.name = name;
#define ROW(row, policy, Precision, head_dim, value_dim, mask, shard, kv_shard, heads, kv_heads, ranks, length, calls, \
            input, commit, devices)                                                                                    \
  if constexpr (std::is_same_v<Precision, Wanted>)                                                                     \
    run_row<KernelPolicy<Precision, head_dim, value_dim>>(                                                             \
        {row, MaskVariant::mask, AnyShard::shard, AnyShard::kv_shard, heads, kv_heads, ranks, Length::length,          \
         Calls::calls, InputClass::input, Commit::commit, Devices::devices},                                           \
        "row " #row ": " #Precision " " #head_dim "/" #value_dim " " #mask " " #shard " " #kv_shard " heads " #heads   \
        "/" #kv_heads " P " #ranks " " #length " " #calls " " #input " " #commit " " #devices);
#include ROW_LIST
#undef ROW
}

}  // namespace ringattn::test
