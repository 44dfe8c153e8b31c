// SPDX-License-Identifier: Apache-2.0
// Thousands of small random problems over a few compiled policies: against the oracle, and some against the replay and
// under late arrivals. One case again: RINGATTN_SEED=<seed> RINGATTN_CASE=<number> random_cases
#include <ringattn/cpu/backend.hpp>

#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "any_shard.hpp"
#include "replay.hpp"
#include "report.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

template <class Mask_, class Precision_, int head_dim_, int value_dim_, class Tiles_, class Overlap_ = Overlapped>
struct Pol : Policy {
  using Mask = Mask_;
  using Precision = Precision_;
  using Shard = AnyShard;
  using Tiles = Tiles_;
  using Overlap = Overlap_;
  static constexpr int head_dim = head_dim_, value_dim = value_dim_;
};

long from_environment(char const* name, long otherwise) {
  char const* const text = std::getenv(name);
  return text ? std::atol(text) : otherwise;
}

struct Count {
  long cases = 0, failed = 0, replayed = 0, late = 0;
  double rms_over_plain = 0;  // 16-bit tensors: the ring's rms error over that of a dense 16-bit computation
  long compared = 0;
  std::map<std::string, double> worst;  // error / tolerance, by tensor
} count;

void draw_mask(Full&, Random&, Problem const&) {}
void draw_mask(Causal& m, Random& random, Problem const& p) {
  int64_t const offsets[] = {0, 0, p.kv_seq - p.seq, random.below(9) - 4};
  m.offset = offsets[random.below(4)];
}
void draw_mask(SlidingWindow& m, Random& random, Problem const& p) {
  m.left = random.below(p.kv_seq + 2) / (1 + random.below(3));
  m.right = random.below(2) ? 0 : random.below(p.kv_seq + 2) / (1 + random.below(3));
  m.offset = random.below(2) ? 0 : p.kv_seq - p.seq;
}

template <class P> void run_case(std::uint64_t seed, long number) {
  Random random(seed * 1000003 + std::uint64_t(number));
  int64_t const head_choices[][2] = {{1, 1}, {2, 2}, {2, 1}, {4, 2}, {3, 3}, {6, 2}};
  auto const& heads = head_choices[random.below(6)];
  int const ranks = 1 + int(random.below(6));
  Problem p{.batch = 1 + random.below(2), .seq = random.below(46), .heads = heads[0], .kv_heads = heads[1]};
  p.kv_seq = random.below(3) ? p.seq : random.below(46);
  p = p.resolved();
  PlanOptions<P> options{.problem = p, .commit = random.below(2) ? Commit::all : Commit::local};
  draw_mask(options.mask, random, p);
  options.shard.kind = int(random.below(5));
  options.kv_shard.kind = random.below(2) ? options.shard.kind : int(random.below(5));
  if (random.below(4) == 0) options.scale = 0.05 + random.uniform();
  auto const input = InputClass(random.below(8));
  auto const setup = make_setup<P>(options, input, random.bits());

  auto const ranks_got = run_ring<P>(ranks, setup);
  Verdict const verdict = Oracle<typename P::Precision>(setup).judge(ranks_got);
  for (Measure const& m : verdict.measures) {
    double& w = count.worst[m.tensor];
    w = std::max(w, m.error / m.tolerance);
    // Where rows see one key only, the dense computation is exact to far below one rounding: nothing to compare with.
    double const rounding = unit_roundoff<typename P::Precision::Element> / 64;
    if (m.plain_rms > rounding && std::isfinite(m.plain_rms) && std::isfinite(m.rms)) {
      count.rms_over_plain += m.rms / m.plain_rms;
      ++count.compared;
    }
  }
  std::string differs, late;
  if (number % 4 == 0) {
    ++count.replayed;
    differs = differs_from_replay(setup, ranks_got);
  }
  if (number % 8 == 1) {
    ++count.late;
    auto const again = run_ring<P>(ranks, setup, chaotic(seed));
    for (int r = 0; r < ranks; ++r)
      if (!same_bits(ranks_got[size_t(r)], again[size_t(r)])) late += " rank " + std::to_string(r);
  }
  ++count.cases;
  if (verdict.ok() && differs.empty() && late.empty()) return;
  ++count.failed;
  std::printf(
      "RINGATTN_SEED=%llu RINGATTN_CASE=%ld fails: P %d, batch %ld, seq %ld, kv_seq %ld, heads %ld/%ld, %s/%s, %s: "
      "%s; not as the replay: %s; other bits under late arrivals:%s\n",
      static_cast<unsigned long long>(seed), number, ranks, long(p.batch), long(p.seq), long(p.kv_seq), long(p.heads),
      long(p.kv_heads), AnyShard::names[size_t(options.shard.kind)], AnyShard::names[size_t(options.kv_shard.kind)],
      input_class_names[size_t(input)], verdict.text().c_str(), differs.c_str(), late.c_str());
}

using RunCase = void (*)(std::uint64_t, long);
constexpr RunCase policies[] = {
    run_case<Pol<Full, Fp32, 8, 8, FixedTiles<8, 8>>>,
    run_case<Pol<Causal, Fp32, 16, 8, FixedTiles<16, 8>, Serial>>,
    run_case<Pol<SlidingWindow, Fp32, 8, 8, FixedTiles<8, 16>>>,
    run_case<Pol<Causal, Fp64, 8, 8, FixedTiles<8, 8>>>,
    run_case<Pol<SlidingWindow, Bf16, 16, 16, DefaultTiles>>,
    run_case<Pol<Causal, Fp16, 8, 24, FixedTiles<16, 16>>>,
};

}  // namespace

TEST_CASE("random cases") {
  auto const seed = std::uint64_t(from_environment("RINGATTN_SEED", 20));
  long const only = from_environment("RINGATTN_CASE", -1), cases = from_environment("RINGATTN_CASES", 2400);
  std::printf("RINGATTN_SEED=%llu\n", static_cast<unsigned long long>(seed));
  for (long i = only < 0 ? 0 : only; i < (only < 0 ? cases : only + 1); ++i) {
    CAPTURE(i);
    REQUIRE_NOTHROW(policies[size_t(i) % std::size(policies)](seed, i));
  }
  std::printf("%ld random cases, %ld failed; %ld replayed, %ld again under late arrivals; worst error / tolerance:",
              count.cases, count.failed, count.replayed, count.late);
  std::vector<std::pair<std::string, double>> report = {{"random_cases", double(count.cases)},
                                                        {"random_cases_failed", double(count.failed)},
                                                        {"random_seed", double(seed)}};
  for (auto const& [tensor, worst] : count.worst) {
    std::printf(" %s %.3g", tensor.c_str(), worst);
    report.push_back({"worst_error_over_tolerance_" + tensor, worst});
  }
  // One tiny case may be unlucky where the dense computation is lucky; the mean over hundreds may not.
  double const mean = count.compared ? count.rms_over_plain / double(count.compared) : 0;
  std::printf("; 16-bit rms error over that of a dense computation, mean: %.3g\n", mean);
  report.push_back({"rms_over_dense_16_bit", mean});
  if (only < 0) CHECK(mean <= 1.1);
  write_report("random_cases", report);
  CHECK(count.failed == 0);
}
