// SPDX-License-Identifier: Apache-2.0
// One rank's MPI requests: posting, one call that tests them all, the abort message, and the end of each.
#pragma once

#if !__has_include(<mpi.h>)
#error "ringattn: comm/mpi.hpp needs <mpi.h>: compile with your MPI's include path (mpicxx --showme:compile)"
#endif
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"

namespace ringattn::inline RINGATTN_ABI {

struct MpiOptions {
  std::chrono::nanoseconds deadline = std::chrono::seconds(30);  ///< how long the core waits for a peer
  /// The most bytes in one MPI message, whose counts are ints; longer ones are cut. The same on every rank; in
  /// [1, 2^31 - 1].
  size_t chunk = size_t(1) << 30;
};

namespace detail {

/// Only calls of MPI 3.1.
class MpiRing {
 public:
  enum Tag { data_tag = 1, control_tag = 2, abort_tag = 3 };

  /// One transfer. Records are kept and used again, so that a steady ring allocates nothing here.
  struct Record {
    size_t under_way = 0;  ///< requests
    bool lost = false;     ///< one of them will never arrive
  };

  MpiRing(MPI_Comm comm, MpiOptions const& options) : options_(options) {
    check_environment(comm);
    check(MPI_Comm_dup(comm, &comm_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    reserve(16 + 4 * size_t(size_));
    for (int i = 0; i < 8; ++i) add_record();
    abort_sends_.assign(size_t(size_), MPI_REQUEST_NULL);
    text_in_ = std::make_unique<char[]>(text_bytes);
    text_out_ = std::make_unique<char[]>(text_bytes);
    MPI_Request request;
    check(MPI_Irecv(text_in_.get(), int(text_bytes), MPI_CHAR, MPI_ANY_SOURCE, abort_tag, comm_, &request),
          "MPI_Irecv");
    add(request, {});  // stays at index 0
  }

  MpiRing(MpiRing const&) = delete;
  MpiRing& operator=(MpiRing const&) = delete;

  ~MpiRing() {
    if (finalized()) {
      leave_texts();
      return;
    }
    poke();
    if (!reason_) {
      MPI_Cancel(&requests_[0]);
      MPI_Status status;
      int cancelled = 0;
      MPI_Wait(&requests_[0], &status);  // returns after a cancel, whatever the others do
      MPI_Test_cancelled(&status, &cancelled);
      if (cancelled) {
        MPI_Comm_free(&comm_);
        return;
      }
    }
    // Freeing is collective, and after an abort nobody knows who will come: the duplicate is left to MPI_Finalize.
    if (!drained(grace, [&] { return abort_sent(); })) leave_texts();
    if (requests_[0] != MPI_REQUEST_NULL) {
      MPI_Cancel(&requests_[0]);
      MPI_Wait(&requests_[0], MPI_STATUS_IGNORE);
    }
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  MpiOptions const& options() const { return options_; }
  std::optional<std::string> const& aborted() const { return reason_; }

  void abort(std::string reason) {
    if (reason_) return;
    reason_ = std::move(reason);
    if (finalized()) return;
    size_t const length = std::min(reason_->size(), text_bytes);
    std::memcpy(text_out_.get(), reason_->data(), length);
    // An error here has nobody to be told to: the others' deadlines take over.
    for (int peer = 0; peer < size_; ++peer)
      if (peer != rank_)
        MPI_Isend(text_out_.get(), int(length), MPI_CHAR, peer, abort_tag, comm_, &abort_sends_[size_t(peer)]);
  }

  Record* open() {
    if (free_.empty()) add_record();
    Record* const record = free_.back();
    free_.pop_back();
    return record;
  }

  void send(Record& record, Tag tag, int to, std::span<std::byte const> bytes) {
    for_chunks(record, to, bytes.size(), [&](Slot const& s, MPI_Request& request) {
      check(MPI_Isend(bytes.data() + s.offset, int(s.bytes), MPI_BYTE, to, tag, comm_, &request), "MPI_Isend");
    });
  }

  void receive(Record& record, Tag tag, int from, std::span<std::byte> bytes) {
    for_chunks(
        record, from, bytes.size(),
        [&](Slot s, MPI_Request& request) {
          check(MPI_Irecv(bytes.data() + s.offset, int(s.bytes), MPI_BYTE, from, tag, comm_, &request), "MPI_Irecv");
        },
        true);
  }

  /// Tests every request once, which is also what makes MPI move the bytes. Throws nothing: `wait` reports.
  void poke() {
    int done = 0;
    int const code = MPI_Testsome(int(requests_.size()), requests_.data(), &done, indices_.data(), statuses_.data());
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) return fail("MPI_Testsome", code);
    if (done == MPI_UNDEFINED || done == 0) return;
    for (int i = 0; i < done; ++i)
      ended(size_t(indices_[size_t(i)]), statuses_[size_t(i)],
            code == MPI_SUCCESS ? MPI_SUCCESS : statuses_[size_t(i)].MPI_ERROR);
    compact();
  }

  /// True once everything has arrived; false after `slice`, or at once after an abort. Throws Error{transport}.
  bool wait(Record& record, std::chrono::nanoseconds slice) {
    bool const settled = drained(slice, [&] { return record.under_way == 0 || reason_ || failure_; });
    if (failure_) throw Error(ErrorCode::transport, rank_, failure_->first, "", failure_->second);
    return settled && record.under_way == 0 && !record.lost;
  }

  /// Gives a record back; first stops the ring and ends its requests if any is under way.
  void close(Record& record) {
    if (record.under_way != 0 && !finalized()) {
      abort("rank " + std::to_string(rank_) + " gave up a transfer that was under way");
      for (size_t i = 1; i < slots_.size(); ++i)
        if (slots_[i].record == &record && slots_[i].receives) MPI_Cancel(&requests_[i]);
      drained(grace, [&] { return record.under_way == 0; });
      for (size_t i = 1; i < slots_.size(); ++i) {
        if (slots_[i].record != &record) continue;
        MPI_Request_free(&requests_[i]);
        slots_[i].ended = true;
      }
      compact();
    }
    record = {};
    free_.push_back(&record);
  }

 private:
  /// What a request is for.
  struct Slot {
    Record* record = nullptr;
    int peer = -1;
    size_t offset = 0, bytes = 0, total = 0;  ///< of this chunk in its message
    bool receives = false;
    bool ended = false;
  };

  static constexpr size_t text_bytes = 512;  // of a reason on its way; short enough for every MPI to send at once
  // How long the destructors wait for what peers have begun and not finished.
  static constexpr std::chrono::milliseconds grace{250};
  static constexpr std::chrono::milliseconds yield_for{1};
  static constexpr std::chrono::microseconds nap{50};

  static bool finalized() {
    int yes = 0;
    MPI_Finalized(&yes);
    return yes != 0;
  }

  void check_environment(MPI_Comm comm) const {
    auto const wrong = [](char const* argument, char const* expected, char const* actual) {
      return Error(ErrorCode::invalid_argument, -1, argument, expected, actual);
    };
    int initialized = 0, level = 0, main_thread = 0, inter = 0;
    MPI_Initialized(&initialized);
    if (!initialized || finalized())
      throw wrong("MPI", "MPI_Init_thread with at least MPI_THREAD_FUNNELED before, MPI_Finalize after Mpi",
                  initialized ? "MPI is finalized" : "MPI is not initialized");
    MPI_Query_thread(&level);
    MPI_Is_thread_main(&main_thread);
    if (level < MPI_THREAD_SERIALIZED && !main_thread)
      throw wrong("MPI", "the thread that initialized MPI, or MPI_THREAD_SERIALIZED", "another thread");
    if (comm == MPI_COMM_NULL) throw wrong("comm", "an intracommunicator", "MPI_COMM_NULL");
    MPI_Comm_test_inter(comm, &inter);
    if (inter) throw wrong("comm", "an intracommunicator", "an intercommunicator");
    if (options_.chunk < 1 || options_.chunk > 0x7fffffff)
      throw wrong("chunk", "1 .. 2^31 - 1", std::to_string(options_.chunk).c_str());
  }

  static std::string text_of(int code) {
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    return std::string(text, size_t(length));
  }

  void check(int code, char const* call) const {
    if (code != MPI_SUCCESS) throw Error(ErrorCode::transport, rank_, call, "", text_of(code));
  }

  void fail(char const* call, int code) {
    if (!failure_) failure_.emplace(call, text_of(code));
  }

  void add_record() {
    records_.push_back(std::make_unique<Record>());
    free_.reserve(records_.size());
    free_.push_back(records_.back().get());
  }

  void reserve(size_t n) {
    requests_.reserve(n);
    slots_.reserve(n);
    indices_.resize(n);
    statuses_.resize(n);
  }

  void add(MPI_Request request, Slot const& slot) {
    requests_.push_back(request);
    slots_.push_back(slot);
  }

  /// A message is its full chunks and one shorter one (maybe empty), so that every difference in size shows.
  template <class Post> void for_chunks(Record& record, int peer, size_t total, Post post, bool receives = false) {
    size_t const count = total / options_.chunk + 1;
    if (slots_.size() + count > indices_.size()) reserve(2 * (slots_.size() + count));
    for (size_t offset = 0, i = 0; i < count; ++i, offset += options_.chunk) {
      Slot const slot{&record, peer, offset, std::min(options_.chunk, total - offset), total, receives, false};
      MPI_Request request = MPI_REQUEST_NULL;
      post(slot, request);
      add(request, slot);
      ++record.under_way;
    }
  }

  void ended(size_t i, MPI_Status const& status, int error) {
    Slot& slot = slots_[i];
    int count = 0, error_class = MPI_SUCCESS, cancelled = 0;
    if (error != MPI_SUCCESS) MPI_Error_class(error, &error_class);
    if (i == 0) {
      if (error != MPI_SUCCESS) return fail("MPI_Irecv", error);
      MPI_Get_count(&status, MPI_CHAR, &count);
      if (!reason_) reason_ = std::string(text_in_.get(), size_t(count));
      return;
    }
    slot.ended = true;
    --slot.record->under_way;
    if (error_class == MPI_ERR_TRUNCATE) {
      slot.record->lost = true;
      abort(size_mismatch(slot.peer, rank_, "more than " + std::to_string(slot.total), slot.total));
    } else if (error != MPI_SUCCESS) {
      slot.record->lost = true;
      fail(slot.receives ? "MPI_Irecv" : "MPI_Isend", error);
    } else if (slot.receives) {
      MPI_Test_cancelled(&status, &cancelled);
      MPI_Get_count(&status, MPI_BYTE, &count);
      if (!cancelled && size_t(count) == slot.bytes) return;
      slot.record->lost = true;
      if (!cancelled) abort(size_mismatch(slot.peer, rank_, std::to_string(slot.offset + size_t(count)), slot.total));
    }
  }

  void compact() {
    size_t kept = 1;
    for (size_t i = 1; i < slots_.size(); ++i) {
      if (slots_[i].ended) {
        if (requests_[i] != MPI_REQUEST_NULL) MPI_Request_free(&requests_[i]);
        continue;
      }
      slots_[kept] = slots_[i];
      requests_[kept++] = requests_[i];
    }
    slots_.resize(kept);
    requests_.resize(kept);
  }

  /// Pokes until `done()` or for `slice`, more and more patiently: ranks may outnumber cores.
  template <class Done> bool drained(std::chrono::nanoseconds slice, Done done) {
    using Clock = std::chrono::steady_clock;
    auto const begin = Clock::now();
    for (;;) {
      poke();
      if (done()) return true;
      auto const waited = Clock::now() - begin;
      if (waited >= slice) return false;
      if (waited < yield_for)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(nap, slice - waited));
    }
  }

  bool abort_sent() {
    int all = 0;
    return MPI_Testall(size_, abort_sends_.data(), &all, MPI_STATUSES_IGNORE) != MPI_SUCCESS || all != 0;
  }

  /// MPI may still use them.
  void leave_texts() {
    text_in_.release();
    text_out_.release();
  }

  MpiOptions options_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = -1, size_ = 0;

  // In step: request i is for slot i. Index 0 waits for another rank's abort.
  std::vector<MPI_Request> requests_;
  std::vector<Slot> slots_;
  // What MPI_Testsome fills in.
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;

  std::vector<std::unique_ptr<Record>> records_;
  std::vector<Record*> free_;

  std::optional<std::string> reason_;
  std::optional<std::pair<std::string, std::string>> failure_;  // call, text
  std::unique_ptr<char[]> text_in_, text_out_;
  std::vector<MPI_Request> abort_sends_;
};

}  // namespace detail

}  // namespace ringattn
