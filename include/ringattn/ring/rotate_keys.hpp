// SPDX-License-Identifier: Apache-2.0
// The engine of RotateKeys: one workspace, the rotation, and when outputs are written.
#pragma once

#include <optional>

#include "backward.hpp"
#include "contract.hpp"
#include "forward.hpp"
#include "workspace.hpp"

namespace ringattn::inline RINGATTN_ABI {

template <class P> class Engine<RotateKeys, P> {
 public:
  using Backend = typename P::Backend;
  using Communicator = typename P::Communicator;
  using K = KernelOf<P>;
  using Space = typename Backend::Space;
  using Element = typename P::Precision::Element;

  /// `workspace`: the user's bytes, or empty. `plan` must outlive the engine.
  Engine(Backend& backend, Communicator& comm, Plan<P> const& plan, std::span<std::byte> workspace)
      : backend_(backend), comm_(comm), plan_(plan), traffic_(backend, comm), layout_(layout(backend, plan)) {
    if (workspace.empty()) {
      owned_.emplace(backend.allocate(layout_.total));
      base_ = owned_->data();
    } else {
      if (workspace.size() < layout_.total)
        throw Error(ErrorCode::invalid_argument, plan.here.rank, "workspace",
                    "at least " + std::to_string(layout_.total) + " bytes",
                    std::to_string(workspace.size()) + " bytes");
      if (reinterpret_cast<std::uintptr_t>(workspace.data()) % 64 != 0)
        throw Error(ErrorCode::invalid_argument, plan.here.rank, "workspace", "alignment to 64 bytes", "less");
      base_ = workspace.data();
    }
    rotation_.emplace(backend_, traffic_, plan_, at<Element>(layout_.slot[0]), at<Element>(layout_.slot[1]));
    if constexpr (AttendsBackward<Backend, K>)
      gradients_.emplace(backend_, traffic_, plan_,
                         typename GradientTraffic<P>::Buffers{at<Accumulator>(layout_.mine), at<Wire>(layout_.arriving),
                                                              at<Wire>(layout_.leaving), at<Wire>(layout_.home)});
  }

  /// The workspace of a plan: what the constructor allocates or asks the user for.
  static RotateWorkspace layout(Backend& backend, Plan<P> const& plan) {
    AttendShape const shape = attend_shape(plan);
    StateBytes bytes{.forward = backend.template attend_bytes<K>(shape)};
    if constexpr (AttendsBackward<Backend, K>)
      if (plan.backward) bytes.backward = backend.template attend_backward_bytes<K>(shape);
    return rotate_workspace<P>(plan.problem, plan.here.size, plan.schedule.largest_kv(),
                               plan.schedule.kv_count[size_t(plan.here.rank)], bytes, plan.backward);
  }

  std::span<std::byte const> workspace() const { return {base_, layout_.total}; }
  Timings const& timings() const { return traffic_.timings; }

  void forward(ForwardArgs<P> const& args) {
    ++traffic_.timings.calls;
    AttendStep<K, Space> step;
    fill(step, args.q, layout_.forward_state);
    forward_steps<P>(backend_, plan_, *rotation_, traffic_.timings, args, step, [&] { vote(); });
  }

  void backward(BackwardArgs<P> const& args) {
    ++traffic_.timings.calls;
    BackwardStep<K, Space> step;
    fill(step, args.q, layout_.backward_state);
    step.out = args.out;
    step.dout = args.dout;
    step.lse = args.lse;
    backward_steps<P>(backend_, plan_, *rotation_, *gradients_, traffic_.timings, args, step);
    vote();
    backend_.template finish_backward<K>(step, args.dq);
    auto const mine = gradients_->home();
    backend_.copy(mine.k, args.dk);
    backend_.copy(mine.v, args.dv);
  }

  /// Lets go of every message under way. Only after the ring was aborted.
  void drop() {
    rotation_->drop();
    if (gradients_) gradients_->drop();
  }

 private:
  using Accumulator = typename P::Precision::Accumulator;
  using Wire = typename P::Precision::Wire;

  static AttendShape attend_shape(Plan<P> const& plan) {
    AttendShape shape{.batch = plan.problem.batch,
                      .heads = plan.problem.heads,
                      .kv_heads = plan.problem.kv_heads,
                      .q_rows = plan.q_rows,
                      .kv_count = plan.schedule.largest_kv()};
    for (auto const& rows : plan.kv_rows) shape.kv_runs = std::max(shape.kv_runs, int64_t(rows.size()));
    return shape;
  }
  template <class T> T* at(size_t offset) const { return reinterpret_cast<T*>(base_ + offset); }

  void fill(AttendStep<K, Space>& step, View<Element const, Space> q, size_t state) {
    step.q = q;
    step.q_rows = plan_.q_rows;
    step.mask = plan_.mask;
    step.score = plan_.score;
    step.scale = plan_.scale;
    step.state = base_ + state;
    step.progress = {[](void* self) {
                       auto& comm = static_cast<Engine*>(self)->comm_;
                       comm.progress();
                       return !comm.aborted();
                     },
                     this};
  }

  /// Every rank has computed: from here on outputs may be written. A step that stopped early because the ring was
  /// aborted must not get this far, whether there is a vote or not.
  void vote() {
    if (auto reason = comm_.aborted()) throw Error(ErrorCode::aborted, comm_.rank(), "steps", "", *reason);
    if (plan_.here.size == 1) return;
    if (!plan_.vote) return;
    detail::Stopwatch watch(traffic_.timings.wait_s);
    settle(comm_, backend_, "vote: this rank's steps");
    char const yes = 1;
    all_gather(comm_, yes, std::span(votes_), "vote");
  }

  Backend& backend_;
  Communicator& comm_;
  Plan<P> const& plan_;
  Traffic<P> traffic_;
  RotateWorkspace layout_;
  std::optional<decltype(std::declval<Backend&>().allocate(0))> owned_;
  std::byte* base_ = nullptr;
  std::optional<Rotation<P>> rotation_;
  std::optional<GradientTraffic<P>> gradients_;
  std::vector<char> votes_ = std::vector<char>(static_cast<size_t>(plan_.here.size));
};

}  // namespace ringattn
