// SPDX-License-Identifier: Apache-2.0
// The pipeline: lengths, extreme inputs, NaN, layouts, buffers, determinism, and an error that does not grow with P.
#include <ringattn/cpu/backend.hpp>

#include <doctest/doctest.h>

#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "any_shard.hpp"
#include "replay.hpp"
#include "traffic.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

template <class Mask_, class Precision_> struct Pol : Policy {
  using Mask = Mask_;
  using Precision = Precision_;
  using Shard = AnyShard;
  using Tiles = FixedTiles<8, 8>;
  static constexpr int head_dim = 8;
};
using Full32 = Pol<Full, Fp32>;
using Causal32 = Pol<Causal, Fp32>;
using Causal64 = Pol<Causal, Fp64>;
using Window32 = Pol<SlidingWindow, Fp32>;

struct Serially : Causal32 {
  using Overlap = Serial;
};

constexpr int ring_sizes[] = {1, 2, 3, 4, 5, 7, 8, 16};

template <class P> void check_ring(int ranks, PlanOptions<P> const& options, InputClass input, int replay_each = 4) {
  auto const setup = make_setup<P>(options, input, std::uint64_t(ranks));
  auto const got = run_ring<P>(ranks, setup);
  Verdict const verdict = Oracle<typename P::Precision>(setup).judge(got);
  CHECK_MESSAGE(verdict.ok(), verdict.text());
  CHECK(differs_from_replay(setup, got, replay_each) == "");
}

template <class P> bool same_rings(int ranks, Setup<P> const& setup, RunOptions const& options) {
  auto const a = run_ring<P>(ranks, setup), b = run_ring<P>(ranks, setup, options);
  for (int r = 0; r < ranks; ++r)
    if (!same_bits(a[size_t(r)], b[size_t(r)])) return false;
  return true;
}

}  // namespace

TEST_CASE("ring: lengths that no ring size divides, under every shard") {
  for (int64_t seq : {1, 2, 31, 62, 84, 90, 105, 110})
    for (int shard = 0; shard < 5; ++shard)
      for (int ranks : ring_sizes) {
        CAPTURE(seq);
        CAPTURE(ranks);
        CAPTURE(AnyShard::names[size_t(shard)]);
        check_ring<Causal32>(
            ranks, {.problem = {.seq = seq, .heads = 2, .kv_heads = 1}, .shard = {shard}, .kv_shard = {shard}},
            InputClass::uniform02, 8);
      }
}

TEST_CASE("ring: no rows at all, on one side or both") {
  for (int ranks : {1, 2, 3}) {
    check_ring<Causal32>(ranks, {.problem = {.seq = 0}}, InputClass::normal);
    check_ring<Full32>(ranks, {.problem = {.seq = 0, .kv_seq = 9}}, InputClass::normal);
    check_ring<Full32>(ranks, {.problem = {.seq = 9, .kv_seq = 0}}, InputClass::normal);  // out 0, lse -inf, dq 0
  }
}

TEST_CASE("ring: rows that see nothing have out 0, lse -inf and gradient 0, exactly") {
  Problem const p{.seq = 24, .kv_seq = 9, .heads = 2};
  for (int ranks : {1, 2, 4, 5}) {
    PlanOptions<Causal32> const options{.problem = p, .mask = Causal::bottom_right(p)};
    auto const setup = make_setup<Causal32>(options, InputClass::normal, 5);
    auto const got = run_ring<Causal32>(ranks, setup);
    CHECK(Oracle<Fp32>(setup).judge(got).ok());
    for (auto const& r : got) {
      int64_t row = 0;
      for (Rows const& run : r.rows)
        for (int64_t i = 0; i < run.count; ++i, ++row) {
          if (run.at(i) >= 15) continue;  // query 15 is the first that sees key 0
          for (int h = 0; h < 2; ++h) {
            CHECK(r.lse[size_t(row * 2 + h)] == -std::numeric_limits<float>::infinity());
            for (int d = 0; d < 8; ++d) {
              CHECK(r.out[size_t((row * 2 + h) * 8 + d)] == 0);
              CHECK(r.dq[size_t((row * 2 + h) * 8 + d)] == 0);
            }
          }
        }
    }
  }
}

