// SPDX-License-Identifier: Apache-2.0
// THE CONTRACTS: what a precision, mask, score, shard, tile, overlap, backend and communicator must have. Read first.
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <type_traits>

#include "float16.hpp"
#include "rows.hpp"

namespace ringattn::inline RINGATTN_ABI {

// ---------------------------------------------------------------- semantic policies: they may change results

/// `Element`: q, k, v, out and their gradients in memory. `Accumulator`: scores, running state and gradients while they
/// are summed. `Wire`: dK and dV while they travel. `fingerprint`: a number ranks compare. Never narrower in the
/// middle.
template <class T>
concept PrecisionPolicy = requires {
  typename T::Element;
  typename T::Accumulator;
  typename T::Wire;
  { T::fingerprint } -> std::convertible_to<std::uint64_t>;
}
&&mantissa_bits<typename T::Element> > 0 &&
    mantissa_bits<typename T::Accumulator> >= mantissa_bits<float>&& mantissa_bits<typename T::Accumulator> >=
        mantissa_bits<typename T::Element>&& mantissa_bits<typename T::Wire> >= mantissa_bits<typename T::Element>;

/// `visible(q, k)`: may the query at global position q see the key at k. `coverage(rows, rows)`: of a whole block;
/// called with counts >= 1. The same object serves kernels, schedule and reference. RINGATTN_HD where CUDA is used.
template <class T>
concept MaskPolicy = std::is_trivially_copyable_v<T> && requires(T const m, int64_t q, int64_t k, Rows rows) {
  { m.visible(q, k) } -> std::same_as<bool>;
  { m.coverage(rows, rows) } -> std::same_as<Coverage>;
  { m.fingerprint() } -> std::same_as<std::uint64_t>;
};

/// A change of the scaled score (natural units) before the softmax, and its derivative there:
/// `apply(score, head, q, k)` and `slope(score, head, q, k)` = d apply / d score. `identity`: both can be skipped.
template <class T>
concept ScorePolicy = std::is_trivially_copyable_v<T> && requires(T const s, float x, int64_t i) {
  { T::identity } -> std::convertible_to<bool>;
  { s.apply(x, i, i, i) } -> std::same_as<float>;
  { s.slope(x, i, i, i) } -> std::same_as<float>;
  { s.fingerprint() } -> std::same_as<std::uint64_t>;
};

/// `rows(ring, seq)`: the global rows of one rank, a range of Rows in local order. Over all ranks every position
/// 0 .. seq - 1 exactly once, for any seq >= 0 and any ring size; ranks may be empty.
template <class T>
concept ShardPolicy = requires(T const s, Ring ring, int64_t seq) {
  { s.rows(ring, seq) } -> std::ranges::forward_range;
  requires std::same_as<std::ranges::range_value_t<decltype(s.rows(ring, seq))>, Rows>;
  { s.fingerprint() } -> std::same_as<std::uint64_t>;
};

// ---------------------------------------------------------------- tuning policies: they may not

/// Stateless: `tile(arch, head_dim, value_dim, element_bytes) -> Tile`. One that also takes a fifth argument,
/// std::type_identity<Precision>, is asked with it.
template <class T>
concept TilePolicy = std::is_empty_v<T> && requires(T const t) {
  { t(0, 64, 64, 4) } -> std::same_as<Tile>;
};

/// `overlapped`: is step i + 1's block under way while step i is computed?
template <class T>
concept OverlapPolicy = requires {
  { T::overlapped } -> std::convertible_to<bool>;
};

// ---------------------------------------------------------------- devices

/// Called by long steps at a bounded rate, on the thread that called the backend: moves messages along on transports
/// that need it. False when the ring was aborted: the step may stop early, its result will not be used.
struct Progress {
  bool (*call)(void*) = nullptr;
  void* context = nullptr;

