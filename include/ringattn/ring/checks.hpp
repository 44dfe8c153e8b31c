// SPDX-License-Identifier: Apache-2.0
// What can be wrong with the arguments of a plan or a call, found before anything is sent.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>

#include "../error.hpp"
#include "plan.hpp"

namespace ringattn::inline RINGATTN_ABI::detail {

/// Extents and strides of a tensor as bytes, whatever its element type.
struct Footprint {
  char const* name;
  std::uintptr_t data;
  int64_t extent[4], stride[4];  // strides in bytes
  int64_t element;               // bytes

  template <class T, class Space>
  Footprint(char const* n, View<T, Space> const& v)
      : name(n),
        data(reinterpret_cast<std::uintptr_t>(v.data)),
        extent{v.extents.batch, v.extents.seq, v.extents.heads, v.extents.dim},
        element(int64_t(sizeof(T))) {
    for (int i = 0; i < 4; ++i) stride[i] = v.stride[i] * element;
  }
  Footprint(char const* n, std::span<std::byte const> bytes)
      : name(n),
        data(reinterpret_cast<std::uintptr_t>(bytes.data())),
        extent{1, 1, 1, int64_t(bytes.size())},
        stride{0, 0, 0, 1},
        element(1) {}
  bool empty() const { return data == 0 || extent[0] * extent[1] * extent[2] * extent[3] == 0; }
  /// First byte and one past the last.
  std::uintptr_t begin() const { return data + std::uintptr_t(reach(-1)); }
  std::uintptr_t end() const { return data + std::uintptr_t(reach(+1) + element); }

 private:
  int64_t reach(int sign) const {
    int64_t sum = 0;
    for (int i = 0; i < 4; ++i)
      if (stride[i] * sign > 0) sum += (extent[i] - 1) * stride[i];
    return sum;
  }
};

/// An axis along which two tensors have the same stride.
struct CommonAxis {
  int64_t stride = 0, a_extent = 1, b_extent = 1;  // stride in bytes
};

/// Is there a pair of indices along the common axes (strides falling) that brings b's stretch of bytes, which begins
/// `delta` bytes after a's, into touch with it?
inline bool reachable(std::span<CommonAxis const> axes, int64_t a_bytes, int64_t b_bytes, int64_t delta) {
  if (axes.empty()) return delta < a_bytes && -delta < b_bytes;
  CommonAxis const& x = axes[0];
  int64_t const near = delta / x.stride;
  for (int64_t i = near - 1; i <= near + 1; ++i) {
    int64_t const limit = i > 0 ? x.a_extent - 1 : x.b_extent - 1;
    if (std::abs(i) <= limit && reachable(axes.subspan(1), a_bytes, b_bytes, delta - i * x.stride)) return true;
  }
  return false;
}

/// Do two tensors share a byte? Each is taken for stretches of bytes, repeated along the axes whose strides they share:
/// exact for slices of one packed tensor. Gaps within a stretch count as its own: tensors that only interleave there
/// count as overlapping.
inline bool overlap(Footprint const& a, Footprint const& b) {
  if (a.empty() || b.empty() || a.end() <= b.begin() || b.end() <= a.begin()) return false;
  CommonAxis axes[4];
  size_t common = 0;
  int64_t a_bytes = a.element, b_bytes = b.element;
  for (int i = 0; i < 4; ++i) {
    int64_t const n = a.extent[i], m = b.extent[i];
    if (n == 1 && m == 1) continue;  // the stride of a single index means nothing
    int64_t const stride = n > 1 ? a.stride[i] : b.stride[i];
    if (stride < 0 || (n > 1 && m > 1 && b.stride[i] < 0)) return true;
    if (stride > 0 && (n == 1 || m == 1 || a.stride[i] == b.stride[i])) {
      axes[common++] = {stride, n, m};
    } else {
      a_bytes += (n - 1) * a.stride[i];
      b_bytes += (m - 1) * b.stride[i];
    }
  }
  // Unused ones, of stride 0, come last.
  std::sort(axes, axes + 4, [](CommonAxis const& x, CommonAxis const& y) { return x.stride > y.stride; });
  // An axis whose stride is less than what lies between two of its indices is part of the stretch, with all below it.
  int64_t a_reach = a_bytes, b_reach = b_bytes;
  size_t outer = common;
  for (size_t i = common; i-- > 0;) {
    bool const nested = axes[i].stride >= std::max(a_reach, b_reach);
    a_reach += (axes[i].a_extent - 1) * axes[i].stride;
    b_reach += (axes[i].b_extent - 1) * axes[i].stride;
    if (nested) continue;
    outer = i;
    a_bytes = a_reach;
    b_bytes = b_reach;
  }
  return reachable({axes, outer}, a_bytes, b_bytes, int64_t(b.data) - int64_t(a.data));
}

/// Collects what is wrong with the tensors of a call; throws at the first.
class CallChecks {
 public:
  CallChecks(int rank, int64_t batch) : rank_(rank), batch_(batch) {}

  template <class T, class Space>
  void tensor(char const* name, View<T, Space> const& v, Extents expected, bool optional = false) {
    if (optional && !v) return;
    expected.batch = batch_;
    if (!(v.extents == expected)) fail(name, to_string(expected), to_string(v.extents));
    if (expected.count() > 0 && !v) fail(name, "memory for " + to_string(expected), "null");
    if (reinterpret_cast<std::uintptr_t>(v.data) % alignof(T) != 0) fail(name, "alignment of its element type", "less");
  }

