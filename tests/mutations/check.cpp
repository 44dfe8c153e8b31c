// SPDX-License-Identifier: Apache-2.0
// The suite in small: quick to compile, so that every planted bug can have its own build. Ends with 0 only if all is
// well; each mutant must make it fail.
#include <ringattn/cpu/backend.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>

#include "../any_shard.hpp"
#include "../conformance.hpp"
#include "../traffic.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

/// Throws in a step on request.
class Faulty : public Cpu {
 public:
  int throws_at = -1;
  template <class K> void step(AttendStep<K, HostSpace> const& s) {
    if (throws_at-- == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the others are done by then
      throw std::runtime_error("planted");
    }
    Cpu::step<K>(s);
  }
};

struct Small : Policy {
  using Mask = Causal;
  using Shard = AnyShard;
  using Backend = Faulty;
  using Tiles = FixedTiles<8, 8>;
  static constexpr int head_dim = 8;
};

void require(bool ok, char const* what) {
  if (ok) return;
  std::printf("red: %s\n", what);
  std::fflush(stdout);
  std::_Exit(1);
}

RunOptions const quick{.deadline = std::chrono::seconds(2)};

/// Against the oracle, under late arrivals, and in messages.
void ring(int ranks, Problem const& problem, int shard, InputClass input) {
  auto const setup = make_setup<Small>(
      {.problem = problem, .mask = Causal::bottom_right(problem), .shard = {shard}, .kv_shard = {shard}}, input, 7);
  auto const got = run_ring<Small>(ranks, setup, quick);
  Verdict const verdict = Oracle<Fp32>(setup).judge(got);
  if (!verdict.ok()) std::printf("%s\n", verdict.text().c_str());
  require(verdict.ok(), "oracle");
  auto late = chaotic(5);
  late.deadline = quick.deadline;
  auto const again = run_ring<Small>(ranks, setup, late);
  for (size_t r = 0; r < got.size(); ++r) require(same_bits(got[r], again[r]), "late arrivals");

  auto const& o = setup.options;
  Schedule const s = make_schedule(ranks, o.mask, o.shard, o.kv_shard, o.problem);
  BruteForce const brute(ranks, o.mask, o.shard, o.kv_shard, o.problem);
  require(BruteForce::sum(s.travel) == brute.fewest_hops(), "hops");
  auto const row = setup.problem.batch * setup.problem.kv_heads * 16;
  auto const expected = expected_traffic(s, s.travel, row, 4, 4, false);
  int64_t messages = 0;
  for (auto const& r : got) messages += r.forward.messages;
  require(messages == expected.messages, "messages");
}

void masks() {
  char const* const inclusive[] = {"x...", "xx..", "xxx.", "xxxx"};
  for (int64_t q = 0; q < 4; ++q)
    for (int64_t k = 0; k < 4; ++k) require(Causal{}.visible(q, k) == (inclusive[q][k] == 'x'), "causal table");
  for (int64_t q = 0; q < 4; ++q)
    for (int64_t k = 0; k < 4; ++k)
      require((Causal{}.coverage({q, 1, 1}, {k, 1, 1}) == Coverage::full) == (inclusive[q][k] == 'x'),
              "causal coverage");
}

void merging() {
  auto const m = softmax::merge(-5000.f, 1.f, 5000.f, 2.f);
  require(m.max == 5000.f && m.sum == 2.f && m.left == 0.f && m.right == 1.f, "merge of far states");
  auto const e = softmax::merge(softmax::minus_infinity<float>, 0.f, softmax::minus_infinity<float>, 0.f);
  require(e.sum == 0.f && softmax::lse(e.max, e.sum) == softmax::minus_infinity<float>, "merge of empty states");
}

/// One rank fails in its last step: nobody may have written an output.
void vote() {
  auto const setup = make_setup<Small>({.problem = {.seq = 16}, .mask = {.offset = 16}}, InputClass::normal, 1);
  int threw = 0;
  bool untouched = true;
  std::mutex mutex;
  run_ranks(
      2,
      [&](InProcess& comm) {
        Faulty backend;
        if (comm.rank() == 1) backend.throws_at = 1;
        RingAttention<Small> ring(backend, comm, setup.options);
        Local const l = ring.local();
        Tensor<float> q(l.q), k(l.k), v(l.v);
        auto out = garbage<float>(l.out);
        try {
          ring.forward({.q = q, .k = k, .v = v, .out = {out.data(), l.out}});
        } catch (std::exception const&) {
          std::lock_guard lock(mutex);
          ++threw;
        }
        std::lock_guard lock(mutex);
        untouched = untouched && same_bits(out, garbage<float>(l.out));
      },
      quick);
  require(threw == 2 && untouched, "vote");
}

}  // namespace

int main() {
  std::thread([] {
    std::this_thread::sleep_for(std::chrono::seconds(30));
    require(false, "hangs");
  }).detach();
  try {
    masks();
    merging();
    for (int shard : {AnyShard::zigzag, AnyShard::contiguous, AnyShard::striped}) {
      ring(4, {.batch = 2, .seq = 64, .heads = 4, .kv_heads = 2}, shard, InputClass::uniform02);
      ring(4, {.seq = 64, .heads = 2}, shard, InputClass::huge_lse);
      ring(3, {.seq = 31, .kv_seq = 38, .heads = 2, .kv_heads = 1}, shard, InputClass::normal);
      ring(5, {.seq = 3, .heads = 2}, shard, InputClass::normal);
      ring(2, {.seq = 24, .kv_seq = 9}, shard, InputClass::normal);  // the first rows see nothing
    }
    vote();
  } catch (std::exception const& e) {
    std::printf("%s\n", e.what());
    require(false, "exception");
  }
  std::printf("green\n");
  std::fflush(stdout);
  std::_Exit(0);
}
