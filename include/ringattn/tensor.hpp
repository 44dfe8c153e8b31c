// SPDX-License-Identifier: Apache-2.0
// Shapes, strided views tagged with a memory space, and an owning host tensor. Axis order is [batch, seq, heads, dim].
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "config.hpp"

namespace ringattn::inline RINGATTN_ABI {

using std::int64_t;
using std::size_t;

struct HostSpace {};    ///< memory that the host reads and writes
struct DeviceSpace {};  ///< memory of an accelerator

/// The whole attention problem, before it is sharded. A negative member means "as its neighbour says".
struct Problem {
  int64_t batch = 1;
  int64_t seq = 0;        ///< query rows, all ranks together
  int64_t kv_seq = -1;    ///< key/value rows, all ranks together; default seq
  int64_t heads = 1;      ///< query heads
  int64_t kv_heads = -1;  ///< key/value heads, divides heads; default heads

  constexpr Problem resolved() const {
    return {batch, seq, kv_seq < 0 ? seq : kv_seq, heads, kv_heads < 0 ? heads : kv_heads};
  }
  bool operator==(Problem const&) const = default;
};

/// The shape of one tensor on one rank.
struct Extents {
  int64_t batch = 1, seq = 0, heads = 1, dim = 1;

  RINGATTN_HD constexpr int64_t count() const { return batch * seq * heads * dim; }
  constexpr bool operator==(Extents const&) const = default;
};

inline std::string to_string(Extents const& e) {
  std::string s = "[";
  for (int64_t n : {e.batch, e.seq, e.heads, e.dim}) s += std::to_string(n) + ", ";
  s.replace(s.size() - 2, 2, "]");
  return s;
}

/// A non-owning strided tensor. Any permutation of the axes, any padding; strides count elements.
template <class T, class Space = HostSpace> struct View {
  using Element = T;

  T* data = nullptr;
  Extents extents{0, 0, 0, 0};
  int64_t stride[4] = {0, 0, 0, 0};  ///< batch, seq, heads, dim

  View() = default;
  /// Dense [batch, seq, heads, dim].
  RINGATTN_HD constexpr View(T* p, Extents e)
      : data(p), extents(e), stride{e.seq * e.heads * e.dim, e.heads * e.dim, e.dim, 1} {}
  RINGATTN_HD constexpr View(T* p, Extents e, int64_t const (&s)[4])
      : data(p), extents(e), stride{s[0], s[1], s[2], s[3]} {}
  constexpr View(T* p, Extents e, std::array<int64_t, 4> s) : View(p, e) { std::copy(s.begin(), s.end(), stride); }
  template <class U>
  requires(std::is_same_v<T, U const> && !std::is_same_v<T, U>) RINGATTN_HD constexpr View(View<U, Space> const& o)
      : data(o.data), extents(o.extents), stride{o.stride[0], o.stride[1], o.stride[2], o.stride[3]} {}

  RINGATTN_HD constexpr T& operator()(int64_t b, int64_t s, int64_t h, int64_t d) const {
    return data[b * stride[0] + s * stride[1] + h * stride[2] + d * stride[3]];
  }
  RINGATTN_HD constexpr T* row(int64_t b, int64_t s, int64_t h) const {
    return data + b * stride[0] + s * stride[1] + h * stride[2];
  }
  RINGATTN_HD constexpr explicit operator bool() const { return data != nullptr; }

  /// The same memory, dense in [batch, heads, seq, dim] order: the layout in which blocks travel.
  RINGATTN_HD static constexpr View head_major(T* p, Extents e) {
    return {p, e, {e.heads * e.seq * e.dim, e.dim, e.seq * e.dim, 1}};
  }
};

/// An owning, dense host tensor, zero-initialised. For examples and tests; engines bring their own memory.
template <class T> class Tensor {
 public:
  Tensor() : Tensor(Extents{0, 0, 0, 0}) {}
  explicit Tensor(Extents e) : extents_(e), values_(size_t(e.count())) {}

  Extents const& extents() const { return extents_; }
  std::vector<T>& values() { return values_; }
  std::vector<T> const& values() const { return values_; }
  T& operator()(int64_t b, int64_t s, int64_t h, int64_t d) { return view()(b, s, h, d); }
  T const& operator()(int64_t b, int64_t s, int64_t h, int64_t d) const { return view()(b, s, h, d); }

  View<T> view() { return {values_.data(), extents_}; }
  View<T const> view() const { return {values_.data(), extents_}; }
  operator View<T>() { return view(); }
  operator View<T const>() const { return view(); }

 private:
  Extents extents_;
  std::vector<T> values_;
};

}  // namespace ringattn
