// SPDX-License-Identifier: Apache-2.0
// The handshake: ranks compare what they were planned with, and all of them learn what is wrong on any of them.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "../rows.hpp"
#include "wait.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// What must be equal on every rank of a plan.
struct Contract {
  enum Field {
    version,
    ring_size,
    batch,
    seq,
    kv_seq,
    heads,
    kv_heads,
    head_dim,
    value_dim,
    precision,
    mask,
    score,
    shard,
    kv_shard,
    scale,
    strategy,
    kv_tile,
    commit,
    backward,
    backward_tile,
    fields,
  };
  static constexpr char const* name[fields] = {
      "version",  "ring size", "batch",     "seq",    "kv_seq",   "heads",         "kv_heads",
      "head_dim", "value_dim", "precision", "mask",   "score",    "shard",         "kv_shard",
      "scale",    "strategy",  "tile.kv",   "commit", "backward", "backward tile",
  };
  std::array<std::uint64_t, fields> value{};

  /// Of the backward pass: queries and keys both decide in what order gradients are summed.
  static constexpr std::uint64_t both(Tile t) { return std::uint64_t(t.q) << 32 | std::uint32_t(t.kv); }

  /// A field as a reader wants it: fingerprints in hex, scale as a number, tiles as queries x keys.
  static std::string text(int field, std::uint64_t v) {
    if (field == scale) {
      char digits[32];  // all of them: scales that differ must not look alike
      return {digits, std::to_chars(digits, digits + sizeof digits, std::bit_cast<double>(v)).ptr};
    }
    if (field == backward_tile)
      return v == 0 ? "none" : std::to_string(v >> 32) + " x " + std::to_string(std::uint32_t(v));
    bool const hash = field == precision || field == mask || field == score || field == shard || field == kv_shard ||
                      field == strategy;
    if (!hash) return std::to_string(std::int64_t(v));
    static constexpr char digits[] = "0123456789abcdef";
    std::string s = "#";
    for (int shift = 60; shift >= 0; shift -= 4) s += digits[(v >> shift) & 15u];
    return s;
  }
};

namespace detail {

/// An Error as plain data of a fixed size; code 0 is none. Long texts are cut.
struct ErrorRecord {
  int code = 0, rank = -1;
  char argument[64] = {}, expected[192] = {}, actual[448] = {};

  ErrorRecord() = default;
  explicit ErrorRecord(Error const& e) : code(int(e.code())), rank(e.rank()) {
    put(argument, e.argument());
    put(expected, e.expected());
    put(actual, e.actual());
  }
  Error error() const { return Error(ErrorCode(code), rank, argument, expected, actual); }

 private:
  template <size_t N> static void put(char (&to)[N], std::string const& from) {
    std::memcpy(to, from.data(), std::min(N - 1, from.size()));
  }
};

struct Handshake {
  Contract contract;
  ErrorRecord error;
};

inline std::string list_of(std::vector<int> const& ranks) {
  std::string s = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) s += (i ? ", " : "") + std::to_string(ranks[i]);
  return s;
}

/// The first field that is not the same everywhere, as the error that every rank throws.
inline std::optional<Error> difference(std::vector<Handshake> const& all) {
  for (int field = 0; field < Contract::fields; ++field) {
    auto const expected = all[0].contract.value[size_t(field)];
    std::vector<int> same, other;
    std::string others;
    for (int r = 0; r < int(all.size()); ++r) {
      auto const v = all[size_t(r)].contract.value[size_t(field)];
      if (v == expected) {
        same.push_back(r);
        continue;
      }
      other.push_back(r);
      others += (others.empty() ? "" : ", ") + Contract::text(field, v) + " on rank " + std::to_string(r);
    }
    if (!other.empty())
      return Error(ErrorCode::contract_mismatch, other.front(), Contract::name[field],
                   Contract::text(field, expected) + " as on " + list_of(same), others);
  }
  return std::nullopt;
}

}  // namespace detail

/// Exchanges contract and local error; returns when there is none and all contracts agree. Otherwise every rank throws
/// the same Error: that of the lowest rank with a local error, else the first differing field. The ring stays usable.
template <class C> void agree(C& comm, Contract const& mine, std::optional<Error> const& local, char const* what) {
  std::vector<detail::Handshake> all(static_cast<size_t>(comm.size()));
  detail::Handshake hello{mine, local ? detail::ErrorRecord(*local) : detail::ErrorRecord()};
  all_gather(comm, hello, std::span(all), what);
  std::optional<Error> error;
  for (auto const& h : all)
    if (h.error.code != 0 && !error) error = h.error.error();
  if (!error) error = detail::difference(all);
  if (!error) return;
  // Once more round before anyone throws: a rank that left now and aborted the ring could overtake records that are
  // still on their way to others, which would then not learn the cause.
  try {
    std::vector<char> known(all.size());
    all_gather(comm, char(1), std::span(known), what);
  } catch (Error const&) {
  }
  throw *error;
}

}  // namespace ringattn
