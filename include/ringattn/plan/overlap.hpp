// SPDX-License-Identifier: Apache-2.0
// FLOPs, messages and time of a ring: does the transfer hide behind the computation, and how many tokens must a rank
// have for that?
#pragma once

#include "../ring/plan.hpp"
#include "hardware.hpp"
#include "pairs.hpp"

namespace ringattn::inline RINGATTN_ABI::plan {

enum class Pass { forward, backward };

/// What travels: K|V blocks, in the backward pass with their dK|dV sums; or queries, with dO and dQ.
enum class Traveller { keys, queries };

/// One step of one rank in numbers.
struct Step {
  double batch = 1, q_rows = 0, kv_rows = 0, heads = 1, kv_heads = 1, head_dim = 128, value_dim = 128;
  double visible = 1;        ///< share of its (q, k) pairs that the mask lets through; 1/2 for balanced causal
  double element_bytes = 2;  ///< K, V, Q, dO while travelling
  double wire_bytes = 4;     ///< dK, dV, dQ while travelling

  constexpr double pairs() const { return batch * heads * q_rows * kv_rows * visible; }
  /// Forward multiplies twice per pair (scores, output), backward five times (scores again, dP, dV, dK, dQ).
  constexpr double flops(Pass pass) const {
    double const forward = 2 * (head_dim + value_dim), backward = 2 * (3 * head_dim + 2 * value_dim);
    return pairs() * (pass == Pass::forward ? forward : backward);
  }
  /// What a rank sends while one step is computed.
  constexpr double bytes_sent(Pass pass, Traveller who = Traveller::keys) const {
    if (who == Traveller::keys) return kv_elements() * (element_bytes + (pass == Pass::backward ? wire_bytes : 0));
    double const q = batch * q_rows * heads * head_dim, out = batch * q_rows * heads * value_dim;
    double const sums = 2 * batch * q_rows * heads;
    // Forward: the queries and their running output, max and sum.
    if (pass == Pass::forward) return q * element_bytes + (out + sums) * wire_bytes;
    return (q + out) * element_bytes + q * wire_bytes;
  }
  /// The least that memory must deliver in one step: the K|V block, once.
  constexpr double bytes_read() const { return kv_elements() * element_bytes; }

 private:
  constexpr double kv_elements() const { return batch * kv_rows * kv_heads * (head_dim + value_dim); }
};

/// The time of one step. Compute includes the wait for the device's own memory.
struct StepTime {
  double compute = 0, transfer = 0;  ///< seconds

  constexpr bool hidden() const { return transfer <= compute; }
  constexpr double total(bool overlapped = true) const {
    return overlapped ? (compute > transfer ? compute : transfer) : compute + transfer;
  }
};

constexpr StepTime step_time(Hardware const& h, Step const& s, Pass pass, Traveller who = Traveller::keys) {
  double const arithmetic = s.flops(pass) / h.flops;
  double const memory = h.memory_bandwidth > 0 ? s.bytes_read() / h.memory_bandwidth : 0;
  return {.compute = arithmetic > memory ? arithmetic : memory,
          .transfer = h.latency + s.bytes_sent(pass, who) / h.link_bandwidth};
}

/// The fewest tokens per rank (queries = keys) at which the arithmetic hides the transfer: the paper's c >= F/B,
/// with grouped heads, masks and gradients. Latency is left out. Rows in `s` are ignored.
constexpr double least_tokens(Hardware const& h, Step s, Pass pass, Traveller who = Traveller::keys) {
  s.q_rows = s.kv_rows = 1;  // compute grows with the square of the tokens, transfer linearly
  return (s.bytes_sent(pass, who) / h.link_bandwidth) / (s.flops(pass) / h.flops);
}

/// Table 2 of Liu et al. 2023: the smallest block that hides its transfer, and the sequence per device: six blocks.
constexpr double least_block(Hardware const& h) { return h.flops_per_byte(); }
constexpr double least_sequence(Hardware const& h) { return 6 * least_block(h); }

// ---------------------------------------------------------------- messages

struct Messages {
  int64_t count = 0, bytes = 0;

