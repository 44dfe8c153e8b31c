// SPDX-License-Identifier: Apache-2.0
// A mask, a shard, a score, tiles and a communicator made here work in the pipeline, with no other file touched.
#include <ringattn/cpu/backend.hpp>

#include <doctest/doctest.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "replay.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

/// Two documents of equal length that do not see one another, and every third key for everybody.
struct Documents {
  int64_t length = 1;
  bool visible(int64_t q, int64_t k) const { return k % 3 == 0 || q / length == k / length; }
  Coverage coverage(Rows, Rows) const { return Coverage::partial; }
  std::uint64_t fingerprint() const { return fingerprint_of("documents", length); }
};

/// Chunks of three rows, dealt out like cards.
struct Dealt {
  std::vector<Rows> rows(Ring ring, int64_t seq) const {
    std::vector<Rows> mine;
    for (int64_t first = 3 * ring.rank; first < seq; first += 3 * ring.size)
      mine.push_back({first, 1, std::min<int64_t>(3, seq - first)});
    return mine;
  }
  std::uint64_t fingerprint() const { return fingerprint_of("dealt in threes"); }
};

/// A bias that falls with distance, and a soft cap: y = c tanh((x - s |q - k|) / c).
struct BiasedCap {
  float cap = 3, slope_ = 0.1f;
  static constexpr bool identity = false;
  template <class A> A biased(A x, int64_t head, int64_t q, int64_t k) const {
    return x - A(slope_) * A(head + 1) * A(q < k ? k - q : q - k);
  }
  template <class A> A apply(A x, int64_t head, int64_t q, int64_t k) const {
    return A(cap) * std::tanh(biased(x, head, q, k) / A(cap));
  }
  template <class A> A slope(A x, int64_t head, int64_t q, int64_t k) const {
    A const t = std::tanh(biased(x, head, q, k) / A(cap));
    return 1 - t * t;
  }
  std::uint64_t fingerprint() const { return fingerprint_of("biased cap"); }
};

/// Odd sizes on purpose.
struct OddTiles {
  constexpr Tile operator()(int, int head_dim, int, int) const { return {.q = head_dim == 8 ? 5 : 7, .kv = 11}; }
};

/// Mail: every pair has a letter box; a send copies, a receive takes when it waits.
class Post {
 public:
  struct Office {
    explicit Office(int n) : size(n) {}
    int size;
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::array<int, 3>, std::deque<std::vector<std::byte>>> boxes;  // lane, from, to
    std::optional<std::string> reason;
  };
  struct Expected {
    std::array<int, 3> box;
    std::span<std::byte> to;
  };
  class Transfer {
   public:
    template <class B> bool wait_for(B&, std::chrono::nanoseconds slice) {
      while (!expected_.empty()) {
        std::unique_lock lock(office_->mutex);
        auto& box = office_->boxes[expected_.front().box];
        bool const there = office_->changed.wait_for(lock, slice, [&] { return office_->reason || !box.empty(); });
        if (!there || office_->reason) return false;
        REQUIRE(box.front().size() == expected_.front().to.size());
        std::copy(box.front().begin(), box.front().end(), expected_.front().to.begin());
        box.pop_front();
        expected_.pop_front();
      }
      return true;
    }

   private:
    friend class Post;
    Office* office_ = nullptr;
    std::deque<Expected> expected_;
  };
  template <class Space> static constexpr bool moves = std::is_same_v<Space, HostSpace>;

  Post(Office& office, int rank) : office_(office), rank_(rank) {}
  int rank() const { return rank_; }
  int size() const { return office_.size; }
  template <class B> Transfer exchange(B&, std::span<Send const> sends, std::span<Recv const> recvs) {
    for (Send const& s : sends) put({0, rank_, s.to}, s.bytes);
    Transfer t = empty();
    for (Recv const& r : recvs) t.expected_.push_back({{0, r.from, rank_}, r.bytes});
    return t;
  }
  Transfer all_gather(std::span<std::byte const> mine, std::span<std::byte> all) {
    Transfer t = empty();
    for (int r = 0; r < size(); ++r) {
      put({1, rank_, r}, mine);
      t.expected_.push_back({{1, r, rank_}, all.subspan(size_t(r) * mine.size(), mine.size())});
    }
    return t;
  }
  void progress() {}
  void abort(std::string reason) {
    std::lock_guard lock(office_.mutex);
    if (!office_.reason) office_.reason = std::move(reason);
    office_.changed.notify_all();
  }
  std::optional<std::string> aborted() const {
    std::lock_guard lock(office_.mutex);
    return office_.reason;
  }
  std::chrono::nanoseconds deadline() const { return std::chrono::seconds(10); }

