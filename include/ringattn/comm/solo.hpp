// SPDX-License-Identifier: Apache-2.0
// A ring of one: nothing travels, so any memory can.
#pragma once

#include <chrono>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "check.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Rank 0 of 1. Any message is an Error, since there is nobody to send it to; `all_gather` copies. One thread at a
/// time.
class Solo {
 public:
  /// Nothing was posted, so it is complete.
  class Transfer {
   public:
    template <class B> bool wait_for(B&, std::chrono::nanoseconds) { return true; }
  };

  template <class Space> static constexpr bool moves = true;

  explicit Solo(std::chrono::nanoseconds deadline = std::chrono::seconds(30)) : deadline_(deadline) {}

  int rank() const { return 0; }
  int size() const { return 1; }

  /// Throws Error{invalid_argument} unless both lists are empty.
  template <class B> Transfer exchange(B&, std::span<Send const> sends, std::span<Recv const> recvs) {
    detail::check_peers(0, 1, sends, recvs);
    return {};
  }

  /// Copies `mine` to `all`; complete when it returns.
  Transfer all_gather(std::span<std::byte const> mine, std::span<std::byte> all) {
    detail::check_gather(0, 1, mine, all);
    if (!mine.empty()) std::memmove(all.data(), mine.data(), mine.size());
    return {};
  }

  void progress() {}
  void abort(std::string reason) {
    if (!reason_) reason_ = std::move(reason);
  }
  std::optional<std::string> aborted() const { return reason_; }
  std::chrono::nanoseconds deadline() const { return deadline_; }

  int64_t messages() const { return 0; }          ///< data messages sent
  int64_t bytes() const { return 0; }             ///< bytes of data sent
  int64_t control_messages() const { return 0; }  ///< messages of all_gather sent

 private:
  std::chrono::nanoseconds deadline_;
  std::optional<std::string> reason_;
};

static_assert(RingCommunicator<Solo, HostControl> && Control<Solo> && Moves<Solo, HostSpace> &&
              Moves<Solo, DeviceSpace>);

}  // namespace ringattn
