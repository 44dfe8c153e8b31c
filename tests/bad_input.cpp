// SPDX-License-Identifier: Apache-2.0
// Bad arguments: Error with argument, expected, actual and rank; on every rank of a plan; outputs untouched by a call.
#include <ringattn/comm/solo.hpp>
#include <ringattn/cpu/backend.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <functional>
#include <limits>
#include <set>
#include <string>

#include "conformance.hpp"

using namespace ringattn;
using namespace ringattn::test;

namespace {

struct P0 : Policy {
  using Mask = SlidingWindow;
  using Tiles = FixedTiles<8, 8>;
  static constexpr int head_dim = 8;
};
struct Alone : P0 {
  using Communicator = Solo;
};

/// Loses its last row.
struct Short : Contiguous {
  Runs<1> rows(Ring ring, int64_t seq) const { return Contiguous::rows(ring, seq - 1); }
};
struct Backwards : Contiguous {
  Runs<1> rows(Ring, int64_t seq) const {
    Runs<1> r;
    r.add({seq - 1, -1, seq});
    return r;
  }
};
/// Gives every rank the rows of rank 0.
struct Repeating : Contiguous {
  Runs<1> rows(Ring ring, int64_t seq) const {
    Runs<1> r;
    r.add({0, 1, seq / ring.size});
    return r;
  }
};
struct Throwing : Contiguous {
  Runs<1> rows(Ring, int64_t) const { throw std::runtime_error("no table of rows"); }
};
struct RepeatingShard : P0 {
  using Shard = Repeating;
  using KvShard = Contiguous;
};
struct ThrowingShard : P0 {
  using Shard = Throwing;
};
struct ShortShard : P0 {
  using Shard = Short;
  using KvShard = Contiguous;
};
struct BackwardsShard : P0 {
  using Shard = Contiguous;
  using KvShard = Backwards;
};

constexpr Problem good{.batch = 2, .seq = 12, .heads = 4, .kv_heads = 2};

/// Planned by one rank, good options by the others: every rank must throw the same, and say who.
template <class P> void bad_plan(PlanOptions<P> const& bad, std::string const& argument) {
  for (int size : {1, 2, 3}) {
    CAPTURE(argument);
    CAPTURE(size);
    std::atomic<int> right{0};
    run_ranks(size,
              [&](InProcess& comm) {
                Cpu cpu;
                PlanOptions<P> const fine{.problem = good};
                try {
                  RingAttention<P>(cpu, comm, comm.rank() == size - 1 ? bad : fine);
                } catch (Error const& e) {
                  // A shard is wrong everywhere, so the lowest rank is named.
                  right += e.code() == ErrorCode::invalid_argument && e.argument() == argument &&
                           !e.expected().empty() && !e.actual().empty() &&
                           (e.rank() == size - 1 || argument.find("shard") != std::string::npos);
                }
              },
              {.deadline = std::chrono::seconds(10)});
    CHECK(right == size);
  }
}

/// One rank, good tensors, and a change to them.
struct Tensors {
  RingAttention<Alone>& ring;
  Local e = ring.local();
  Tensor<float> q{e.q}, k{e.k}, v{e.v}, out{e.out}, lse{e.lse}, dout{e.out}, dq{e.q}, dk{e.k}, dv{e.v};
  ForwardArgs<Alone> forward{.q = q, .k = k, .v = v, .out = out, .lse = lse};
  BackwardArgs<Alone> backward{
      .q = q, .k = k, .v = v, .out = out, .lse = lse, .dout = dout, .dq = dq, .dk = dk, .dv = dv};

  explicit Tensors(RingAttention<Alone>& r) : ring(r) {
    for (auto* t : {&out, &lse, &dq, &dk, &dv}) std::fill(t->values().begin(), t->values().end(), 0.25f);
  }
  bool untouched() const {
    for (auto* t : {&out, &lse, &dq, &dk, &dv})
      for (float x : t->values())
        if (x != 0.25f) return false;
    return true;
  }
};

struct Bench {
  Cpu cpu;
  Solo comm;
  RingAttention<Alone> ring{cpu, comm, {.problem = good}};