 private:
  Transfer empty() {
    Transfer t;
    t.office_ = &office_;
    return t;
  }
  void put(std::array<int, 3> box, std::span<std::byte const> bytes) {
    std::lock_guard lock(office_.mutex);
    office_.boxes[box].emplace_back(bytes.begin(), bytes.end());
    office_.changed.notify_all();
  }
  Office& office_;
  int rank_;
};

struct NewMask : Policy {
  using Mask = Documents;
  using Tiles = FixedTiles<8, 8>;
  static constexpr int head_dim = 8;
};
struct NewShard : NewMask {
  using Mask = Causal;
  using Shard = Dealt;
};
struct NewScore : NewShard {
  using Score = BiasedCap;
  using Shard = ZigZag;
};
struct NewScore64 : NewScore {
  using Precision = Fp64;
};
struct NewTiles : NewShard {
  using Tiles = OddTiles;
};
/// Gradients in bfloat16 on their way: half the bytes, rounded at every hop.
struct ShortWire : Bf16 {
  using Wire = BFloat16;
  static constexpr std::uint64_t fingerprint = fingerprint_of("bf16, gradients too");
};
struct NewPrecision : NewShard {
  using Precision = ShortWire;
};
struct Everything : Policy {
  using Mask = Documents;
  using Shard = Dealt;
  using KvShard = Striped;
  using Score = BiasedCap;
  using Tiles = OddTiles;
  static constexpr int head_dim = 16;
  static constexpr int value_dim = 8;
};
struct ByPost : Everything {
  using Communicator = Post;
};

template <class P> PlanOptions<P> options_of() {
  PlanOptions<P> o{.problem = {.batch = 2, .seq = 37, .heads = 4, .kv_heads = 2}};
  if constexpr (std::is_same_v<typename P::Mask, Documents>) o.mask.length = 19;
  return o;
}

template <class P> void works() {
  auto const setup = make_setup<P>(options_of<P>(), InputClass::normal, 6);
  Oracle<typename P::Precision> const oracle(setup, setup.options.score);
  for (int ranks : {1, 2, 3, 4, 8}) {
    auto const got = run_ring<P>(ranks, setup);
    Verdict const v = oracle.judge(got);
    CHECK_MESSAGE(v.ok(), v.text());
    CHECK(differs_from_replay(setup, got) == "");
  }
}

}  // namespace

TEST_CASE("extension: a mask") { works<NewMask>(); }
TEST_CASE("extension: a shard with many runs") { works<NewShard>(); }
TEST_CASE("extension: a score, with its slope in the gradients") {
  works<NewScore>();
  works<NewScore64>();
}
TEST_CASE("extension: tiles of odd sizes") { works<NewTiles>(); }
TEST_CASE("extension: a precision with a wire format of its own") { works<NewPrecision>(); }

TEST_CASE("extension: a communicator, with all of them, to the bit as InProcess") {
  works<Everything>();
  for (int ranks : {1, 2, 3, 5}) {
    auto const expected =
        run_ring<Everything>(ranks, make_setup<Everything>(options_of<Everything>(), InputClass::normal, 6));
    auto const setup = make_setup<ByPost>(options_of<ByPost>(), InputClass::normal, 6);
    Post::Office office(ranks);
    std::vector<RankResult<Fp32>> got(static_cast<size_t>(ranks));
    std::vector<std::thread> threads;
    for (int r = 0; r < ranks; ++r)
      threads.emplace_back([&, r] {
        Cpu cpu;
        Post comm(office, r);
        got[size_t(r)] = run_rank<ByPost>(cpu, comm, setup);
      });
    for (auto& t : threads) t.join();
    for (size_t r = 0; r < size_t(ranks); ++r) CHECK(same_bits(got[r], expected[r]));
  }
}
