// SPDX-License-Identifier: Apache-2.0
// What every transport checks before it posts anything, so that all of them reject the same arguments.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "../concepts.hpp"
#include "../error.hpp"

namespace ringattn::inline RINGATTN_ABI {

namespace detail {

inline void check_peer(int rank, int size, int peer, char const* argument, size_t index) {
  if (peer >= 0 && peer < size && peer != rank) return;
  std::string const others =
      size == 1 ? "no message, the ring has one rank" : "another rank of 0 .. " + std::to_string(size - 1);
  throw Error(ErrorCode::invalid_argument, rank, std::string(argument) + " of message " + std::to_string(index), others,
              std::to_string(peer));
}

/// Throws Error{invalid_argument} unless every message goes to, or comes from, another rank of the ring.
inline void check_peers(int rank, int size, std::span<Send const> sends, std::span<Recv const> recvs) {
  for (size_t i = 0; i < sends.size(); ++i) check_peer(rank, size, sends[i].to, "to", i);
  for (size_t i = 0; i < recvs.size(); ++i) check_peer(rank, size, recvs[i].from, "from", i);
}

/// Throws Error{invalid_argument} unless `all` has room for `mine` of every rank.
inline void check_gather(int rank, int size, std::span<std::byte const> mine, std::span<std::byte> all) {
  if (all.size() == mine.size() * size_t(size)) return;
  throw Error(ErrorCode::invalid_argument, rank, "all",
              std::to_string(size) + " times " + std::to_string(mine.size()) + " bytes", std::to_string(all.size()));
}

/// Throws Error{invalid_argument} unless there is a rank `rank` in a ring of `size`.
inline void check_place(int rank, int size) {
  if (size < 1) throw Error(ErrorCode::invalid_argument, -1, "size", "at least one rank", std::to_string(size));
  if (rank < 0 || rank >= size)
    throw Error(ErrorCode::invalid_argument, -1, "rank", "0 .. " + std::to_string(size - 1), std::to_string(rank));
}

/// Why a ring stops when a message is longer or shorter than the room that waits for it.
inline std::string size_mismatch(int from, int to, std::string const& sent, size_t room) {
  return "rank " + std::to_string(from) + " sent " + sent + " bytes to rank " + std::to_string(to) +
         ", which expected " + std::to_string(room);
}

}  // namespace detail

}  // namespace ringattn