  void expect(std::string const& argument, Tensors& t, std::function<void()> const& call) {
    CAPTURE(argument);
    try {
      call();
      FAIL_CHECK("no error");
    } catch (Error const& e) {
      CHECK(e.code() == ErrorCode::invalid_argument);
      CHECK(e.argument() == argument);
      CHECK(e.rank() == 0);
      CHECK_FALSE(e.expected().empty());
      CHECK_FALSE(e.actual().empty());
    }
    CHECK(t.untouched());
    Tensors fine(ring);  // and the object is as good as before
    ring.forward(fine.forward);
  }
  void bad_forward(std::string const& argument, std::function<void(ForwardArgs<Alone>&, Tensors&)> const& change) {
    Tensors t(ring);
    change(t.forward, t);
    expect(argument, t, [&] { ring.forward(t.forward); });
  }
  void bad_backward(std::string const& argument, std::function<void(BackwardArgs<Alone>&, Tensors&)> const& change) {
    Tensors t(ring);
    change(t.backward, t);
    expect(argument, t, [&] { ring.backward(t.backward); });
  }
};

}  // namespace

TEST_CASE("bad input: options of a plan") {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  bad_plan<P0>({.problem = {.batch = 0, .seq = 12}}, "problem.batch");
  bad_plan<P0>({.problem = {.seq = -1, .kv_seq = 4}}, "problem.seq");
  bad_plan<P0>({.problem = {.seq = 12, .heads = 0, .kv_heads = 1}}, "problem.heads");
  bad_plan<P0>({.problem = {.seq = 12, .heads = 4, .kv_heads = 0}}, "problem.kv_heads");
  bad_plan<P0>({.problem = {.seq = 12, .heads = 4, .kv_heads = 3}}, "problem.kv_heads");
  bad_plan<P0>({.problem = good, .mask = {.left = -1}}, "mask");
  bad_plan<P0>({.problem = good, .mask = {.right = -3}}, "mask");
  bad_plan<P0>({.problem = good, .mask = {.left = 0, .right = std::numeric_limits<int64_t>::max()}}, "mask");
  bad_plan<P0>({.problem = {.seq = int64_t(1) << 60}}, "problem");
  bad_plan<P0>({.problem = good, .scale = nan}, "scale");
  bad_plan<ShortShard>({.problem = good}, "shard");
  bad_plan<BackwardsShard>({.problem = good}, "kv_shard");
}

TEST_CASE("bad input: shards that repeat rows or throw") {
  for (int size : {2, 3}) {
    std::atomic<int> right{0};
    run_ranks(size, [&](InProcess& comm) {
      Cpu cpu;
      try {
        RingAttention<RepeatingShard> ring(cpu, comm, {.problem = good});
      } catch (Error const& e) {
        right += e.argument() == "shard" && e.rank() == 0;
      }
      try {
        RingAttention<ThrowingShard> ring(cpu, comm, {.problem = good});
      } catch (Error const& e) {
        right += e.rank() == 0 && e.actual() == "no table of rows";
      }
      right += !comm.aborted();
    });
    CHECK(right == 3 * size);
  }
}

TEST_CASE("bad input: a workspace that is too small or not aligned") {
  alignas(64) static std::byte memory[1 << 20];
  bad_plan<P0>({.problem = good, .workspace = {memory, 64}}, "workspace");
  bad_plan<P0>({.problem = good, .workspace = {memory + 8, sizeof memory - 8}}, "workspace");
}

TEST_CASE("bad input: shapes of forward") {
  Bench b;
  b.bad_forward("q", [](auto& a, auto&) { a.q.extents.batch = 3; });
  b.bad_forward("q", [](auto& a, auto&) { a.q.extents.batch = 0; });
  b.bad_forward("q", [](auto& a, auto&) { a.q.extents.seq = 11; });
  b.bad_forward("q", [](auto& a, auto&) { a.q.extents.dim = 16; });
  b.bad_forward("k", [](auto& a, auto&) { a.k.extents.heads = 4; });
  b.bad_forward("k", [](auto& a, auto&) { a.k.extents.dim = 7; });
  b.bad_forward("v", [](auto& a, auto&) { a.v.extents.seq = 13; });
  b.bad_forward("v", [](auto& a, auto&) { a.v.extents.batch = 1; });
  b.bad_forward("out", [](auto& a, auto&) { a.out.extents.heads = 2; });
  b.bad_forward("lse", [](auto& a, auto&) { a.lse.extents.dim = 8; });
}

TEST_CASE("bad input: null, overlapping and doubly written tensors of forward") {
  Bench b;
  b.bad_forward("q", [](auto& a, auto&) { a.q.data = nullptr; });
  b.bad_forward("k", [](auto& a, auto&) { a.k.data = nullptr; });
  b.bad_forward("out", [](auto& a, auto&) { a.out.data = nullptr; });
  b.bad_forward("out", [](auto& a, Tensors& t) { a.out = t.q; });
  b.bad_forward("out", [](auto& a, Tensors& t) { a.out.data = t.q.values().data() + 5; });
  b.bad_forward("out", [](auto& a, Tensors& t) { a.lse.data = t.out.values().data(); });
  b.bad_forward("lse", [](auto& a, Tensors& t) { a.lse.data = t.k.values().data(); });
  b.bad_forward("out", [](auto& a, auto&) { a.out.stride[1] = 0; });
  b.bad_forward("q", [](auto& a, Tensors& t) {
    a.q.data = reinterpret_cast<float const*>(reinterpret_cast<char const*>(t.q.values().data()) + 1);
  });
}

