// SPDX-License-Identifier: Apache-2.0
// A training run as a user sees it: progress bar, log, losses over time, and the comparison of ring sizes.
#pragma once

#include <ringattn/ringattn.hpp>

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "progress.hpp"
#include "trainer.hpp"

namespace example {

struct RunPlan {
  ModelShape model;
  TrainOptions train;
  int64_t steps = 600;
  double seconds = 210;         ///< stops then, and lets the learning rate fall in time; 0: no limit
  int64_t threads = 1;          ///< of each rank
  int64_t eval_every = 50;      ///< steps
  int64_t eval_tokens = 65536;  ///< held-out bytes judged at the end; an eighth of them on the way
  std::string log;              ///< file; empty: none
};

struct Curve {
  std::vector<std::pair<double, double>> train, held_out;  ///< step, bits per byte
  double seconds = 0, tokens_per_second = 0;
};

class LogFile {
 public:
  explicit LogFile(std::string const& name) {
    if (name.empty()) return;
    file_.reset(std::fopen(name.c_str(), "w"));
    if (!file_) throw std::runtime_error("cannot write " + name);
    std::fputs("step,seconds,tokens,train_bits_per_byte,held_out_bits_per_byte,tokens_per_second,hidden\n",
               file_.get());
  }
  template <class... A> void line(char const* format, A... values) {
    if (!file_) return;
    std::fprintf(file_.get(), format, values...);
    std::fflush(file_.get());
  }

 private:
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  std::unique_ptr<std::FILE, Close> file_;
};

/// What the ring did between two looks at its timings: the share of its time, computing and waiting for peers, in
/// which it computed. Blocks travel all that time, so this is the share of transfer that is hidden.
inline double hidden_share(ringattn::Timings const& before, ringattn::Timings const& now) {
  double const compute = now.compute_s - before.compute_s, wait = now.wait_s - before.wait_s;
  return compute + wait > 0 ? compute / (compute + wait) : 1;
}

/// Trains; collective. The curve is complete on every rank; rank 0 shows progress and writes the log.
template <class P> Curve train(typename P::Communicator& comm, RunPlan const& plan, Corpus const& corpus) {
  using Clock = std::chrono::steady_clock;
  typename P::Backend backend({.threads = int(plan.threads)});
  Trainer<P> trainer(backend, comm, plan.model, plan.train);
  int64_t const step_tokens = plan.model.batch * plan.model.seq;
  int64_t const eval_steps = std::max<int64_t>(1, plan.eval_tokens / step_tokens);
  bool const first = comm.rank() == 0;
  std::optional<Progress> bar;
  if (first) bar.emplace("training", double(plan.steps));
  LogFile log(first ? plan.log : "");

  Curve curve;
  auto const start = Clock::now();
  double training = 0, smooth = 0, held_out = 0;
  std::vector<double> clocks(static_cast<size_t>(comm.size()));
  auto before = trainer.model().timings();
  for (int64_t step = 0;; ++step) {
    // Rank 0's clock counts for all, else ranks would stop at different steps.
    double const mine = std::chrono::duration<double>(Clock::now() - start).count();
    ringattn::all_gather(comm, mine, std::span(clocks), "clock");
    double const elapsed = clocks[0], limit = plan.seconds > 0 ? elapsed / plan.seconds : 0;
    bool const last = step >= plan.steps || limit >= 1;
    if (last || step % plan.eval_every == 0) {
      held_out = trainer.evaluate(corpus.held_out(), last ? eval_steps : std::max<int64_t>(1, eval_steps / 8));
      curve.held_out.emplace_back(double(step), held_out);
      if (step > 0)
        log.line("%lld,%.2f,%lld,%.4f,%.4f,,\n", static_cast<long long>(step), elapsed,
                 static_cast<long long>(step * step_tokens), smooth, held_out);
    }
    if (last) break;

    auto const begin = Clock::now();
    double const bits = trainer.step(corpus.train(), std::max(double(step) / double(plan.steps), limit));
    double const took = std::chrono::duration<double>(Clock::now() - begin).count();
    training += took;
    smooth = step == 0 ? bits : 0.9 * smooth + 0.1 * bits;
    curve.train.emplace_back(double(step), bits);
    if (!first) continue;
    auto const now = trainer.model().timings();
    double const speed = double(step_tokens) / took, hidden = hidden_share(before, now);
    before = now;
    char text[128];
    std::snprintf(text, sizeof text, "%.3f bits/byte, held out %.3f, %.0f tokens/s, transfer hidden %.0f %%", smooth,
                  held_out, speed, 100 * hidden);
    double const done = std::max(double(step + 1), limit * double(plan.steps));
    bar->update(std::min(done, double(plan.steps)), text);
    log.line("%lld,%.2f,%lld,%.4f,,%.0f,%.3f\n", static_cast<long long>(step + 1), elapsed + took,
             static_cast<long long>((step + 1) * step_tokens), bits, speed, hidden);
  }
  if (first) bar->update(double(plan.steps), "done");
  curve.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  curve.tokens_per_second = double(curve.train.size()) * double(step_tokens) / std::max(training, 1e-9);
  return curve;
}

/// One line of the comparison of ring sizes.
struct RingRow {
  int ranks = 1;
  size_t activations = 0;  ///< bytes on the rank that has most: activations and workspaces
  size_t weights = 0;      ///< bytes: weights, gradient, optimiser
  double loss = 0, seconds_per_step = 0;
};

/// The first steps of the same training; collective. The first of several steps, which touches
/// all memory, is not timed.
template <class P>
RingRow measure(typename P::Communicator& comm, RunPlan const& plan, Corpus const& corpus, int64_t steps) {
  typename P::Backend backend({.threads = int(plan.threads)});
  Trainer<P> trainer(backend, comm, plan.model, plan.train);
  RingRow row{.ranks = comm.size(), .activations = 0, .weights = trainer.parameter_bytes()};
  std::vector<size_t> bytes(static_cast<size_t>(comm.size()));
  ringattn::all_gather(comm, trainer.model().activation_bytes(), std::span(bytes), "bytes");
  for (size_t b : bytes) row.activations = std::max(row.activations, b);
  auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < steps; ++i) {
    row.loss = trainer.step(corpus.train(), double(i) / double(plan.steps));
    if (i == 0 && steps > 1) start = std::chrono::steady_clock::now();
  }
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  row.seconds_per_step = seconds / double(std::max<int64_t>(1, steps - 1));
  return row;
}

}  // namespace example
