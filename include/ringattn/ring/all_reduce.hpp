// SPDX-License-Identifier: Apache-2.0
// Sum over ranks in rank order: the same bits on every rank, from run to run and over every transport.
#pragma once

#include <algorithm>
#include <vector>

#include "wait.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Plans an all-reduce of up to `capacity` host elements; calls allocate nothing.
///
/// Every rank owns one slice: it receives the others' slices, adds all of them in the order rank 0, 1, ..., P - 1, and
/// sends the sum back. Each rank sends 2 (P - 1)/P of the data, as a ring all-reduce does, but the order of additions
/// does not depend on the slice. For weight gradients and losses. Collective; one thread at a time.
template <class T, class Communicator> class AllReduce {
 public:
  AllReduce(Communicator& comm, int64_t capacity) : comm_(comm), capacity_(capacity), slices_(scratch(comm, capacity)) {
    sends_.reserve(size_t(comm.size()));
    recvs_.reserve(size_t(comm.size()));
  }

  size_t workspace_bytes() const { return slices_.size() * sizeof(T); }

  /// values := sum over ranks. Every rank brings the same count, at most the planned one. Throws as await
  /// does, and Error{invalid_argument}; whatever is thrown aborts the ring.
  void operator()(std::span<T> values) {
    guarded(comm_, [&] {
      if (int64_t(values.size()) > capacity_)
        throw Error(ErrorCode::invalid_argument, comm_.rank(), "values",
                    "at most " + std::to_string(capacity_) + " elements", std::to_string(values.size()));
      if (comm_.size() > 1) reduce(values);
    });
  }

 private:
  struct Slice {
    int64_t begin, end;
    int64_t count() const { return end - begin; }
  };
  Slice slice(int rank, int64_t count) const {
    int const size = comm_.size();
    return {count * rank / size, count * (rank + 1) / size};
  }
  static size_t scratch(Communicator& comm, int64_t capacity) {
    int64_t const size = comm.size();
    return size == 1 ? 0 : size_t((capacity + size - 1) / size * size);
  }

  void reduce(std::span<T> values) {
    int const size = comm_.size(), rank = comm_.rank();
    int64_t const count = int64_t(values.size());
    Slice const mine = slice(rank, count);
    auto const part = [&](int r) {
      Slice const s = slice(r, count);
      return values.subspan(size_t(s.begin), size_t(s.count()));
    };
    auto const theirs = [&](int r) {
      return std::span(slices_).subspan(size_t(r * mine.count()), size_t(mine.count()));
    };

    for (int i = 1; i < size; ++i) {
      int const to = (rank + i) % size, from = (rank - i + size) % size;
      add(to, part(to), from, theirs(from));
    }
    exchange("all-reduce: slices");

    std::ranges::copy(part(rank), theirs(rank).begin());
    std::ranges::copy(theirs(0), part(rank).begin());
    for (int r = 1; r < size; ++r)
      for (int64_t i = 0; i < mine.count(); ++i) values[size_t(mine.begin + i)] += theirs(r)[size_t(i)];

    for (int i = 1; i < size; ++i) {
      int const to = (rank + i) % size, from = (rank - i + size) % size;
      add(to, part(rank), from, part(from));
    }
    exchange("all-reduce: sums");
  }

  void add(int to, std::span<T const> send, int from, std::span<T> receive) {
    if (!send.empty()) sends_.push_back({to, std::as_bytes(send)});
    if (!receive.empty()) recvs_.push_back({from, std::as_writable_bytes(receive)});
  }
  void exchange(char const* what) {
    HostControl host;
    auto transfer = comm_.exchange(host, std::span<Send const>(sends_), std::span<Recv const>(recvs_));
    sends_.clear();
    recvs_.clear();
    try {
      await(comm_, host, transfer, what);
    } catch (std::exception const& e) {
      comm_.abort(e.what());  // before the transfer is destroyed
      throw;
    }
  }

  Communicator& comm_;
  int64_t capacity_;
  std::vector<T> slices_;  // [rank, my slice]
  std::vector<Send> sends_;
  std::vector<Recv> recvs_;
};

/// As AllReduce, once, with buffers of its own.
template <class T, class Communicator> void all_reduce(Communicator& comm, std::span<T> values) {
  AllReduce<T, Communicator>(comm, int64_t(values.size()))(values);
}

}  // namespace ringattn