TEST_CASE("bad input: backward") {
  Bench b;
  b.bad_backward("q", [](auto& a, auto&) { a.q.extents.seq = 1; });
  b.bad_backward("out", [](auto& a, auto&) { a.out.data = nullptr; });
  b.bad_backward("out", [](auto& a, auto&) { a.out.extents.dim = 4; });
  b.bad_backward("lse", [](auto& a, auto&) { a.lse.data = nullptr; });
  b.bad_backward("dout", [](auto& a, auto&) { a.dout.extents.seq = 3; });
  b.bad_backward("dq", [](auto& a, auto&) { a.dq.data = nullptr; });
  b.bad_backward("dk", [](auto& a, auto&) { a.dk.extents.heads = 4; });
  b.bad_backward("dv", [](auto& a, auto&) { a.dv.extents.seq = 4; });
  b.bad_backward("dq", [](auto& a, Tensors& t) {
    a.dq = t.dq;
    a.dk.data = t.dq.values().data();
  });
  b.bad_backward("dk", [](auto& a, Tensors& t) { a.dv.data = t.dk.values().data(); });
  b.bad_backward("dv", [](auto& a, Tensors& t) { a.dv.data = t.v.values().data(); });
  b.bad_backward("dq", [](auto& a, Tensors& t) { a.dq.data = t.dout.values().data(); });
}

TEST_CASE("bad input: backward of a plan without one") {
  Cpu cpu;
  Solo comm;
  RingAttention<Alone> ring(cpu, comm, {.problem = good, .backward = false});
  Tensors t(ring);
  try {
    ring.backward(t.backward);
    FAIL_CHECK("no error");
  } catch (Error const& e) {
    CHECK(e.argument() == "backward");
  }
  CHECK(t.untouched());
}

TEST_CASE("bad input: slices of one packed tensor do not overlap, though their ranges do") {
  // q, k, v, out side by side in one [batch, seq, heads, 4 * dim] tensor, as engines pack them.
  Cpu cpu;
  Solo comm;
  Problem const p{.batch = 2, .seq = 12, .heads = 2};
  RingAttention<Alone> ring(cpu, comm, {.problem = p});
  Tensor<float> packed(Extents{2, 12, 2, 32});
  Random random(1);
  for (float& x : packed.values()) x = float(random.normal());
  auto const slice = [&](int i) {
    View<float> v = packed;
    v.data += 8 * i;
    v.extents.dim = 8;
    return v;
  };
  CHECK_NOTHROW(ring.forward({.q = slice(0), .k = slice(1), .v = slice(2), .out = slice(3)}));
  CHECK_THROWS_AS(ring.forward({.q = slice(0), .k = slice(1), .v = slice(2), .out = slice(2)}), Error);
}

