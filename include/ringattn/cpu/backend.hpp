// SPDX-License-Identifier: Apache-2.0
// The backend Cpu: blocked attention in host memory, on a thread pool of its own.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <new>
#include <optional>
#include <utility>

#include "../error.hpp"
#include "attention.hpp"
#include "attention_backward.hpp"
#include "instruction_set.hpp"
#include "thread_pool.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// How a Cpu gets threads and memory.
struct CpuOptions {
  /// Including the caller. Results do not depend on it.
  int threads = 1;
  /// For `allocate`; null: aligned operator new.
  std::pmr::memory_resource* memory = nullptr;
  /// The user's threads instead of our own: run(n, body) calls body(0) .. body(n - 1), each once, as far as it can at
  /// the same time, and returns when all have returned; n <= threads. Progress hooks are driven from the bodies that
  /// run on the thread that called the backend. body does not throw.
  std::function<void(int n, std::function<void(int)> const& body)> run{};
};

/// Computes in host memory. Every call returns when its work is done. Results are bitwise the same for any number of
/// threads. One thread at a time may use an object; different objects are independent.
class Cpu {
 public:
  using Space = HostSpace;
  using Options = CpuOptions;
  static constexpr int arch = 0;

  /// Memory from `allocate`, given back when it goes out of scope.
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& o) noexcept { swap(o); }
    Buffer& operator=(Buffer&& o) noexcept {
      Buffer(std::move(o)).swap(*this);
      return *this;
    }
    ~Buffer() {
      if (!data_) return;
      if (memory_)
        memory_->deallocate(data_, bytes_, alignment);
      else
        ::operator delete(data_, std::align_val_t(alignment));
    }
    std::byte* data() const { return data_; }
    size_t size() const { return bytes_; }

   private:
    friend class Cpu;
    static constexpr size_t alignment = 64;

    Buffer(size_t bytes, std::pmr::memory_resource* memory)
        : data_(static_cast<std::byte*>(memory ? memory->allocate(bytes, alignment)
                                               : ::operator new(bytes, std::align_val_t(alignment)))),
          bytes_(bytes),
          memory_(memory) {}
    void swap(Buffer& o) noexcept {
      std::swap(data_, o.data_);
      std::swap(bytes_, o.bytes_);
      std::swap(memory_, o.memory_);
    }

    std::byte* data_ = nullptr;
    size_t bytes_ = 0;
    std::pmr::memory_resource* memory_ = nullptr;
  };

  Cpu() : Cpu(Options{}) {}
  /// Throws Error{invalid_argument} unless threads >= 1, or if the program was compiled for instructions that this CPU
  /// does not have, or in parts for different ones; std::system_error if a thread cannot be started.
  explicit Cpu(Options options) : options_(std::move(options)) {
    use_instruction_set();
    if (options_.threads < 1)
      throw Error(ErrorCode::invalid_argument, -1, "threads", "at least 1", std::to_string(options_.threads));
    if (!options_.run && options_.threads > 1) pool_.emplace(options_.threads);
  }

  int threads() const { return options_.threads; }

  /// 64-byte aligned, not initialised. Throws Error{out_of_memory}.
  Buffer allocate(size_t bytes) {
    try {
      return Buffer(std::max<size_t>(bytes, 1), options_.memory);
    } catch (std::bad_alloc const&) {
      throw Error(ErrorCode::out_of_memory, -1, "allocate", std::to_string(bytes) + " bytes", "none");
    }
  }
  void synchronize() {}

  /// Between views of equal extents, any strides; rounds to the element type of `to`.
  template <class T, class U> void copy(View<T, Space> const& from, View<U, Space> const& to) {
    Extents const e = from.extents;
    if (e != to.extents)
      throw Error(ErrorCode::invalid_argument, -1, "copy", "views of equal extents",
                  to_string(e) + " and " + to_string(to.extents));
    int64_t const rows = e.batch * e.seq,
                  each = std::max<int64_t>(1, serial_elements / std::max<int64_t>(e.heads * e.dim, 1));
    parallel(cpu::ceil_div(rows, each), [&](int64_t unit, int) {
      for (int64_t i = unit * each; i < std::min(rows, (unit + 1) * each); ++i)
        for (int64_t h = 0; h < e.heads; ++h) {
          auto const* const x = from.row(i / e.seq, i % e.seq, h);
          U* const y = to.row(i / e.seq, i % e.seq, h);
          if (from.stride[3] == 1 && to.stride[3] == 1)
            for (int64_t d = 0; d < e.dim; ++d) y[d] = cpu::convert<U>(x[d]);
          else
            for (int64_t d = 0; d < e.dim; ++d) y[d * to.stride[3]] = cpu::convert<U>(x[d * from.stride[3]]);
        }
    });
  }

  /// Workspace of a forward pass with `threads` threads: the running state of every query row, and scratch per thread.
  template <class K> static constexpr size_t attend_bytes(AttendShape const& shape, int threads) {
    return cpu::ForwardLayout<K>(cpu::count_panels<K>(shape), threads).bytes;
  }
  template <class K> size_t attend_bytes(AttendShape const& shape) const { return attend_bytes<K>(shape, threads()); }
  /// Workspace of a backward pass.
  template <class K> static constexpr size_t attend_backward_bytes(AttendShape const& shape, int threads) {
    return cpu::BackwardLayout<K>(cpu::count_panels<K>(shape), threads).bytes;
  }
  template <class K> size_t attend_backward_bytes(AttendShape const& shape) const {
    return attend_backward_bytes<K>(shape, threads());
  }

  template <class K> void begin(AttendStep<K, Space> const& step) {
    use_instruction_set();
    cpu::Forward<K> const task(step, threads());
    each_panel(task, [&](int64_t panel) { task.clear(panel); });
  }
  template <class K> void step(AttendStep<K, Space> const& step) {
    if (count_rows(step.k_rows) == 0) return;
    cpu::Forward<K> const task(step, threads());
    task.start();
    run_units(task, step.progress);
  }
  template <class K> void finish(AttendStep<K, Space> const& step, AttendResult<K, Space> const& result) {
    cpu::Forward<K> const task(step, threads());
    each_panel(task, [&](int64_t panel) { task.finish(panel, result); });
  }

  template <class K> void begin_backward(BackwardStep<K, Space> const& step) {
    use_instruction_set();
    cpu::Backward<K> const task(step, threads());
    each_panel(task, [&](int64_t panel) { task.clear(panel); });
  }
  template <class K> void step_backward(BackwardStep<K, Space> const& step) {
    if (count_rows(step.k_rows) == 0) return;
    cpu::Backward<K> const task(step, threads());
    if (task.panels() == 0) {
      clear(step.dk);
      clear(step.dv);
      return;
    }
    task.start();
    run_units(task, step.progress);
  }
  template <class K>
  void finish_backward(BackwardStep<K, Space> const& step, View<typename K::Element, Space> const& dq) {
    cpu::Backward<K> const task(step, threads());
    each_panel(task, [&](int64_t panel) { task.finish(panel, dq); });
  }
  /// sum = W(mine + arriving), or W(mine) if nothing arrives; `sum` may be `arriving`.
  template <class A, class W> void accumulate(A const* mine, W const* arriving, W* sum, int64_t n) {
    parallel(cpu::ceil_div(n, serial_elements), [&](int64_t unit, int) {
      int64_t const i = unit * serial_elements;
      cpu::add_rounded(mine + i, arriving ? arriving + i : nullptr, sum + i, std::min(n - i, serial_elements));
    });
  }

  /// (query row, key row) pairs, per head, whose scores attention steps computed since the last reset, invisible ones
  /// in partly visible tiles included.
  int64_t computed_pairs() const { return pairs_.load(std::memory_order_relaxed); }
  void reset_computed_pairs() { pairs_.store(0, std::memory_order_relaxed); }

 private:
  static constexpr int64_t serial_elements = 1 << 15;  // less than this is not worth a thread

  /// Marks, in every file that is compiled, which instruction set it is for.
  static void use_instruction_set() { cpu::check_instruction_set<simd::set, simd::used_features>(); }

  template <class Task> void run_units(Task const& task, Progress progress) {
    cpu::StepControl control(progress);
    parallel(
        task.units(), [&](int64_t unit, int worker) { task.unit(unit, worker, control); }, &control);
    pairs_.fetch_add(control.pairs(), std::memory_order_relaxed);
  }

  /// f(panel) for every panel, where that is little work for each result.
  template <class Task, class F> void each_panel(Task const& task, F const& f) {
    if (task.results() > serial_elements) return parallel(task.panels(), [&](int64_t panel, int) { f(panel); });
    for (int64_t panel = 0; panel < task.panels(); ++panel) f(panel);
  }

  /// f(unit, worker) for every unit, started in order; rethrows the first exception. No two units have the same worker
  /// at the same time.
  template <class F> void parallel(int64_t units, F const& f, cpu::StepControl* control = nullptr) {
    if (units <= 1 || threads() == 1) {
      for (int64_t unit = 0; unit < units; ++unit) {
        if (control && !control->keep_going()) return;
        f(unit, 0);
      }
      return;
    }
    struct Shared {
      F const& f;
      int64_t units;
      cpu::StepControl* control;
      std::atomic<int64_t> next{0};
      std::atomic<bool> failed{false};
      std::mutex mutex{};
      std::exception_ptr failure{};

      void work(int worker) {
        try {
          for (int64_t unit; !failed.load(std::memory_order_relaxed) && (!control || control->keep_going()) &&
                             (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;)
            f(unit, worker);
        } catch (...) {
          if (control) control->stop();  // nobody waits for the unit that failed
          failed.store(true, std::memory_order_relaxed);
          std::lock_guard const lock(mutex);
          if (!failure) failure = std::current_exception();
        }
      }
    } shared{f, units, control};
    if (options_.run)
      options_.run(int(std::min<int64_t>(threads(), units)), [s = &shared](int worker) { s->work(worker); });
    else
      pool_->run([&](int worker) { shared.work(worker); },
                 [&] {
                   if (control) control->keep_going();
                 });
    if (shared.failure) std::rethrow_exception(shared.failure);
  }

  template <class T> static void clear(View<T, Space> const& v) {
    for (int64_t b = 0; b < v.extents.batch; ++b)
      for (int64_t s = 0; s < v.extents.seq; ++s)
        for (int64_t h = 0; h < v.extents.heads; ++h)
          for (int64_t d = 0; d < v.extents.dim; ++d) v(b, s, h, d) = 0;
  }

  Options options_;
  std::optional<cpu::ThreadPool> pool_;
  std::atomic<int64_t> pairs_{0};
};

static_assert(DeviceBackend<Cpu>);

}  // namespace ringattn