  constexpr Messages operator+(Messages o) const { return {count + o.count, bytes + o.bytes}; }
  constexpr bool operator==(Messages const&) const = default;
};

/// Messages per call, all ranks together, under a mask that hides no block of non-empty shards of one size.
/// `block_elements`: K|V elements of one rank.
template <class Precision> constexpr Messages full_mask_messages(int64_t ranks, int64_t block_elements, Pass pass) {
  if (ranks == 1) return {};
  int64_t const hops = ranks * (ranks - 1);
  Messages const keys{hops, hops * block_elements * int64_t(sizeof(typename Precision::Element))};
  if (pass == Pass::forward) return keys;
  int64_t const sums = hops + ranks;  // onwards, and home
  return keys + Messages{sums, sums * block_elements * int64_t(sizeof(typename Precision::Wire))};
}

/// Messages per call, all ranks together, of a schedule: block c makes travel[c] hops; its gradients one more, home.
template <class P> Messages messages(Schedule const& s, Problem problem, Pass pass) {
  Problem const p = problem.resolved();
  Messages all;
  for (size_t c = 0; c < s.travel.size(); ++c) {
    int64_t const elements = p.batch * p.kv_heads * s.kv_count[c] * (P::head_dim + value_dim_of<P>);
    int64_t const hops = s.travel[c];
    if (elements == 0 || hops == 0) continue;
    all = all + Messages{hops, hops * elements * int64_t(sizeof(typename P::Precision::Element))};
    if (pass == Pass::backward)
      all = all + Messages{hops + 1, (hops + 1) * elements * int64_t(sizeof(typename P::Precision::Wire))};
  }
  return all;
}

// ---------------------------------------------------------------- a whole call

/// One rank's step if all were alike: the mask's pairs spread evenly, as ZigZag and Striped nearly do.
template <class P>
constexpr Step even_step(Problem problem, int ring_size, typename P::Mask const& mask = typename P::Mask{}) {
  using Precision = typename P::Precision;
  Problem const p = problem.resolved();
  double const whole = double(p.seq) * double(p.kv_seq);
  return {.batch = double(p.batch),
          .q_rows = double(p.seq) / ring_size,
          .kv_rows = double(p.kv_seq) / ring_size,
          .heads = double(p.heads),
          .kv_heads = double(p.kv_heads),
          .head_dim = P::head_dim,
          .value_dim = value_dim_of<P>,
          .visible = whole > 0 ? double(visible_pairs(mask, p)) / whole : 0,
          .element_bytes = sizeof(typename Precision::Element),
          .wire_bytes = sizeof(typename Precision::Wire)};
}

/// FLOPs of a call, all ranks together.
template <class P>
constexpr double flops(Problem problem, Pass pass, typename P::Mask const& mask = typename P::Mask{}) {
  return even_step<P>(problem, 1, mask).flops(pass);
}

struct CallTime {
  double seconds = 0;
  double compute = 0;   ///< seconds of the slowest rank in every step, summed
  double transfer = 0;  ///< seconds of transfer, hidden or not
  /// The part of the transfer that computation hid.
  constexpr double hidden() const { return transfer > 0 ? (compute + transfer - seconds) / transfer : 1; }
};

/// Predicts a call of RingAttention<P>: in every step the slowest rank and the largest message. Takes O(P^2) whatever
/// the length of the sequence, with our masks; a mask of the user's is asked along its edges.
template <class P> CallTime predict(Hardware const& h, PlanOptions<P> const& o, int ring_size, Pass pass) {
  using Precision = typename P::Precision;
  Problem const p = o.problem.resolved();
  Schedule const s = make_schedule(ring_size, o.mask, o.shard, o.kv_shard, p);
  CallTime call;
  double gradient = 0;  // the sums that leave after a step travel beside the next one
  for (int step = 0; step < s.steps; ++step) {
    double compute = 0, keys = 0, sums = 0;
    for (int rank = 0; rank < ring_size; ++rank) {
      int const owner = s.owner(rank, step);
      if (!s.holds(rank, step)) continue;
      double const q_rows = double(s.q_count[size_t(rank)]), kv_rows = double(s.kv_count[size_t(owner)]);
      if (kv_rows == 0) continue;
      Step one = even_step<P>({p.batch, 1, 1, p.heads, p.kv_heads}, 1);
      one.q_rows = q_rows;
      one.kv_rows = kv_rows;
      auto const q = o.shard.rows(Ring{rank, ring_size}, p.seq);
      auto const k = o.kv_shard.rows(Ring{owner, ring_size}, p.kv_seq);
      one.visible = q_rows > 0 ? double(visible_pairs(o.mask, q, k)) / (q_rows * kv_rows) : 0;
      compute = std::max(compute, s.needs(rank, owner) ? step_time(h, one, pass).compute : 0);
      if (s.travel[size_t(owner)] == 0) continue;
      double const elements = double(p.batch * p.kv_heads) * kv_rows * (P::head_dim + value_dim_of<P>);
      auto const time = [&](size_t bytes) { return h.latency + elements * double(bytes) / h.link_bandwidth; };
      if (s.travel[size_t(owner)] > step) keys = std::max(keys, time(sizeof(typename Precision::Element)));
      if (pass == Pass::backward) sums = std::max(sums, time(sizeof(typename Precision::Wire)));
    }
    call.compute += compute;
    call.transfer += keys + gradient;
    // Gradients leave after a step and travel beside the next one in either case.
    call.seconds += P::Overlap::overlapped ? std::max(compute, keys + gradient) : keys + std::max(compute, gradient);
    gradient = sums;
  }
  call.transfer += gradient;  // the last sums go home with nothing to hide behind
  call.seconds += gradient;
  return call;
}

}  // namespace ringattn::plan
