// SPDX-License-Identifier: Apache-2.0
// A progress bar on one line of a terminal; into a file or a pipe, a plain line from time to time instead.
#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <utility>

namespace example {

/// Progress bar("training", 500); bar.update(step, "loss 3.21"); the destructor ends the line. Writes to stderr, so
/// that results on stdout can be piped. One thread at a time.
class Progress {
 public:
  /// `quiet_interval`: seconds between two lines where there is no terminal.
  explicit Progress(std::string what, double total, double quiet_interval = 5)
      : what_(std::move(what)), total_(total), terminal_(isatty(STDERR_FILENO) != 0) {
    interval_ = terminal_ ? 0.1 : quiet_interval;
  }
  Progress(Progress const&) = delete;
  Progress& operator=(Progress const&) = delete;
  ~Progress() { finish(); }

  /// Shows that `done` of the total is done, with `text` behind the bar. Drops updates that come too fast.
  void update(double done, std::string text = "") {
    done_ = done;
    text_ = std::move(text);
    fresh_ = true;
    double const now = seconds();
    if (shown_ && now - last_ < interval_ && done < total_) return;
    last_ = now;
    show(now);
  }

  /// Writes the last state and ends the line.
  void finish() {
    if (finished_) return;
    finished_ = true;
    if (fresh_) show(seconds());
    if (terminal_ && shown_) std::fputc('\n', stderr);
  }

 private:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

  static std::string clock(double s) {
    char buffer[32];
    int const whole = int(std::min(s, 1e6) + 0.5);
    std::snprintf(buffer, sizeof buffer, "%d:%02d", whole / 60, whole % 60);
    return buffer;
  }

  void show(double now) {
    fresh_ = false;
    shown_ = true;
    double const part = total_ > 0 ? std::clamp(done_ / total_, 0.0, 1.0) : 1;
    std::string time = clock(now);
    // The first moments say little about the rest.
    if (part > 0.02 && part < 1 && now > 1) time += ", " + clock(now * (1 - part) / part) + " left";
    char percent[16];
    std::snprintf(percent, sizeof percent, "%3.0f%%", 100 * part);
    std::string line = what_ + " ";
    if (terminal_) {
      int const cells = 24, full = int(part * cells);
      line += "[" + std::string(size_t(full), '#') + std::string(size_t(cells - full), '.') + "] ";
    }
    line += percent + (" " + time) + (text_.empty() ? "" : "  " + text_);
    if (!terminal_) {
      std::fprintf(stderr, "%s\n", line.c_str());
      return;
    }
    winsize size{};
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 && line.size() >= size.ws_col)
      line.resize(size.ws_col - 1u);
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
    std::fflush(stderr);
  }

  std::string what_, text_;
  double total_, done_ = 0, last_ = 0, interval_;
  bool terminal_, shown_ = false, fresh_ = false, finished_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace example
