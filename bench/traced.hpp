// SPDX-License-Identifier: Apache-2.0
// A backend and a communicator that write down when each step, copy and wait began and ended; the library is untouched.
#pragma once

#include <vector>

#include "measure.hpp"

namespace bench {

/// What one rank did. Kinds: compute, post (an exchange was posted), copy (of a piece of a block, while computing),
/// wait (for a transfer, and copying it), vote (the small message before outputs are written), flight (from post to
/// known arrival).
struct Trace {
  struct Span {
    char const* kind;
    double begin, end;
    double bytes = 0;
  };
  std::vector<Span> spans;
  bool on = false;

  void add(char const* kind, double begin, double end, double bytes = 0) {
    if (on) spans.push_back({kind, begin, end, bytes});
  }
  double total(std::string const& kind) const {
    double sum = 0;
    for (Span const& s : spans)
      if (kind == s.kind) sum += s.end - s.begin;
    return sum;
  }
};

class TracedCpu : public Cpu {
 public:
  template <class O> TracedCpu(O const& options, Trace& trace) : Cpu(options), trace_(&trace) {}

  template <class K> void begin(AttendStep<K, HostSpace> const& s) {
    timed([&] { Cpu::template begin<K>(s); });
  }
  template <class K> void step(AttendStep<K, HostSpace> const& s) {
    timed([&] { Cpu::template step<K>(s); });
  }
  template <class K> void finish(AttendStep<K, HostSpace> const& s, AttendResult<K, HostSpace> const& r) {
    timed([&] { Cpu::template finish<K>(s, r); });
  }
  template <class K> void begin_backward(BackwardStep<K, HostSpace> const& s) {
    timed([&] { Cpu::template begin_backward<K>(s); });
  }
  template <class K> void step_backward(BackwardStep<K, HostSpace> const& s) {
    timed([&] { Cpu::template step_backward<K>(s); });
  }
  template <class K>
  void finish_backward(BackwardStep<K, HostSpace> const& s, View<typename K::Element, HostSpace> const& dq) {
    timed([&] { Cpu::template finish_backward<K>(s, dq); });
  }
  template <class A, class W> void accumulate(A const* mine, W const* arriving, W* sum, int64_t n) {
    timed([&] { Cpu::accumulate(mine, arriving, sum, n); });
  }

 private:
  template <class F> void timed(F&& f) {
    double const begin = now();
    f();
    trace_->add("compute", begin, now());
  }

  Trace* trace_;
};

class TracedRing {
 public:
  class Transfer {
   public:
    Transfer() = default;
    template <class B> bool wait_for(B& backend, std::chrono::nanoseconds slice) {
      double const begin = now();
      bool const done = inner_.wait_for(backend, slice);
      double const end = now();
      if (trace_ != nullptr) {
        trace_->add(kind_, begin, end);
        if (done && bytes_ > 0) trace_->add("flight", posted_, end, bytes_);
      }
      return done;
    }

   private:
    friend class TracedRing;
    InProcess::Transfer inner_;
    Trace* trace_ = nullptr;
    char const* kind_ = "wait";
    double posted_ = 0, bytes_ = 0;
  };

  template <class Space> static constexpr bool moves = InProcess::moves<Space>;

  TracedRing(InProcess& inner, Trace& trace) : inner_(inner), trace_(trace) {}

  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  template <class B> Transfer exchange(B& backend, std::span<Send const> sends, std::span<Recv const> recvs) {
    Transfer t;
    for (Send const& s : sends) t.bytes_ += double(s.bytes.size());
    double const begin = now();
    t.inner_ = inner_.exchange(backend, sends, recvs);
    t.posted_ = now();
    t.trace_ = &trace_;
    trace_.add("post", begin, t.posted_, t.bytes_);
    return t;
  }
  Transfer all_gather(std::span<std::byte const> mine, std::span<std::byte> all) {
    Transfer t;
    t.inner_ = inner_.all_gather(mine, all);
    t.trace_ = &trace_;
    t.kind_ = "vote";
    return t;
  }
  void progress() {
    double const begin = now();
    inner_.progress();
    double const end = now();
    if (end - begin > 2e-6) trace_.add("copy", begin, end);
  }
  void abort(std::string reason) { inner_.abort(std::move(reason)); }
  std::optional<std::string> aborted() const { return inner_.aborted(); }
  std::chrono::nanoseconds deadline() const { return inner_.deadline(); }

 private:
  InProcess& inner_;
  Trace& trace_;
};

}  // namespace bench
