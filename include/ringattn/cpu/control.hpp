// SPDX-License-Identifier: Apache-2.0
// What the workers of one step share: whether to go on, when to let messages progress, how many pairs were computed.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "../concepts.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

class StepControl {
 public:
  explicit StepControl(Progress progress) : progress_(progress), caller_(std::this_thread::get_id()) {}

  /// Between two tiles: should the step go on? On the calling thread this drives `progress`, every 200 us at most.
  bool keep_going() {
    if (stopped_.load(std::memory_order_relaxed)) return false;
    if (!progress_.call || std::this_thread::get_id() != caller_) return true;
    auto const now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::microseconds(200)) return true;
    last_ = now;
    bool go = false;
    try {
      go = progress_();
    } catch (...) {  // the others must not go on, or wait for this thread
      stop();
      throw;
    }
    if (!go) stop();
    return !stopped_.load(std::memory_order_relaxed);
  }
  /// Waits until `ready()`. False: the step has to stop before that.
  template <class F> bool wait_until(F ready) {
    while (!ready()) {
      if (!keep_going()) return false;
      std::this_thread::yield();
    }
    return true;
  }
  void stop() { stopped_.store(true, std::memory_order_relaxed); }

  void count_pairs(int64_t n) { pairs_.fetch_add(n, std::memory_order_relaxed); }
  int64_t pairs() const { return pairs_.load(std::memory_order_relaxed); }

 private:
  Progress progress_;
  std::thread::id caller_;
  std::chrono::steady_clock::time_point last_{};  // only the calling thread
  std::atomic<bool> stopped_{false};
  std::atomic<int64_t> pairs_{0};
};

}  // namespace ringattn::cpu