TEST_CASE("ring: blocks whose lse differ by more than exp can hold") {
  Problem const p{.seq = 40, .heads = 2};
  auto const wide = make_setup<Causal64>({.problem = p}, InputClass::huge_lse, 1);
  CHECK(Oracle<Fp64>(wide).exact.largest_score > 700);
  auto const narrow = make_setup<Causal32>({.problem = p}, InputClass::huge_lse, 1);
  CHECK(Oracle<Fp32>(narrow).exact.largest_score > 88);
  for (int ranks : {2, 4, 5, 8})
    for (int shard = 0; shard < 3; ++shard) {
      check_ring<Causal64>(ranks, {.problem = p, .shard = {shard}, .kv_shard = {shard}}, InputClass::huge_lse);
      check_ring<Causal32>(ranks, {.problem = p, .shard = {shard}, .kv_shard = {shard}}, InputClass::huge_lse);
      check_ring<Full32>(ranks, {.problem = p, .shard = {shard}, .kv_shard = {shard}}, InputClass::huge_lse);
    }
}

TEST_CASE("ring: NaN and infinity reach exactly the rows that see them") {
  float const nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (float special : {nan, inf})
    for (int tensor = 0; tensor < 4; ++tensor)
      for (int64_t row : {0, 7, 19, 23})
        for (int shard = 0; shard < 3; ++shard)
          for (int ranks : {1, 3, 4}) {
            CAPTURE(special);
            CAPTURE(tensor);
            CAPTURE(row);
            CAPTURE(shard);
            CAPTURE(ranks);
            auto setup = make_setup<Causal32>(
                {.problem = {.seq = 24, .heads = 2}, .shard = {shard}, .kv_shard = {shard}}, InputClass::normal, 9);
            auto& x = tensor == 0 ? setup.q : tensor == 1 ? setup.k : tensor == 2 ? setup.v : setup.dout;
            x[size_t((row * 2 + 1) * 8 + 3)] = special;
            auto const got = run_ring<Causal32>(ranks, setup);
            Verdict const verdict = Oracle<Fp32>(setup).judge(got);
            // Gradients of a row that is NaN already may be NaN or infinite in other ways: where, counts.
            for (Measure const& m : verdict.measures)
              if (m.tensor[0] != 'd') CHECK_MESSAGE(m.same_specials, m.tensor);
            DenseResults<double> const& exact = Oracle<Fp32>(setup).exact;
            std::vector<float> dq = garbage<float>(setup.q_extents()), dk = dq, dv = dq;
            for (auto const& r : got) {
              put_rows(dq, setup.q_extents(), r.rows, r.dq);
              put_rows(dk, setup.k_extents(), r.kv_rows, r.dk);
              put_rows(dv, setup.v_extents(), r.kv_rows, r.dv);
            }
            int wrong = 0;
            auto const count = [&](std::vector<float> const& a, std::vector<double> const& b) {
              for (size_t i = 0; i < a.size(); ++i) wrong += std::isfinite(a[i]) != std::isfinite(b[i]);
            };
            count(dq, exact.dq);
            count(dk, exact.dk);
            count(dv, exact.dv);
            CHECK(wrong == 0);
          }
}

