// SPDX-License-Identifier: Apache-2.0
// What an in-process ring is made of: posts, the records of transfers, channels where posts meet, seats where ranks
// wait.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "../config.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// For tests: bad luck on purpose. Off by default, and then it costs nothing. Delays depend on the seed, the pair and
/// the message's number only.
struct Chaos {
  std::uint64_t seed = 0;
  std::chrono::nanoseconds delay{0};  ///< a message arrives up to this much later, in any order between pairs
  bool poison = false;                ///< receive buffers are all ones (NaN) from the post until the arrival

  bool on() const { return delay.count() > 0 || poison; }
};

struct RunOptions {
  std::chrono::nanoseconds deadline = std::chrono::seconds(30);  ///< how long the core waits for a peer
  Chaos chaos{};
};

namespace detail::in_process {

struct Record;
struct Channel;

/// One side of one message. Lives in its record; `next` chains those that wait in a channel.
struct Post {
  Record* record = nullptr;
  Channel* channel = nullptr;
  std::byte const* from = nullptr;  ///< of a send
  std::byte* to = nullptr;          ///< of a receive
  size_t bytes = 0;
  bool is_send = false;
  void* place = nullptr;  ///< of memory that is not the host's: what the mover knows about it
  Post* next = nullptr;

  // Of a large message, under the channel's lock.
  Post* other = nullptr;           ///< from its match until its last piece has been copied
  size_t taken = 0, finished = 0;  ///< of a send: bytes that somebody copies or has copied
  bool lost = false;
};

/// The posts of one transfer. Records are kept and used again, so that a steady ring allocates nothing.
struct Record {
  int rank = 0;
  std::vector<Post> posts;
  std::atomic<size_t> under_way{0};  ///< posts that somebody may still touch the buffers of
  bool lost = false;                 ///< one of them will never arrive; read once none is under way
};

/// From one rank to another. Holds sends or receives that wait for the other side, never both, first posted first.
struct alignas(64) Channel {
  std::mutex mutex;
  Post* head = nullptr;
  Post* tail = nullptr;
  int from = 0, to = 0;
  std::uint64_t number = 0;                     ///< delayed messages so far
  std::chrono::steady_clock::time_point due{};  ///< of the last of them

  void push(Post& post) {
    (head == nullptr ? head : tail->next) = &post;
    tail = &post;
  }
  Post* pop() { return std::exchange(head, head->next); }
  /// False if it is not there.
  bool remove(Post& post) {
    Post* before = nullptr;
    for (Post* p = head; p != nullptr; before = p, p = p->next) {
      if (p != &post) continue;
      (before == nullptr ? head : before->next) = p->next;
      if (tail == p) tail = before;
      return true;
    }
    return false;
  }
};

/// Where the thread of one rank waits.
struct alignas(64) Seat {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::unique_ptr<Record>> records;
  std::vector<Record*> free;
  std::atomic<size_t> to_copy{0};  ///< large messages from or to this rank of which nobody has taken the last piece

  void add_record(size_t posts) {
    records.push_back(std::make_unique<Record>());
    records.back()->posts.reserve(posts);
    free.reserve(records.size());
    free.push_back(records.back().get());
  }
  void wake() {
    // Taking the mutex once makes sure that nobody is between looking and going to sleep.
    { std::lock_guard lock(mutex); }
    changed.notify_all();
  }
};

}  // namespace detail::in_process

}  // namespace ringattn
