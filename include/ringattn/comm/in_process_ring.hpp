// SPDX-License-Identifier: Apache-2.0
// The ring that the threads of InProcess and CudaPeer share: how sends meet receives, who copies, waits, the abort.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"
#include "in_process_posts.hpp"

namespace ringattn::inline RINGATTN_ABI {

namespace detail {

/// Locks are never nested, but for a channel's around that of the delayed matches. Buffers are touched with no lock
/// held.
class InProcessRing {
 public:
  enum class Lane { data, control };  ///< matched independently
  using Post = in_process::Post;
  using Record = in_process::Record;

  /// Moves a matched message where one side has a place, on the thread that posted second. What it throws aborts.
  using Mover = void (*)(Post& send, Post& receive);

  InProcessRing(int size, RunOptions const& options, Mover mover = nullptr)
      : size_(size),
        options_(options),
        mover_(mover),
        channels_(2 * size_t(size) * size_t(size)),
        seats_(size_t(size)) {
    for (size_t i = 0; i < channels_.size(); ++i) {
      channels_[i].from = int(i / size_t(size)) % size;
      channels_[i].to = int(i % size_t(size));
    }
    for (Seat& seat : seats_)
      for (int i = 0; i < records_kept; ++i) seat.add_record(2 * size_t(size));
    if (options_.chaos.on()) postman_ = std::thread([this] { deliver_late(); });
  }

  InProcessRing(InProcessRing const&) = delete;
  InProcessRing& operator=(InProcessRing const&) = delete;

  ~InProcessRing() {
    if (!postman_.joinable()) return;
    {
      std::lock_guard lock(late_mutex_);
      closing_ = true;
    }
    late_changed_.notify_all();
    postman_.join();
  }

  int size() const { return size_; }
  RunOptions const& options() const { return options_; }

  void abort(std::string reason) {
    {
      std::lock_guard lock(reason_mutex_);
      if (aborted_.load(std::memory_order_relaxed)) return;
      reason_ = std::move(reason);
      aborted_.store(true, std::memory_order_release);
    }
    for (Seat& seat : seats_) seat.wake();
    { std::lock_guard lock(late_mutex_); }
    late_changed_.notify_all();
  }

  std::optional<std::string> aborted() const {
    if (!is_aborted()) return std::nullopt;
    return reason_;  // written once, before the flag
  }

  /// A record for `posts` posts of a rank, all of which must follow.
  Record* open(int rank, size_t posts) {
    Seat& seat = seats_[size_t(rank)];
    std::lock_guard lock(seat.mutex);
    if (seat.free.empty()) seat.add_record(posts);
    Record* const record = seat.free.back();
    record->posts.reserve(posts);
    seat.free.pop_back();
    record->rank = rank;
    record->under_way.store(posts, std::memory_order_relaxed);
    return record;
  }

  void send(Record& record, Lane lane, int to, std::span<std::byte const> bytes, void* place = nullptr) {
    record.posts.push_back({.record = &record,
                            .channel = &channel(lane, record.rank, to),
                            .from = bytes.data(),
                            .bytes = bytes.size(),
                            .is_send = true,
                            .place = place});
    post(record.posts.back());
  }

  void receive(Record& record, Lane lane, int from, std::span<std::byte> bytes, void* place = nullptr) {
    if (options_.chaos.poison && !place && !bytes.empty()) std::memset(bytes.data(), 0xff, bytes.size());
    record.posts.push_back({.record = &record,
                            .channel = &channel(lane, from, record.rank),
                            .to = bytes.data(),
                            .bytes = bytes.size(),
                            .place = place});
    post(record.posts.back());
  }

  /// True once everything has arrived; false after `slice`, or at once after an abort. Copies meanwhile.
  bool wait(Record& record, std::chrono::nanoseconds slice) {
    Seat& seat = seats_[size_t(record.rank)];
    auto const settled = [&] { return record.under_way.load(std::memory_order_acquire) == 0 || is_aborted(); };
    auto const begin = Clock::now();
    // Clamped, since now + nanoseconds::max() overflows.
    auto const end = begin + std::clamp<std::chrono::nanoseconds>(slice, {}, std::chrono::hours(1));
    for (auto sleep = std::min(end, begin + spin); !settled();) {
      if (progress(record.rank, &record)) {
        auto const now = Clock::now();
        if (now >= end) break;
        sleep = std::min(end, now + spin);
      } else if (Clock::now() < sleep) {
        std::this_thread::yield();
      } else {
        std::unique_lock lock(seat.mutex);
        if (!seat.changed.wait_until(lock, end, [&] { return settled() || seat.to_copy.load() > 0; })) break;
      }
    }
    return record.under_way.load(std::memory_order_acquire) == 0 && !record.lost;
  }