TEST_CASE("ring: any strides, a smaller batch than planned, no lse, the user's workspace: the same bits") {
  Setup<Window32> const dense = make_setup<Window32>(
      {.problem = {.batch = 2, .seq = 21, .heads = 4, .kv_heads = 2}, .mask = {.left = 6}}, InputClass::normal, 4);
  auto const expected = run_ring<Window32>(3, dense);
  std::vector<int> wrong(3, 0);
  run_ranks(3, [&](InProcess& comm) {
    Cpu cpu;
    auto options = dense.options;
    options.problem.batch = 3;
    RingAttention<Window32> const sizer(cpu, comm, options);
    std::vector<std::byte> memory(sizer.workspace_bytes() + 64);
    size_t const skip = 64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
    options.workspace = {memory.data() + skip, sizer.workspace_bytes()};
    RingAttention<Window32> ring(cpu, comm, options);
    CHECK(ring.workspace_bytes() == sizer.workspace_bytes());
    RankResult<Fp32> const& want = expected[size_t(comm.rank())];
    Local local = ring.local();
    for (Extents* e : {&local.q, &local.k, &local.v, &local.out, &local.lse}) e->batch = 2;
    // Memory in [heads, dim, batch, seq] order, every other element unused.
    auto const spread = [](std::vector<float>& memory_of, Extents const& e) {
      memory_of.assign(size_t(2 * e.count()), -7.f);
      return View<float>(memory_of.data(), e, {2 * e.seq, 2, 2 * e.seq * e.batch * e.dim, 2 * e.seq * e.batch});
    };
    auto const write = [](View<float> const& v, std::vector<float> const& from) {
      View<float const> const x(from.data(), v.extents);
      for (int64_t b = 0; b < v.extents.batch; ++b)
        for (int64_t s = 0; s < v.extents.seq; ++s)
          for (int64_t h = 0; h < v.extents.heads; ++h)
            for (int64_t d = 0; d < v.extents.dim; ++d) v(b, s, h, d) = x(b, s, h, d);
    };
    auto const differ = [](View<float> const& v, std::vector<float> const& from) {
      View<float const> const x(from.data(), v.extents);
      int n = 0;
      for (int64_t b = 0; b < v.extents.batch; ++b)
        for (int64_t s = 0; s < v.extents.seq; ++s)
          for (int64_t h = 0; h < v.extents.heads; ++h)
            for (int64_t d = 0; d < v.extents.dim; ++d) n += v(b, s, h, d) != x(b, s, h, d);
      return n;
    };
    std::vector<float> m[9];
    auto const q = spread(m[0], local.q), k = spread(m[1], local.k), v = spread(m[2], local.v),
               out = spread(m[3], local.out), dout = spread(m[4], local.out), dq = spread(m[5], local.q),
               dk = spread(m[6], local.k), dv = spread(m[7], local.v), lse = spread(m[8], local.lse);
    write(q, take_rows(dense.q, dense.q_extents(), ring.rows()));
    write(k, take_rows(dense.k, dense.k_extents(), ring.kv_rows()));
    write(v, take_rows(dense.v, dense.v_extents(), ring.kv_rows()));
    write(dout, take_rows(dense.dout, dense.out_extents(), ring.rows()));
    int& n = wrong[size_t(comm.rank())];
    ring.forward({.q = q, .k = k, .v = v, .out = out});
    n += differ(out, want.out);
    ring.forward({.q = q, .k = k, .v = v, .out = out, .lse = lse});
    ring.backward({.q = q, .k = k, .v = v, .out = out, .lse = lse, .dout = dout, .dq = dq, .dk = dk, .dv = dv});
    n +=
        differ(out, want.out) + differ(lse, want.lse) + differ(dq, want.dq) + differ(dk, want.dk) + differ(dv, want.dv);
    for (auto const& memory_of : m)  // what lies between is not touched
      for (size_t i = 1; i < memory_of.size(); i += 2) n += memory_of[i] != -7.f;
  });
  CHECK(wrong == std::vector<int>{0, 0, 0});
}

TEST_CASE(
    "ring: the same bits from run to run, under late arrivals, with and without overlap and vote, on any threads") {
  PlanOptions<Causal32> options{.problem = {.seq = 50, .heads = 4, .kv_heads = 2}, .shard = {1}, .kv_shard = {2}};
  for (int ranks : {2, 4, 7}) {
    auto setup = make_setup<Causal32>(options, InputClass::normal, 8);
    for (std::uint64_t seed = 0; seed < 4; ++seed) CHECK(same_rings(ranks, setup, chaotic(seed)));
    auto const once = run_ring<Causal32>(ranks, setup);
    setup.options.commit = Commit::local;
    auto const no_vote = run_ring<Causal32>(ranks, setup, chaotic(9));
    auto const serial = run_ring<Serially>(
        ranks,
        make_setup<Serially>({.problem = options.problem, .shard = {1}, .kv_shard = {2}}, InputClass::normal, 8));
    std::vector<RankResult<Fp32>> threaded(static_cast<size_t>(ranks));
    run_ranks(ranks, [&](InProcess& comm) {
      Cpu cpu({.threads = 3});
      threaded[size_t(comm.rank())] = run_rank<Causal32>(cpu, comm, setup);
    });
    for (size_t r = 0; r < size_t(ranks); ++r) {
      CHECK(same_bits(once[r], no_vote[r]));
      CHECK(same_bits(once[r], serial[r]));
      CHECK(same_bits(once[r], threaded[r]));
    }
  }
}

