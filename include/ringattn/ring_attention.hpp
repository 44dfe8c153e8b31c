// SPDX-License-Identifier: Apache-2.0
// RingAttention<P>: plan once, then forward and backward as often as you like.
#pragma once

#include <bit>
#include <memory>
#include <new>
#include <optional>

#include "policy.hpp"
#include "ring/checks.hpp"
#include "ring/contract.hpp"
#include "ring/rotate_keys.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Exact softmax attention over a sequence that is sharded across the ranks of a ring.
///
/// Every rank constructs one with its own backend and communicator, which must outlive it, and equal options; then all
/// ranks make the same calls in the same order. Calls allocate nothing. One thread at a time per object, and per
/// communicator and backend; objects on different communicators are independent.
///
/// Errors: whatever is wrong in the constructor is thrown as the same Error on every rank, and the ring stays usable.
/// A call that fails on any rank aborts the ring: every rank throws within comm.deadline(), with its own outputs
/// untouched (with Commit::local a rank may have been done before). After that the communicator is of no more use.
template <class P> class RingAttention {
  static_assert(detail::check_policy<P>(), "ringattn: the policy is not valid, see the sentence above");
  static_assert(detail::check_devices<P>(), "ringattn: the policy's devices are not valid, see the sentence above");

 public:
  using Backend = typename P::Backend;
  using Communicator = typename P::Communicator;
  using Kernel = KernelOf<P>;
  using Options = PlanOptions<P>;
  using Precision = typename P::Precision;

  /// Plans: checks the options, compares them with the other ranks', derives the schedule and gets the workspace.
  /// Collective. Throws the same Error on every rank: invalid_argument, contract_mismatch, out_of_memory, ...
  RingAttention(Backend& backend, Communicator& comm, Options options) : backend_(backend), comm_(comm) {
    guarded_plan([&] {
      Ring const here{comm.rank(), comm.size()};
      std::optional<Error> error;
      Contract mine;  // objects that failed their own checks are not asked for fingerprints
      if (auto thrown = attempt(here.rank, [&] {
            error = detail::wrong_options(options, here);
            if (!error) mine = contract(options, here, backend);
          }))
        error = thrown;
      agree(comm, mine, error, "plan: handshake");
      error = attempt(here.rank, [&] {
        plan_ = make_plan(options, here);
        engine_ = std::make_unique<Engine<typename P::Strategy, P>>(backend, comm, *plan_, options.workspace);
      });
      agree(comm, Contract{}, error, "plan: workspace");
    });
  }

  /// The shapes of this rank's tensors for the planned batch.
  Local local() const { return plan_->local(plan_->problem.batch); }
  /// Global positions of this rank's query rows, in local order.
  std::span<Rows const> rows() const { return plan_->q_rows; }
  /// Global positions of this rank's key/value rows, in local order.
  std::span<Rows const> kv_rows() const { return plan_->kv_rows[size_t(plan_->here.rank)]; }
  Problem const& problem() const { return plan_->problem; }
  Schedule const& schedule() const { return plan_->schedule; }
  /// The bytes this rank keeps: depends on its shard and the largest one, not on the sequence.
  size_t workspace_bytes() const { return engine_->workspace().size(); }
  /// Seconds, messages and bytes since construction.
  Timings const& timings() const { return engine_->timings(); }

  /// out = softmax(scale q k^T, masked) v and lse, its natural-log normaliser, for this rank's query rows.
  /// Collective. On return outputs are complete on host backends; on streams they are enqueued.
  void forward(ForwardArgs<P> const& a) {
    call([&] {
      detail::CallChecks checks(plan_->here.rank, batch_of(a.q.extents, "q"));
      Local const shape = local();
      check_inputs(checks, shape, a);
      checks.tensor("out", a.out, shape.out);
      checks.tensor("lse", a.lse, shape.lse, true);
      checks.distinct({{"out", a.out}, {"lse", a.lse}}, {{"q", a.q}, {"k", a.k}, {"v", a.v}});
      checks.outside(engine_->workspace(), {{"q", a.q}, {"k", a.k}, {"v", a.v}, {"out", a.out}, {"lse", a.lse}});
      engine_->forward(a);
    });
  }

  /// dq, dk, dv of this rank's rows from `dout`, with the `out` and `lse` of the forward pass.
  /// Collective. On return outputs are complete on host backends; on streams they are enqueued.
  void backward(BackwardArgs<P> const& a) {
    static_assert(AttendsBackward<Backend, Kernel>,
                  "ringattn: Policy::Backend has no backward pass for this policy: it needs attend_backward_bytes, "
                  "begin_backward, step_backward, finish_backward and accumulate");
    call([&] {
      detail::CallChecks checks(plan_->here.rank, batch_of(a.q.extents, "q"));
      if (!plan_->backward) checks.fail("backward", "a plan made with backward = true", "backward = false");
      Local const shape = local();
      check_inputs(checks, shape, a);
      checks.tensor("out", a.out, shape.out);
      checks.tensor("lse", a.lse, shape.lse);
      checks.tensor("dout", a.dout, shape.out);
      checks.tensor("dq", a.dq, shape.q);
      checks.tensor("dk", a.dk, shape.k);
      checks.tensor("dv", a.dv, shape.v);
      checks.distinct({{"dq", a.dq}, {"dk", a.dk}, {"dv", a.dv}},
                      {{"q", a.q}, {"k", a.k}, {"v", a.v}, {"out", a.out}, {"lse", a.lse}, {"dout", a.dout}});
      checks.outside(engine_->workspace(), {{"q", a.q},
                                            {"k", a.k},
                                            {"v", a.v},
                                            {"out", a.out},
                                            {"lse", a.lse},
                                            {"dout", a.dout},
                                            {"dq", a.dq},
                                            {"dk", a.dk},
                                            {"dv", a.dv}});
      engine_->backward(a);
    });
  }

  /// Returns when what was enqueued is done, on host backends at once. With Commit::local on a stream backend this is
  /// where late or dead peers surface: throws as forward does, within comm.deadline(), which therefore has to be longer
  /// than what is enqueued takes. Waiting for the stream itself instead may take for ever.
  void synchronize() {
    call([&] { settle(comm_, backend_, "synchronize"); });
  }

 private:
  static constexpr double scale_of(Options const& o) {
    return o.scale == 0 ? 1 / std::sqrt(double(P::head_dim)) : o.scale;
  }
  static bool votes(Options const& o) {
    if (o.commit == Commit::automatic) return std::is_same_v<typename Backend::Space, HostSpace>;
    return o.commit == Commit::all;
  }

  /// The tiles of this rank's device, which may depend on more than the type of the backend.
  static Tile tile(Backend const& backend) {
    if constexpr (KnowsTiles<Backend, Kernel>)
      return backend.template attend_tile<Kernel>();
    else
      return Kernel::tile(Backend::arch);
  }
  static Tile backward_tile(Backend const& backend) {
    if constexpr (KnowsTiles<Backend, Kernel> && AttendsBackward<Backend, Kernel>)
      return backend.template attend_backward_tile<Kernel>();
    else
      return tile(backend);
  }

  static Contract contract(Options const& o, Ring here, Backend const& backend) {
    Problem const p = o.problem.resolved();
    Contract c;
    auto& v = c.value;
    v[Contract::version] = RINGATTN_VERSION;
    v[Contract::ring_size] = std::uint64_t(here.size);
    v[Contract::batch] = std::uint64_t(p.batch);
    v[Contract::seq] = std::uint64_t(p.seq);
    v[Contract::kv_seq] = std::uint64_t(p.kv_seq);
    v[Contract::heads] = std::uint64_t(p.heads);
    v[Contract::kv_heads] = std::uint64_t(p.kv_heads);
    v[Contract::head_dim] = std::uint64_t(P::head_dim);
    v[Contract::value_dim] = std::uint64_t(value_dim_of<P>);
    v[Contract::precision] = std::uint64_t(Precision::fingerprint);
    v[Contract::mask] = o.mask.fingerprint();
    v[Contract::score] = o.score.fingerprint();
    v[Contract::shard] = o.shard.fingerprint();
    v[Contract::kv_shard] = o.kv_shard.fingerprint();
    v[Contract::scale] = std::bit_cast<std::uint64_t>(scale_of(o));
    v[Contract::strategy] = fingerprint_of(P::Strategy::name);
    v[Contract::kv_tile] = std::uint64_t(tile(backend).kv);
    v[Contract::commit] = votes(o);
    v[Contract::backward] = o.backward;
    v[Contract::backward_tile] = o.backward ? Contract::both(backward_tile(backend)) : 0;
    return c;
  }

  static std::unique_ptr<Plan<P>> make_plan(Options const& o, Ring here) {
    auto plan = std::make_unique<Plan<P>>();
    plan->problem = o.problem.resolved();
    plan->here = here;
    plan->mask = o.mask;
    plan->score = o.score;
    plan->scale = typename Precision::Accumulator(scale_of(o));
    plan->vote = votes(o);
    plan->backward = o.backward;
    plan->schedule = make_schedule(here.size, o.mask, o.shard, o.kv_shard, plan->problem);
    for (Rows const& r : o.shard.rows(here, plan->problem.seq)) plan->q_rows.push_back(r);
    plan->kv_rows.resize(size_t(here.size));
    for (int r = 0; r < here.size; ++r)
      for (Rows const& rows : o.kv_shard.rows(Ring{r, here.size}, plan->problem.kv_seq))
        plan->kv_rows[size_t(r)].push_back(rows);
    return plan;
  }

  /// Runs f; what it throws comes back as an Error, so that the other ranks can be told.
  template <class F> static std::optional<Error> attempt(int rank, F&& f) {
    try {
      f();
      return std::nullopt;
    } catch (Error const& e) {
      if (e.rank() >= 0) return e;
      return Error(e.code(), rank, e.argument(), e.expected(), e.actual());
    } catch (std::bad_alloc const&) {
      return Error(ErrorCode::out_of_memory, rank, "workspace", "", "std::bad_alloc");
    } catch (std::exception const& e) {
      return Error(ErrorCode::invalid_argument, rank, "plan", "", e.what());
    }
  }

  /// A handshake that ended with the same Error everywhere leaves the ring usable; anything else aborts it.
  template <class F> void guarded_plan(F&& f) {
    try {
      f();
    } catch (Error const&) {
      throw;  // agreed upon, or await() has aborted the ring
    } catch (std::exception const& e) {
      comm_.abort("rank " + std::to_string(comm_.rank()) + ": " + e.what());
      throw;
    }
  }

  template <class F> void call(F&& f) {
    try {
      guarded(comm_, f);
    } catch (...) {
      engine_->drop();  // after the abort: no peer touches our buffers from here on
      throw;
    }
  }

  int64_t batch_of(Extents const& q, char const* name) const {
    if (q.batch < 1 || q.batch > plan_->problem.batch)
      throw Error(ErrorCode::invalid_argument, plan_->here.rank, name,
                  "a batch of 1 to " + std::to_string(plan_->problem.batch), std::to_string(q.batch));
    return q.batch;
  }
  template <class Args> static void check_inputs(detail::CallChecks& checks, Local const& shape, Args const& a) {
    checks.tensor("q", a.q, shape.q);
    checks.tensor("k", a.k, shape.k);
    checks.tensor("v", a.v, shape.v);
  }

  Backend& backend_;
  Communicator& comm_;
  std::unique_ptr<Plan<P>> plan_;  // outlives the engine, which refers to it
  std::unique_ptr<Engine<typename P::Strategy, P>> engine_;
};

}  // namespace ringattn