  /// Copies a piece of some large message from or to a rank, of `first` if it has any; false if there is none. On the
  /// rank's thread.
  bool progress(int rank, Record* first = nullptr) {
    Seat& seat = seats_[size_t(rank)];
    if (seat.to_copy.load() == 0 || is_aborted()) return false;
    auto const copy = [&](Record& record) {
      return std::any_of(record.posts.begin(), record.posts.end(), [&](Post& p) { return copy_piece(p); });
    };
    if (first && copy(*first)) return true;
    // Records are taken from the back: the oldest first.
    return std::any_of(seat.records.rbegin(), seat.records.rend(), [&](auto const& r) { return copy(*r); });
  }

  /// Gives a record back; first stops the ring and takes its posts out of the channels if any is under way. A copy that
  /// somebody is making is waited for: that ends by itself.
  void close(Record& record) {
    Seat& seat = seats_[size_t(record.rank)];
    if (record.under_way.load(std::memory_order_acquire) != 0) {
      abort("rank " + std::to_string(record.rank) + " gave up a transfer that was under way");
      for (Post& p : record.posts)
        if (withdraw(p))
          lose(p);
        else
          give_up(p);
      std::unique_lock lock(seat.mutex);
      seat.changed.wait(lock, [&] { return record.under_way.load(std::memory_order_acquire) == 0; });
    }
    std::lock_guard lock(seat.mutex);
    record.posts.clear();
    record.lost = false;
    seat.free.push_back(&record);
  }

 private:
  using Clock = std::chrono::steady_clock;
  using Channel = in_process::Channel;
  using Seat = in_process::Seat;

  struct Match {
    Post *send, *receive;
    Clock::time_point due;
  };

  static constexpr int records_kept = 8;  // per rank; a pipeline has fewer transfers under way
  // Most waits of a ring in step are shorter than a sleep and a wake-up.
  static constexpr std::chrono::microseconds spin{50};
  // Larger messages are copied in pieces of so many bytes: short enough to share evenly, and to end soon after an
  // abort.
  static constexpr size_t piece = 1 << 18;

  bool is_aborted() const { return aborted_.load(std::memory_order_acquire); }

  Channel& channel(Lane lane, int from, int to) {
    size_t const n = size_t(size_);
    return channels_[(lane == Lane::data ? 0 : n * n) + size_t(from) * n + size_t(to)];
  }

  /// Matches a post with the first that waits on the other side, or lets it wait.
  void post(Post& mine) {
    Channel& c = *mine.channel;
    Post* other = nullptr;
    {
      std::unique_lock lock(c.mutex);
      if (is_aborted()) {
        lock.unlock();
        return lose(mine);
      }
      if (c.head == nullptr || c.head->is_send == mine.is_send) return c.push(mine);
      other = c.pop();
      Post &send = mine.is_send ? mine : *other, &receive = mine.is_send ? *other : mine;
      if (postman_.joinable()) return deliver_later(c, send, receive);
      if (send.bytes == receive.bytes && is_large(send) && is_large(receive)) {
        share(send, receive);
        lock.unlock();
        return seats_[size_t(mine.is_send ? c.to : c.from)].wake();
      }
    }
    mine.is_send ? deliver(mine, *other) : deliver(*other, mine);
  }

  void deliver(Post& send, Post& receive) {
    if (send.bytes != receive.bytes) {
      abort(size_mismatch(send.channel->from, send.channel->to, std::to_string(send.bytes), receive.bytes));
      lose(send);
      lose(receive);
      return;
    }
    if (!move(send, receive)) {
      lose(send);
      lose(receive);
      return;
    }
    settle(send, false);
    settle(receive, false);
  }

  bool move(Post& send, Post& receive) {
    if (send.bytes == 0) return true;
    if (!send.place && !receive.place) {
      std::memcpy(receive.to, send.from, send.bytes);
      return true;
    }
    try {
      mover_(send, receive);
      return true;
    } catch (std::exception const& e) {
      abort(e.what());
      return false;
    }
  }

  void lose(Post& post) { settle(post, true); }

  /// Nobody will touch the post's buffer any more. Its record may be in use again as soon as the count is down.
  void settle(Post& post, bool lost) {
    Record& record = *post.record;
    Seat& seat = seats_[size_t(record.rank)];
    std::lock_guard lock(seat.mutex);
    if (lost) record.lost = true;
    if (record.under_way.fetch_sub(1, std::memory_order_acq_rel) == 1) seat.changed.notify_all();
  }