  bool operator()() const { return call == nullptr || call(context); }
};

/// Everything attention kernels depend on, and nothing else: two policies that agree here share their kernels.
template <class Precision_, class Mask_, class Score_, class Tiles_, int head_dim_, int value_dim_> struct Kernel {
  using Precision = Precision_;
  using Element = typename Precision::Element;
  using Accumulator = typename Precision::Accumulator;
  using Mask = Mask_;
  using Score = Score_;
  using Tiles = Tiles_;
  static constexpr int head_dim = head_dim_;
  static constexpr int value_dim = value_dim_;
  /// The block sizes on an architecture.
  static constexpr Tile tile(int arch) {
    constexpr int bytes = int(sizeof(Element));
    constexpr std::type_identity<Precision> precision{};
    if constexpr (requires { Tiles{}(arch, head_dim, value_dim, bytes, precision); })
      return Tiles{}(arch, head_dim, value_dim, bytes, precision);
    else
      return Tiles{}(arch, head_dim, value_dim, bytes);
  }
};

/// The largest call a plan allows on this rank, from which a backend derives the bytes it needs.
struct AttendShape {
  int64_t batch = 1, heads = 1, kv_heads = 1;
  std::span<Rows const> q_rows;  ///< this rank's query runs, local order
  int64_t kv_count = 0;          ///< the most key rows that one step brings
  int64_t kv_runs = 1;           ///< the most key runs that one step brings
};

/// One step's operands. Queries stay; key, value and k_rows are those of the block that is here now.
template <class K, class Space> struct AttendStep {
  using Element = typename K::Element;
  using Accumulator = typename K::Accumulator;

  View<Element const, Space> q;  ///< [batch, q rows, heads, head_dim]
  View<Element const, Space> k;  ///< [batch, k rows, kv_heads, head_dim]
  View<Element const, Space> v;  ///< [batch, k rows, kv_heads, value_dim]
  std::span<Rows const> q_rows, k_rows;
  typename K::Mask mask{};
  typename K::Score score{};
  Accumulator scale = 1;       ///< of q.k, natural units
  std::byte* state = nullptr;  ///< the backend's workspace, kept across the steps of one call
  Progress progress;
};

/// What `finish` writes.
template <class K, class Space> struct AttendResult {
  View<typename K::Element, Space> out;      ///< [batch, q rows, heads, value_dim]
  View<typename K::Accumulator, Space> lse;  ///< [batch, q rows, heads, 1], natural log; may be null
};

/// One backward step. `out`, `dout`, `lse` are those of the whole attention, not of this block.
template <class K, class Space> struct BackwardStep : AttendStep<K, Space> {
  View<typename K::Element const, Space> out, dout;  ///< [batch, q rows, heads, value_dim]
  View<typename K::Accumulator const, Space> lse;    ///< [batch, q rows, heads, 1], natural log
  /// This step's contribution, overwritten (the step sums it from zero). Dense in [batch, kv_heads, k rows, dim] order.
  View<typename K::Accumulator, Space> dk, dv;
};

/// A place where attention is computed. `allocate(bytes)` gives a movable owner whose `data()` is a std::byte* aligned
/// to 64 bytes, or throws Error{out_of_memory}; `copy(from, to)` copies a tensor between views of equal extents,
/// converting the element type (order of the stream); `synchronize()` returns when all work is done and throws what
/// went wrong. A stream backend also has `synchronize_for(slice)`: false if that takes longer.
template <class B>
concept DeviceBackend = requires(B& b, size_t n, View<float const, typename B::Space> from,
                                 View<float, typename B::Space> to) {
  typename B::Space;
  { B::arch } -> std::convertible_to<int>;
  { b.allocate(n).data() } -> std::same_as<std::byte*>;
  b.copy(from, to);
  b.synchronize();
};

/// Forward attention, resumable: `begin` clears the state and takes the queries, `step` continues it with one key/value
/// block, `finish` normalises and writes. The state is the backend's business; it is never rounded below Accumulator.
template <class B, class K>
concept Attends = requires(B& b, AttendShape const& shape, AttendStep<K, typename B::Space> const& step,
                           AttendResult<K, typename B::Space> const& result) {
  { b.template attend_bytes<K>(shape) } -> std::same_as<size_t>;
  b.template begin<K>(step);
  b.template step<K>(step);
  b.template finish<K>(step, result);
};

/// Which part of a call a step is. The first one begins by itself; the last one writes the result, unless that has to
/// wait for a vote (`last` is null).
template <class K, class Space> struct Part {
  bool first = false;
  AttendResult<K, Space> const* last = nullptr;
};

/// A backend may spare the passes over its state that `begin` and `finish` take, by steps that know which part they
/// are. Where a call has no step, it begins and finishes as any other.
template <class B, class K>
concept AttendsInParts = requires(B& b, AttendStep<K, typename B::Space> const& step,
                                  Part<K, typename B::Space> const& part) {
  b.template step<K>(step, part);
};

/// A backend whose tiles depend on the device at hand. Both decide the order of additions: ranks compare them, and plan
/// only if all have the same ones.
template <class B, class K>
concept KnowsTiles = requires(B const& b) {
  { b.template attend_tile<K>() } -> std::same_as<Tile>;
  { b.template attend_backward_tile<K>() } -> std::same_as<Tile>;
};

/// Backward attention: `begin_backward` computes the row sums dO . O and clears dQ, `step_backward` adds to dQ and
/// overwrites dk, dv with this block's contribution, `finish_backward` writes dQ. `accumulate(mine, arriving, sum)`
/// writes sum = Wire(mine + arriving) (arriving may be null: sum = Wire(mine)); sum may be arriving.
template <class B, class K>
concept AttendsBackward = requires(B& b, AttendShape const& shape, BackwardStep<K, typename B::Space> const& step,
                                   View<typename K::Element, typename B::Space> dq, int64_t count,
                                   typename K::Accumulator const* mine, typename K::Precision::Wire const* arriving,
                                   typename K::Precision::Wire* sum) {
  { b.template attend_backward_bytes<K>(shape) } -> std::same_as<size_t>;
  b.template begin_backward<K>(step);
  b.template step_backward<K>(step);
  b.template finish_backward<K>(step, dq);
  b.accumulate(mine, arriving, sum, count);
};

// ---------------------------------------------------------------- communicators

/// When a wait that begins now is over. At most a century: now + nanoseconds::max() would overflow.
inline std::chrono::steady_clock::time_point end_of_wait(std::chrono::nanoseconds deadline) {
  std::chrono::nanoseconds const century = std::chrono::hours(24 * 36525);
  return std::chrono::steady_clock::now() + (deadline < century ? deadline : century);
}

struct Send {
  int to;
  std::span<std::byte const> bytes;
};
struct Recv {
  int from;
  std::span<std::byte> bytes;
};

/// A set of messages under way. `wait_for(backend, slice)`: true once later work of the backend is ordered behind
/// their arrival (on a stream backend at once, without blocking the host), false if the slice of time ran out first or
/// the ring was aborted; throws Error{transport} on a transport error. Destroying one that is under way is allowed only
/// after an abort, and then returns only when no buffer will be touched any more. It belongs to its communicator's
/// thread.
template <class T, class B>
concept RingTransfer = std::movable<T> && std::default_initializable<T> &&
    requires(T& t, B& b, std::chrono::nanoseconds slice) {
  { t.wait_for(b, slice) } -> std::same_as<bool>;
};

/// Moves bytes between the ranks of a ring. Messages between a pair match in posted order; once both sides have posted,
/// a transfer completes though neither waits, given calls to `progress`. `moves<Space>`: can it move that memory.
/// `abort(reason)`: latches, reaches every rank, never blocks; `aborted()` is the reason, once there is one.
/// `deadline()`: how long the core waits for a peer. Deadlines, aborts and votes are the core's: a transport only
/// reports. One thread at a time.
template <class C, class B>
concept RingCommunicator = requires(C& c, B& b, std::span<Send const> s, std::span<Recv const> r, std::string reason) {
  { c.rank() } -> std::convertible_to<int>;
  { c.size() } -> std::convertible_to<int>;
  { c.exchange(b, s, r) } -> RingTransfer<B>;
  c.progress();
  c.abort(reason);
  { c.aborted() } -> std::same_as<std::optional<std::string>>;
  { c.deadline() } -> std::convertible_to<std::chrono::nanoseconds>;
};

template <class C, class Space>
concept Moves = C::template moves<Space>;

/// The host as a party to small messages.
struct HostControl {
  using Space = HostSpace;
};

/// Small host messages for handshake and vote, matched independently of the data messages: `all_gather(mine, all)` puts
/// every rank's `mine` (equal sizes) into `all`, rank order.
template <class C>
concept Control = requires(C& c, std::span<std::byte const> mine, std::span<std::byte> all) {
  { c.all_gather(mine, all) } -> RingTransfer<HostControl>;
};

}  // namespace ringattn
