// SPDX-License-Identifier: Apache-2.0
// The pipeline over MPI: right, and the same bits as over threads, for 1 to 4 processes.
#include <ringattn/comm/mpi.hpp>
#include <ringattn/cpu/backend.hpp>

#include <doctest/doctest.h>

#include "conformance.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

template <class Precision_, class Mask_, class Shard_, class KvShard_, class Overlap_> struct OverThreads : Policy {
  using Precision = Precision_;
  using Mask = Mask_;
  using Shard = Shard_;
  using KvShard = KvShard_;
  using Overlap = Overlap_;
  static constexpr int head_dim = 16;
  static constexpr int value_dim = 24;
};
template <class P> struct OverMpi : P { using Communicator = Mpi; };

/// Runs a problem over MPI, and again over threads inside every process; compares this rank's part.
template <class P> void compare(PlanOptions<P> const& options, InputClass kind, std::uint64_t seed) {
  Mpi comm(MPI_COMM_WORLD, {.deadline = std::chrono::seconds(60)});
  using Q = OverMpi<P>;
  PlanOptions<Q> mpi_options{.problem = options.problem, .mask = options.mask, .commit = options.commit};
  auto const setup = make_setup<P>(options, kind, seed);
  Setup<Q> mpi_setup(mpi_options);
  static_cast<Case<typename P::Precision>&>(mpi_setup) = setup;

  Cpu cpu;
  auto const mine = run_rank<Q>(cpu, comm, mpi_setup);
  auto const threads = run_ring<P>(comm.size(), setup);
  CHECK(same_bits(mine, threads[size_t(comm.rank())]));
  CHECK(mine.total.messages == threads[size_t(comm.rank())].total.messages);
  CHECK(mine.total.bytes == threads[size_t(comm.rank())].total.bytes);
  Verdict const verdict = Oracle<typename P::Precision>(setup).judge(threads);
  INFO(verdict.text());
  CHECK(verdict.ok());
}

}  // namespace

TEST_CASE("full mask, contiguous, fp64") {
  compare<OverThreads<Fp64, Full, Contiguous, void, Overlapped>>(
      {.problem = {.batch = 2, .seq = 61, .heads = 4, .kv_heads = 2}}, InputClass::normal, 1);
}
TEST_CASE("causal, zigzag, fp32, with and without the vote") {
  for (Commit commit : {Commit::all, Commit::local})
    compare<OverThreads<Fp32, Causal, ZigZag, void, Overlapped>>(
        {.problem = {.seq = 131, .heads = 4, .kv_heads = 1}, .commit = commit}, InputClass::uniform02, 2);
}
TEST_CASE("window, queries zigzag and keys striped, bf16, serial") {
  compare<OverThreads<Bf16, SlidingWindow, ZigZag, Striped, Serial>>(
      {.problem = {.seq = 50, .kv_seq = 70, .heads = 2}, .mask = {.left = 9, .right = 3, .offset = 10}},
      InputClass::normal, 3);
}
TEST_CASE("a window that looks forward turns the ring the other way; some ranks are empty") {
  compare<OverThreads<Fp64, SlidingWindow, Contiguous, void, Overlapped>>(
      {.problem = {.seq = 3, .heads = 1}, .mask = {.left = 0, .right = 1}}, InputClass::normal, 4);
}
TEST_CASE("a message of a size that is not a rank's: every rank hears of it") {
  // Ranks bring different batches, which only the transport can see.
  Mpi comm(MPI_COMM_WORLD, {.deadline = std::chrono::seconds(10)});
  if (comm.size() == 1) return;
  using P = OverMpi<OverThreads<Fp32, Full, Contiguous, void, Overlapped>>;
  Cpu cpu;
  RingAttention<P> ring(cpu, comm, {.problem = {.batch = 2, .seq = 64, .heads = 1}, .backward = false});
  Local local = ring.local();
  for (Extents* e : {&local.q, &local.k, &local.v, &local.out}) e->batch = comm.rank() == 0 ? 1 : 2;
  Tensor<float> q(local.q), k(local.k), v(local.v), out(local.out);
  for (float& x : out.values()) x = 7;
  CHECK_THROWS_AS(ring.forward({.q = q, .k = k, .v = v, .out = out}), Error);
  for (float x : out.values()) CHECK(x == 7);
}