TEST_CASE("ring: messages and bytes as one can write them down") {
  auto const sent = [](auto const& ranks) {
    std::pair<TrafficOf, TrafficOf> t;  // forward, backward
    for (auto const& r : ranks) {
      t.first.messages += r.forward.messages;
      t.first.bytes += r.forward.bytes;
      t.second.messages += r.total.messages - r.forward.messages;
      t.second.bytes += r.total.bytes - r.forward.bytes;
    }
    return t;
  };
  for (int64_t ranks : {1, 2, 3, 4, 8}) {
    CAPTURE(ranks);
    Problem const p{.seq = 4 * ranks};
    int64_t const block = 4 * 2 * 8 * 4;  // rows, K and V, dim, bytes
    auto const [full, full_back] =
        sent(run_ring<Full32>(int(ranks), make_setup<Full32>({.problem = p}, InputClass::normal, 1)));
    CHECK(full.messages == ranks * (ranks - 1));
    CHECK(full.bytes == ranks * (ranks - 1) * block);
    CHECK(full_back.messages == (ranks == 1 ? 0 : ranks * (ranks - 1) + ranks * ranks));
    CHECK(full_back.bytes == (ranks == 1 ? 0 : (ranks * (ranks - 1) + ranks * ranks) * block));
    auto const [causal, causal_back] =
        sent(run_ring<Causal32>(int(ranks), make_setup<Causal32>({.problem = p}, InputClass::normal, 1)));
    CHECK(causal.messages == ranks * (ranks - 1) / 2);
    // Every block but the last rank's goes out and comes home.
    CHECK(causal_back.messages == ranks * (ranks - 1) + ranks - 1);
    auto const [window, window_back] = sent(run_ring<Window32>(
        int(ranks), make_setup<Window32>({.problem = p, .mask = {.left = 4}}, InputClass::normal, 1)));
    CHECK(window.messages == ranks - 1);
    CHECK(window_back.messages == (ranks - 1) + 2 * (ranks - 1));
  }
}

TEST_CASE("ring: a rank's workspace depends on its shard, not on the sequence") {
  auto const bytes = [](int ranks, int64_t seq) {
    std::vector<size_t> all(static_cast<size_t>(ranks));
    run_ranks(ranks, [&](InProcess& comm) {
      Cpu cpu;
      all[size_t(comm.rank())] =
          RingAttention<Causal32>(cpu, comm, {.problem = {.seq = seq, .heads = 2}}).workspace_bytes();
    });
    return all;
  };
  size_t const two = bytes(2, 64)[0];
  for (int ranks : {2, 4, 8, 16})
    for (size_t mine : bytes(ranks, 32 * ranks)) CHECK(mine == two);
  CHECK(bytes(1, 64)[0] < 2 * two);  // a ring of one keeps no travelling blocks
}

TEST_CASE("ring: the error does not grow with the ring") {
  // rms pooled over seeds, same tiles: at P = 16 at most 1.1 times what it is at P = 1.
  double worst = 0;
  auto const pooled = [&](auto policy, int shard) {
    using P = decltype(policy);
    double squares[2][5] = {};
    for (std::uint64_t seed = 0; seed < 16; ++seed) {
      auto const setup = make_setup<P>({.problem = {.seq = 128, .heads = 2}, .shard = {shard}, .kv_shard = {shard}},
                                       InputClass::normal, 100 + seed);
      Oracle<typename P::Precision> const oracle(setup);
      for (int big : {0, 1}) {
        auto const verdict = oracle.judge(run_ring<P>(big ? 16 : 1, setup));
        for (size_t i = 0; i < 5; ++i) {
          double const e =
              verdict.measures[i].tensor == std::string("lse") ? verdict.measures[i].error : verdict.measures[i].rms;
          squares[big][i] += e * e;
        }
      }
    }
    for (size_t i = 0; i < 5; ++i) {
      if (i == 1) continue;  // lse is measured by its maximum
      double const ratio = std::sqrt(squares[1][i] / squares[0][i]);
      CAPTURE(i);
      CHECK(ratio <= 1.1);
      worst = std::max(worst, ratio);
    }
  };
  pooled(Causal32{}, AnyShard::zigzag);
  pooled(Full32{}, AnyShard::contiguous);
  pooled(Pol<Causal, Bf16>{}, AnyShard::striped);
  std::printf("rms error, P = 16 over P = 1: at most %.3f\n", worst);
}

TEST_CASE("ring: one-hot values give P itself, constant keys the mean") {
  for (int ranks : {2, 3, 8})
    for (int shard = 0; shard < 3; ++shard) {
      check_ring<Causal64>(ranks, {.problem = {.seq = 8, .heads = 2}, .shard = {shard}, .kv_shard = {shard}},
                           InputClass::one_hot_v);
      auto const setup = make_setup<Causal64>({.problem = {.seq = 20}, .shard = {shard}, .kv_shard = {shard}},
                                              InputClass::constant_k, 2);
      for (auto const& r : run_ring<Causal64>(ranks, setup)) {
        int64_t row = 0;
        for (Rows const& run : r.rows)
          for (int64_t i = 0; i < run.count; ++i, ++row)
            for (int64_t d = 0; d < 8; ++d) {
              double mean = 0;
              for (int64_t k = 0; k <= run.at(i); ++k) mean += setup.v[size_t(k * 8 + d)];
              CHECK(std::abs(r.out[size_t(row * 8 + d)] - mean / double(run.at(i) + 1)) < 1e-14);
            }
      }
    }
}
