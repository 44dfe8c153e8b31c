// SPDX-License-Identifier: Apache-2.0
// What transports have in common: counts of what a rank has sent, and records of what is under way.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "../concepts.hpp"

namespace ringattn::inline RINGATTN_ABI::detail {

/// What a rank has sent.
class Sent {
 public:
  int64_t messages() const { return messages_; }                  ///< data messages sent by this rank
  int64_t bytes() const { return bytes_; }                        ///< bytes of data sent by this rank
  int64_t control_messages() const { return control_messages_; }  ///< messages of all_gather sent by this rank

 protected:
  void count(std::span<Send const> sends) {
    messages_ += int64_t(sends.size());
    for (Send const& s : sends) bytes_ += int64_t(s.bytes.size());
  }
  void count_control(int messages) { control_messages_ += messages; }

 private:
  int64_t messages_ = 0, bytes_ = 0, control_messages_ = 0;
};

/// A ring's record of a transfer under way: closed by whoever holds it last, so that transfers need no moves of their
/// own.
template <class Ring> class OpenRecord {
 public:
  OpenRecord() = default;
  OpenRecord(std::shared_ptr<Ring> ring, typename Ring::Record* record) : record_(record, Close{std::move(ring)}) {}

  explicit operator bool() const { return record_ != nullptr; }
  typename Ring::Record& operator*() const { return *record_; }
  typename Ring::Record* operator->() const { return record_.get(); }
  Ring& ring() const { return *record_.get_deleter().ring; }

 private:
  struct Close {
    std::shared_ptr<Ring> ring;
    void operator()(typename Ring::Record* record) const { ring->close(*record); }
  };
  std::unique_ptr<typename Ring::Record, Close> record_;
};

}  // namespace ringattn::detail