TEST_CASE("bad input: no overlap goes unseen, and packed tensors of any widths have none") {
  using Bytes = View<char>;
  auto const addresses = [](Bytes const& v) {
    std::set<char const*> all;
    for (int64_t b = 0; b < v.extents.batch; ++b)
      for (int64_t n = 0; n < v.extents.seq; ++n)
        for (int64_t h = 0; h < v.extents.heads; ++h)
          for (int64_t d = 0; d < v.extents.dim; ++d) all.insert(&v(b, n, h, d));
    return all;
  };
  static char memory[4096];
  Random random(3);
  int unseen = 0, shared = 0, apart = 0;
  for (int i = 0; i < 20000; ++i) {
    Bytes v[2];
    bool const like = random.below(2);  // mostly the strides of one packed tensor
    for (int j : {0, 1}) {
      v[j].data = memory + 2048 + random.below(40);
      v[j].extents = {1 + random.below(3), 1 + random.below(3), 1 + random.below(3), 1 + random.below(4)};
      for (int axis = 0; axis < 4; ++axis)
        v[j].stride[axis] = random.below(9) == 0 ? -random.below(5) : random.below(40);
      if (j == 1 && like)
        for (int axis = 0; axis < 4; ++axis) v[1].stride[axis] = v[0].stride[axis];
    }
    std::set<char const*> const a = addresses(v[0]), b = addresses(v[1]);
    bool const meet = std::any_of(a.begin(), a.end(), [&](char const* p) { return b.contains(p); });
    bool const found = detail::overlap({"a", v[0]}, {"b", v[1]});
    unseen += meet && !found;
    shared += meet;
    apart += !found;
  }
  CHECK(unseen == 0);
  CHECK(shared > 1000);
  CHECK(apart > 1000);

  // dq | dk | dv in one row of 4 * 5 + 2 * 5 + 2 * 3 bytes; then head-major blocks behind one another.
  Extents const wide{2, 3, 4, 5}, key{2, 3, 2, 5}, value{2, 3, 2, 3};
  Bytes const dq{memory, wide, {108, 36, 5, 1}}, dk{memory + 20, key, {108, 36, 5, 1}},
      dv{memory + 30, value, {108, 36, 3, 1}}, past{memory + 31, value, {108, 36, 3, 1}};
  CHECK_FALSE(detail::overlap({"dq", dq}, {"dk", dk}));
  CHECK_FALSE(detail::overlap({"dq", dq}, {"dv", dv}));
  CHECK_FALSE(detail::overlap({"dk", dk}, {"dv", dv}));
  CHECK(detail::overlap({"dq", dq}, {"past", past}));
  Bytes const one{memory, {2, 3, 1, 5}, {90, 5, 15, 1}}, rest{memory + 15, {2, 3, 5, 5}, {90, 5, 15, 1}};
  CHECK_FALSE(detail::overlap({"one", one}, {"rest", rest}));
}

TEST_CASE("bad input: tensors in the workspace") {
  Cpu cpu;
  Solo comm;
  alignas(64) static std::byte memory[1 << 20];
  RingAttention<Alone> ring(cpu, comm, {.problem = good, .workspace = memory});
  Tensors t(ring);
  auto const fails = [&](char const* name, auto&& call) {
    try {
      call();
      FAIL_CHECK("no error for " << name);
    } catch (Error const& e) {
      CHECK(e.argument() == name);
      CHECK(std::string(e.what()).find("workspace") != std::string::npos);
    }
  };
  auto* const inside = reinterpret_cast<float*>(memory + ring.workspace_bytes() - 64);
  auto forward = t.forward;
  forward.k.data = inside;
  fails("k", [&] { ring.forward(forward); });
  auto backward = t.backward;
  backward.dv.data = inside;
  fails("dv", [&] { ring.backward(backward); });
  CHECK(t.untouched());
  forward.k.data = reinterpret_cast<float*>(memory + ring.workspace_bytes());  // behind it
  CHECK_NOTHROW(ring.forward(forward));
}

TEST_CASE("bad input: the stride of an axis of extent 1 means nothing") {
  Cpu cpu;
  Solo comm;
  RingAttention<Alone> ring(cpu, comm, {.problem = {.batch = 1, .seq = 12, .heads = 2}});
  Tensor<float> packed(Extents{1, 12, 2, 32});
  auto const slice = [&](int i) {
    View<float> v = packed;
    v.data += 8 * i;
    v.extents.dim = 8;
    v.stride[0] = i;  // as a framework may leave it
    return v;
  };
  CHECK_NOTHROW(ring.forward({.q = slice(0), .k = slice(1), .v = slice(2), .out = slice(3)}));
  CHECK_THROWS_AS(ring.forward({.q = slice(0), .k = slice(1), .v = slice(2), .out = slice(1)}), Error);
}

TEST_CASE("bad input: a call that is wrong on one rank fails on all, naming it") {
  std::atomic<int> right{0};
  run_ranks(3,
            [&](InProcess& comm) {
              Cpu cpu;
              RingAttention<P0> ring(cpu, comm, {.problem = good, .mask = {.left = 12, .right = 12}});
              Local const e = ring.local();
              Tensor<float> q(e.q), k(e.k), v(e.v), out(e.out);
              for (float& x : out.values()) x = 0.25f;
              ForwardArgs<P0> args{.q = q, .k = k, .v = v, .out = out};
              if (comm.rank() == 1) args.k.extents.dim = 9;
              try {
                ring.forward(args);
              } catch (Error const& e) {
                bool const untouched =
                    std::all_of(out.values().begin(), out.values().end(), [](float x) { return x == 0.25f; });
                right += untouched && std::string(e.what()).find("on rank 1: 'k'") != std::string::npos;
              }
            },
            {.deadline = std::chrono::seconds(10)});
  CHECK(right == 3);
}

TEST_CASE("bad input: threads") { CHECK_THROWS_AS(Cpu({.threads = 0}), Error); }
