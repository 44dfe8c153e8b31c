// SPDX-License-Identifier: Apache-2.0
// A few threads that wait for work; the thread that brings the work is one of them. All look for what they wait for a
// while before they sleep: being woken takes as long as the attention of a short query does.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "../config.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

/// Runs one function on all its threads at once. One `run` at a time; `run` allocates nothing.
class ThreadPool {
 public:
  /// `threads` >= 1 counts the caller of `run`. Throws std::system_error when a thread cannot be had.
  explicit ThreadPool(int threads) {
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~ThreadPool() { stop(); }
  ThreadPool(ThreadPool const&) = delete;
  ThreadPool& operator=(ThreadPool const&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  /// f(worker) once for every worker 0 .. threads - 1, 0 on the calling thread; returns when all are done. While the
  /// caller waits for the others it calls idle() now and then. What f or idle throws is rethrown here at the end, the
  /// first if several do.
  template <class F, class Idle> void run(F const& f, Idle const& idle) {
    {
      std::lock_guard const lock(mutex_);
      job_ = [](void const* context, int worker) { (*static_cast<F const*>(context))(worker); };
      context_ = &f;
      failure_ = nullptr;
      busy_.store(int(workers_.size()), std::memory_order_relaxed);
      round_.fetch_add(1, std::memory_order_release);
    }
    if (!workers_.empty()) start_.notify_all();
    guarded([&] { f(0); });
    auto const done = [this] { return busy_.load(std::memory_order_acquire) == 0; };
    if (!seen_soon(done)) {
      std::unique_lock lock(mutex_);
      while (!done_.wait_for(lock, std::chrono::microseconds(200), done)) {
        lock.unlock();
        guarded(idle);
        lock.lock();
      }
    }
    job_ = nullptr;
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }
  template <class F> void run(F const& f) {
    run(f, [] {});
  }

 private:
  template <class F> void guarded(F const& f) {
    try {
      f();
    } catch (...) {
      std::lock_guard const lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }
  void work(int worker) {
    for (std::uint64_t seen = 0;; ++seen) {
      auto const started = [&] { return stopping_.load() || round_.load(std::memory_order_acquire) != seen; };
      if (!seen_soon(started)) {
        std::unique_lock lock(mutex_);
        start_.wait(lock, started);
      }
      if (stopping_) return;
      guarded([&] { job_(context_, worker); });
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) > 1) continue;
      std::lock_guard const lock(mutex_);  // not between the caller's look and its sleep
      done_.notify_one();
    }
  }
  /// Looks for it for some time; others that want the core get it.
  template <class Ready> static bool seen_soon(Ready const& ready) {
    using Clock = std::chrono::steady_clock;
    for (auto const end = Clock::now() + std::chrono::microseconds(100); Clock::now() < end; std::this_thread::yield())
      for (int i = 0; i < 100; ++i)
        if (ready()) return true;
    return false;
  }
  void stop() {
    {
      std::lock_guard const lock(mutex_);
      stopping_ = true;
    }
    start_.notify_all();
    for (std::thread& t : workers_) t.join();
    workers_.clear();
  }

  std::mutex mutex_;
  std::condition_variable start_, done_;
  void (*job_)(void const*, int) = nullptr;
  void const* context_ = nullptr;
  std::exception_ptr failure_;
  std::atomic<std::uint64_t> round_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;  // last: the threads use the members above
};

}  // namespace ringattn::cpu