  /// Takes a post out of its channel; false if it has been matched.
  static bool withdraw(Post& post) {
    std::lock_guard lock(post.channel->mutex);
    return post.channel->remove(post);
  }

  // ---------------------------------------------------------------- large messages: both ranks copy, piece by piece

  static bool is_large(Post const& post) { return post.bytes > piece && !post.place; }

  /// Here and below the channel's lock is held, without which neither record can be closed.
  void share(Post& send, Post& receive) {
    send.other = &receive;
    receive.other = &send;
    for (Post* p : {&send, &receive}) seats_[size_t(p->record->rank)].to_copy.fetch_add(1);
  }

  /// Takes the next bytes of a message, `most` at most.
  size_t take(Post& send, size_t most) {
    size_t const n = std::min(most, send.bytes - send.taken);
    send.taken += n;
    if (n > 0 && send.taken == send.bytes)
      for (Post* p : {&send, send.other}) seats_[size_t(p->record->rank)].to_copy.fetch_sub(1);
    return n;
  }

  /// Of bytes that were taken. Lets go of the lock; with the last of them the message has arrived.
  void finish(Post& send, size_t n, std::unique_lock<std::mutex> lock) {
    send.finished += n;
    if (send.finished < send.bytes) return;
    bool const lost = send.lost;
    Post& receive = *std::exchange(send.other, nullptr);
    receive.other = nullptr;
    lock.unlock();
    settle(send, lost);
    settle(receive, lost);
  }

  bool copy_piece(Post& mine) {
    if (!is_large(mine)) return false;
    std::unique_lock lock(mine.channel->mutex);
    if (mine.other == nullptr) return false;
    Post &send = mine.is_send ? mine : *mine.other, &receive = mine.is_send ? *mine.other : mine;
    size_t const from = send.taken, n = take(send, piece);
    if (n == 0) return false;
    lock.unlock();
    std::memcpy(receive.to + from, send.from + from, n);
    lock.lock();
    finish(send, n, std::move(lock));
    return true;
  }

  /// Nobody shall copy what of a matched message nobody has taken yet.
  void give_up(Post& mine) {
    std::unique_lock lock(mine.channel->mutex);
    if (mine.other == nullptr) return;
    Post& send = mine.is_send ? mine : *mine.other;
    size_t const n = take(send, send.bytes);
    if (n == 0) return;
    send.lost = true;
    finish(send, n, std::move(lock));
  }

  // ---------------------------------------------------------------- chaos: a thread of its own delivers, late

  /// The channel's lock is held, so that messages of a pair stay in order.
  void deliver_later(Channel& c, Post& send, Post& receive) {
    std::uint64_t x = options_.chaos.seed ^ std::uint64_t(&c - channels_.data()) << 40 ^ ++c.number;
    x = (x + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 29) * 0x94d049bb133111eb;
    std::chrono::nanoseconds const delay(int64_t((x ^ x >> 32) % (std::uint64_t(options_.chaos.delay.count()) + 1)));
    c.due = std::max(c.due, Clock::now() + delay);
    {
      std::lock_guard lock(late_mutex_);
      late_.push_back({&send, &receive, c.due});
    }
    late_changed_.notify_all();
  }

  void deliver_late() {
    std::unique_lock lock(late_mutex_);
    while (!closing_) {
      auto const next =
          std::min_element(late_.begin(), late_.end(), [](Match const& a, Match const& b) { return a.due < b.due; });
      if (next == late_.end()) {
        late_changed_.wait(lock);
      } else if (Clock::now() < next->due && !is_aborted()) {
        Clock::time_point const due = next->due;
        late_changed_.wait_until(lock, due);
      } else {
        Match const match = *next;
        late_.erase(next);
        lock.unlock();
        if (is_aborted()) {
          lose(*match.send);
          lose(*match.receive);
        } else {
          deliver(*match.send, *match.receive);
        }
        lock.lock();
      }
    }
  }

  int size_;
  RunOptions options_;
  Mover mover_;
  std::vector<Channel> channels_;  // lane, from, to
  std::vector<Seat> seats_;

  std::mutex reason_mutex_;
  std::string reason_;
  std::atomic<bool> aborted_{false};

  std::mutex late_mutex_;
  std::condition_variable late_changed_;
  std::vector<Match> late_;
  bool closing_ = false;
  std::thread postman_;  // last: it uses the others
};

}  // namespace detail

}  // namespace ringattn
