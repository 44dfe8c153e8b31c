// SPDX-License-Identifier: Apache-2.0
// A small decoder trained as the example does it: the same losses for every ring size, the same bits from run to run,
// no allocation in a step, bytes per rank that fall with the ring.
#include <doctest/doctest.h>
#include <ringattn/comm/in_process.hpp>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>

#include "../../examples/support/blas_threads.hpp"
#include "../../examples/support/trainer.hpp"

using namespace example;
using namespace std::chrono_literals;
using ringattn::InProcess;
using ringattn::run_ranks;

namespace {
std::atomic<long> allocations{0};

void* counted(size_t bytes, size_t alignment) {
  ++allocations;
  void* const p = std::aligned_alloc(alignment, (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

// Not inlined, since g++ takes the pair for a mismatch when it sees through one of them only.
[[gnu::noinline]] void* operator new(size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
[[gnu::noinline]] void* operator new(size_t bytes, std::align_val_t a) { return counted(bytes, size_t(a)); }
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace {

ModelShape const small{
    .batch = 2, .seq = 101, .layers = 2, .width = 64, .heads = 2, .kv_heads = 1, .hidden = 48, .block = 32};

/// Words of a made-up language, so that there is something to learn.
std::string made_up_text() {
  std::string text;
  for (std::uint64_t i = 0; text.size() < 6000; ++i) {
    std::uint64_t const word = random_bits(5, i) % 40;
    for (std::uint64_t j = 0; j < 2 + word % 5; ++j) text += char('a' + random_bits(6, word * 8 + j) % 26);
    text += ' ';
  }
  return text;
}

struct Outcome {
  std::vector<double> losses;
  std::vector<double> parameters;  // rank 0's; every rank has the same
  double held_out = 0;
  size_t activation_bytes = 0;  // of the rank that has most
  long step_allocations = 0;    // of all ranks, in all steps but the first
};

template <class Precision> Outcome run_training(int ranks, int steps, ModelShape const& shape = small) {
  using P = DecoderPolicy<Precision, InProcess, 32>;
  single_threaded_blas();
  std::string const text = made_up_text();
  Outcome out;
  std::mutex mutex;
  std::vector<std::vector<double>> parameters(static_cast<size_t>(ranks)), losses(static_cast<size_t>(ranks));
  for (auto& l : losses) l.reserve(size_t(steps));
  run_ranks(ranks,
            [&](InProcess& comm) {
              ringattn::Cpu cpu;
              Trainer<P> trainer(cpu, comm, shape, {.seed = 3, .peak_rate = 1e-2, .warm_up = 5, .adamw = {}});
              auto& mine = losses[size_t(comm.rank())];
              if (steps > 0) mine.push_back(trainer.step(text, 0));
              char const done = 1;
              std::vector<char> all(static_cast<size_t>(ranks));
              ringattn::all_gather(comm, done, std::span(all), "first step");  // everybody is past its first step
              long const before = allocations;
              ringattn::all_gather(comm, done, std::span(all), "count");
              for (int i = 1; i < steps; ++i) mine.push_back(trainer.step(text, double(i) / steps));
              ringattn::all_gather(comm, done, std::span(all), "last step");
              long const after = allocations;
              ringattn::all_gather(comm, done, std::span(all), "count");
              double const held_out = steps > 0 ? trainer.evaluate(text, 3) : 0;
              std::lock_guard const lock(mutex);
              auto const weights = trainer.model().parameters();
              parameters[size_t(comm.rank())].assign(weights.begin(), weights.end());
              out.activation_bytes = std::max(out.activation_bytes, trainer.model().activation_bytes());
              if (comm.rank() > 0) return;
              out.step_allocations = after - before;
              out.held_out = held_out;
            },
            {.deadline = 30s});
  for (int r = 1; r < ranks; ++r) {
    CHECK(parameters[size_t(r)] == parameters[0]);  // replicated, bit for bit
    CHECK(losses[size_t(r)] == losses[0]);
  }
  out.losses = losses[0];
  out.parameters = parameters[0];
  return out;
}

double worst_relative(std::vector<double> const& a, std::vector<double> const& b) {
  double worst = 0;
  for (size_t i = 0; i < b.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return worst;
}

}  // namespace

TEST_CASE("training: Fp64 losses of 20 steps do not depend on the ring size; the loss falls") {
  Outcome const one = run_training<ringattn::Fp64>(1, 20);
  CHECK(one.losses.front() == doctest::Approx(8).epsilon(0.03));
  CHECK(one.losses.back() < 5);
  CHECK(one.held_out < 5);
  for (int const ranks : {2, 4, 8}) {
    CAPTURE(ranks);
    Outcome const ring = run_training<ringattn::Fp64>(ranks, 20);
    CHECK(worst_relative(ring.losses, one.losses) < 1e-9);
    CHECK(std::abs(ring.held_out - one.held_out) < 1e-9 * one.held_out);
  }
}

TEST_CASE("training: fp32 agrees in the first step") {
  Outcome const one = run_training<ringattn::Fp32>(1, 1);
  for (int const ranks : {2, 4, 8})
    CHECK(worst_relative(run_training<ringattn::Fp32>(ranks, 1).losses, one.losses) < 1e-6);
}

TEST_CASE("training: a ring of four gives the same bits from run to run") {
  Outcome const a = run_training<ringattn::Fp32>(4, 8), b = run_training<ringattn::Fp32>(4, 8);
  CHECK(a.losses == b.losses);
  CHECK(a.parameters == b.parameters);
}

TEST_CASE("training: keeping attention's output changes nothing but time and bytes") {
  ModelShape keep = small;
  keep.keep_attention = true;
  Outcome const a = run_training<ringattn::Fp32>(2, 6), b = run_training<ringattn::Fp32>(2, 6, keep);
  CHECK(a.losses == b.losses);
  CHECK(b.activation_bytes > a.activation_bytes);
}

TEST_CASE("training: a tied head, and attention that gives zero") {
  ModelShape shape = small;
  shape.tied = true;
  Outcome const one = run_training<ringattn::Fp64>(1, 6, shape);
  CHECK(worst_relative(run_training<ringattn::Fp64>(3, 6, shape).losses, one.losses) < 1e-9);
  CHECK(one.losses.back() < one.losses.front());
  shape = small;
  shape.zero_attention = true;
  Outcome const zero = run_training<ringattn::Fp64>(1, 6, shape);
  CHECK(worst_relative(run_training<ringattn::Fp64>(3, 6, shape).losses, zero.losses) < 1e-9);
}

TEST_CASE("training: steps allocate nothing") {
  for (int const ranks : {1, 2, 4}) CHECK(run_training<ringattn::Fp32>(ranks, 4).step_allocations == 0);
}

TEST_CASE("training: bytes per rank fall as the ring grows") {
  ModelShape shape = small;
  shape.seq = 2048;  // so that a thread's scratch is small beside it
  shape.block = 16;
  std::vector<double> bytes;
  for (int const ranks : {2, 4, 8})
    bytes.push_back(double(run_training<ringattn::Fp32>(ranks, 0, shape).activation_bytes));
  // Half of it, but for the block's scratch and padding.
  CHECK(bytes[1] < 0.55 * bytes[0]);
  CHECK(bytes[2] < 0.60 * bytes[1]);
}
