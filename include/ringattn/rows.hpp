// SPDX-License-Identifier: Apache-2.0
// The words in which shards, masks and kernels speak of rows: affine runs of global positions.
#pragma once

#include <cstdint>
#include <string_view>

#include "tensor.hpp"

namespace ringattn::inline RINGATTN_ABI {

/// Global positions first, first + stride, ...: `count` of them, stride >= 1.
struct Rows {
  int64_t first = 0, stride = 1, count = 0;

  RINGATTN_HD constexpr int64_t at(int64_t i) const { return first + i * stride; }
  RINGATTN_HD constexpr int64_t last() const { return at(count - 1); }
  RINGATTN_HD constexpr Rows slice(int64_t begin, int64_t n) const { return {at(begin), stride, n}; }
  constexpr bool operator==(Rows const&) const = default;
};

/// The rows of one rank in local order: a range of at most N runs.
template <int N> struct Runs {
  Rows run[N] = {};
  int used = 0;

  RINGATTN_HD constexpr void add(Rows r) {
    if (r.count > 0) run[used++] = r;
  }
  RINGATTN_HD constexpr Rows const* begin() const { return run; }
  RINGATTN_HD constexpr Rows const* end() const { return run + used; }
  RINGATTN_HD constexpr int size() const { return used; }
};

/// How many rows a range of runs has.
template <class R> constexpr int64_t count_rows(R const& runs) {
  int64_t n = 0;
  for (Rows const& r : runs) n += r.count;
  return n;
}

/// What a mask lets through of a (query rows x key rows) block. `partial` is always legal; the other two are exact.
enum class Coverage : signed char { none, partial, full };

/// A place in a ring.
struct Ring {
  int rank = 0, size = 1;
};

/// Block sizes of a kernel: tuning only, but `kv` (and where runs are cut into tiles) decides rounding.
struct Tile {
  int q = 64;             ///< query rows
  int kv = 64;            ///< key/value rows
  int stages = 1;         ///< buffers in flight (devices with asynchronous copies)
  int warps = 1;          ///< warps per block (devices)
  int keys_per_warp = 0;  ///< in the backward pass (devices): 16 or 32; 0: 32 where warps are few

  constexpr bool operator==(Tile const&) const = default;
};

/// FNV-1a over a name and integers: what ranks compare instead of whole objects.
constexpr std::uint64_t fingerprint_of(std::string_view name, auto... values) {
  std::uint64_t h = 0xcbf29ce484222325u;
  auto mix = [&h](std::uint64_t byte) { h = (h ^ byte) * 0x100000001b3u; };
  for (char c : name) mix(std::uint64_t(static_cast<unsigned char>(c)));
  [[maybe_unused]] auto const mix_value = [&](std::uint64_t v) {
    for (int i = 0; i < 64; i += 8) mix((v >> i) & 0xffu);
  };
  (mix_value(std::uint64_t(values)), ...);
  return h;
}

}  // namespace ringattn