  /// Outputs must not overlap one another or an input, and must not be written twice through a stride of 0.
  template <size_t N, size_t M> void distinct(Footprint const (&outputs)[N], Footprint const (&inputs)[M]) {
    for (size_t i = 0; i < N; ++i) {
      Footprint const& o = outputs[i];
      if (o.empty()) continue;
      for (int axis = 0; axis < 4; ++axis)
        if (o.stride[axis] == 0 && o.extent[axis] > 1) fail(o.name, "strides other than 0", "a stride of 0");
      for (size_t j = i + 1; j < N; ++j)
        if (overlap(o, outputs[j]))
          fail(o.name, "memory of its own", std::string("memory shared with ") + outputs[j].name);
      for (Footprint const& in : inputs)
        if (overlap(o, in)) fail(o.name, "memory of its own", std::string("memory shared with ") + in.name);
    }
  }

  /// No tensor may lie in the workspace.
  template <size_t N> void outside(std::span<std::byte const> workspace, Footprint const (&tensors)[N]) {
    for (Footprint const& t : tensors)
      if (overlap(t, {"workspace", workspace})) fail(t.name, "memory outside the workspace", "memory shared with it");
  }

  [[noreturn]] void fail(char const* argument, std::string expected, std::string actual) const {
    throw Error(ErrorCode::invalid_argument, rank_, argument, std::move(expected), std::move(actual));
  }

 private:
  int rank_;
  int64_t batch_;
};

/// 0 + 1 + ... + (n - 1), modulo 2^64.
inline std::uint64_t triangle(int64_t n) {
  auto const m = std::uint64_t(n);
  return m % 2 == 0 ? m / 2 * (m - 1) : (m - 1) / 2 * m;
}

/// What is wrong with the options of a plan on this rank, if anything.
template <class P> std::optional<Error> wrong_options(PlanOptions<P> const& o, Ring here) {
  auto const wrong = [&](char const* argument, std::string expected, std::string actual) {
    return Error(ErrorCode::invalid_argument, here.rank, argument, std::move(expected), std::move(actual));
  };
  Problem const p = o.problem.resolved();
  struct {
    char const* name;
    int64_t value, least;
  } const counts[] = {{"problem.batch", p.batch, 1},
                      {"problem.seq", p.seq, 0},
                      {"problem.kv_seq", p.kv_seq, 0},
                      {"problem.heads", p.heads, 1},
                      {"problem.kv_heads", p.kv_heads, 1}};
  for (auto const& c : counts)
    if (c.value < c.least) return wrong(c.name, "at least " + std::to_string(c.least), std::to_string(c.value));
  // Byte counts and shards compute with products of these in 64 bits; in floating point they cannot overflow.
  double const wide = double(P::head_dim) + value_dim_of<P>, rows = double(std::max(p.seq, p.kv_seq));
  double const bytes = double(p.batch) * rows * double(std::max(p.heads, p.kv_heads)) * wide * sizeof(double);
  if (!(std::max(bytes, 2 * rows * here.size) < 0x1p62))
    return wrong("problem", "tensors of less than 2^62 bytes", std::to_string(bytes) + " bytes");
  if (p.heads % p.kv_heads != 0)
    return wrong("problem.kv_heads", "a divisor of heads = " + std::to_string(p.heads), std::to_string(p.kv_heads));
  if (!std::isfinite(o.scale)) return wrong("scale", "a finite number", std::to_string(o.scale));
  if constexpr (requires {
                  { o.mask.invalid() } -> std::convertible_to<char const*>;
                })
    if (char const* rule = o.mask.invalid()) return wrong("mask", rule, "a mask that breaks this");
  auto const bad_shard = [&](auto const& shard, int64_t seq) -> std::optional<std::string> {
    int64_t total = 0;
    std::uint64_t sum = 0;  // of all positions, modulo 2^64: a row that comes twice in place of another shows
    for (int r = 0; r < here.size; ++r)
      for (Rows const& rows : shard.rows(Ring{r, here.size}, seq)) {
        if (rows.stride < 1 || rows.count < 0) return "a run with stride < 1 or count < 0";
        if (rows.count > 0 && (rows.first < 0 || rows.last() >= seq))
          return "row " + std::to_string(rows.first < 0 ? rows.first : rows.last()) + " on rank " + std::to_string(r);
        total += rows.count;
        sum +=
            std::uint64_t(rows.count) * std::uint64_t(rows.first) + std::uint64_t(rows.stride) * triangle(rows.count);
      }
    if (total != seq) return std::to_string(total) + " rows";
    if (sum != triangle(seq)) return "some rows twice and others never";
    return std::nullopt;
  };
  if (auto actual = bad_shard(o.shard, p.seq))
    return wrong("shard", "every row of 0 .. " + std::to_string(p.seq) + " once", *actual);
  if (auto actual = bad_shard(o.kv_shard, p.kv_seq))
    return wrong("kv_shard", "every row of 0 .. " + std::to_string(p.kv_seq) + " once", *actual);
  return std::nullopt;
}

}  // namespace ringattn::detail
