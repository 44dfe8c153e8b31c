// SPDX-License-Identifier: Apache-2.0
// How rows are cut into tiles, and where everything lies in a workspace.
//
// A panel is one query tile of one head: at most Tile.q rows, which are the lanes of all vector arithmetic. A chunk is
// some panels of one (batch, key/value head), tile by tile and, within a tile, head by head of the group: all of them
// read the same packed keys and values.
#pragma once

#include <algorithm>
#include <atomic>
#include <span>

#include "../concepts.hpp"
#include "gemm_tile.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

/// How many vectors of lanes a register tile has: as many as registers hold, unless fewer leave less of a query tile's
/// last register tile empty.
constexpr int tile_vectors(int q, int vector, int most) {
  int best = 1;
  for (int n = 2; n <= most; ++n)
    if (round_up(q, n * vector) <= round_up(q, best * vector)) best = n;
  return best;
}

/// Compile-time sizes of a kernel.
template <class K> struct Sizes {
  using A = typename K::Accumulator;
  using T = OperandOf<typename K::Element, A>;
  static constexpr Tile tile = K::tile(0);
  static_assert(tile.q > 0 && tile.kv > 0, "ringattn: Policy::Tiles must give positive block sizes");

  using Register = RegisterTile<T>;
  static constexpr int vector = vector_lanes<A>;
  /// Sums over query rows take whole lane blocks: as many rows as matrix registers multiply at once.
  static constexpr int vectors =
      Register::matrix
          ? Register::vectors
          : tile_vectors(tile.q, vector, Register::vectors);       ///< of a register tile with query rows as lanes
  static constexpr int lanes = vectors * vector;                   ///< query rows of such a tile: a lane block
  static constexpr int rows = Register::rows;                      ///< of a register tile
  static constexpr int column_vectors = Register::column_vectors;  ///< of a register tile with dimensions as lanes
  static constexpr int columns = column_vectors * vector;
  static constexpr int q = int(round_up(tile.q, lanes));
  static constexpr int lane_blocks = q / lanes;
  static constexpr int keys = int(round_up(tile.kv, rows));
  static constexpr int head = K::head_dim, value = K::value_dim;
  static constexpr int head_rows = int(round_up(head, rows)), value_rows = int(round_up(value, rows));
  static constexpr int head_columns = int(round_up(head, vector)), value_columns = int(round_up(value, vector));
  /// Steps of a product's sum: terms_of<T> numbers each.
  static constexpr int terms = terms_of<T>;
  static constexpr int head_terms = int(round_up(ceil_div(head, terms), Register::steps));
  static constexpr int value_terms = int(round_up(ceil_div(value, terms), Register::steps));
  static constexpr int key_terms = keys / terms, lane_terms = lanes / terms;
  /// Where the factor of a sum over keys lies (pack_factors): distances of its rows and of its steps.
  static constexpr int factor_row = Register::matrix ? key_terms : 1, factor_step = Register::matrix ? 1 : rows;
  /// Keys whose products with so many vectors of query rows are computed before they become scores, and how near to the
  /// multipliers the next keys are fetched: matrix registers want long products, and the first-level cache to
  /// themselves.
  static constexpr int together(int n) { return Register::matrix ? keys : tiles_at_once(n) * rows; }
  static constexpr int nearness = Register::matrix ? 2 : 3;
  /// Panels of no more rows are flat (flat_tile.hpp). Rows of several heads are multiplied together, up to so many.
  static constexpr int flat = Register::matrix ? vector : std::min(rows, std::max(vector / 2, 1));
  static constexpr int flat_terms = int(round_up(head_terms, vector));
  static constexpr int query_terms = std::max(head_terms * q, flat_terms* vector);  ///< of one slot
  static_assert(flat * value_columns <= q * value_rows, "a flat panel's state has room in a panel's");
  /// Keys of a run whose sums are made by themselves and then added to those before them.
  static constexpr int segment = 8 * tile.kv;
};

/// One tile of rows: their global positions, and the first one's place in local order.
struct RowTile {
  Rows rows;
  int64_t first = 0;
};

constexpr int64_t count_tiles(std::span<Rows const> runs, int64_t tile) {
  int64_t n = 0;
  for (Rows const& r : runs) n += ceil_div(r.count, tile);
  return n;
}

constexpr RowTile row_tile(std::span<Rows const> runs, int64_t tile, int64_t index) {
  int64_t first = 0;
  for (Rows const& r : runs) {
    int64_t const n = ceil_div(r.count, tile);
    if (index < n) return {r.slice(index * tile, std::min(tile, r.count - index * tile)), first + index * tile};
    index -= n;
    first += r.count;
  }
  return {};
}

/// f(rows, first local row, index) for the key tiles in order, until it returns false.
template <class F> void each_key_tile(std::span<Rows const> runs, int64_t tile, F f) {
  int64_t first = 0, index = 0;
  for (Rows const& r : runs) {
    for (int64_t i = 0; i < r.count; i += tile)
      if (!f(r.slice(i, std::min(tile, r.count - i)), first + i, index++)) return;
    first += r.count;
  }
}

constexpr int64_t most_rows(std::span<Rows const> runs, int64_t tile) {
  int64_t most = 0;
  for (Rows const& r : runs) most = std::max(most, std::min(tile, r.count));
  return most;
}

/// What a plan and a call have in common: how many panels there are, and rows of the largest. Their state is kept in
/// the order (batch, head, tile), which does not ask for the number of key/value heads: `begin` does not know the keys
/// yet.
struct PanelCounts {
  int64_t batch = 0, heads = 0, kv_heads = 0, tiles = 0, rows = 0;

  constexpr int64_t group() const { return kv_heads > 0 ? heads / kv_heads : 0; }
  constexpr int64_t of_group() const { return tiles * group(); }  ///< of one (batch, key/value head)
  constexpr int64_t all() const { return batch * heads * tiles; }
  constexpr int64_t index(int64_t b, int64_t head, int64_t tile) const { return (b * heads + head) * tiles + tile; }
};

template <class K> constexpr PanelCounts count_panels(AttendShape const& s) {
  constexpr int64_t tile = K::tile(0).q;
  return {s.batch, s.heads, s.kv_heads, count_tiles(s.q_rows, tile), most_rows(s.q_rows, tile)};
}
template <class K, class Step> PanelCounts count_panels_of(Step const& s) {
  constexpr int64_t tile = K::tile(0).q;
  Extents const& q = s.q.extents;
  return {q.batch, q.heads, s.k.extents.heads, count_tiles(s.q_rows, tile), most_rows(s.q_rows, tile)};
}

/// Hands out 64-byte aligned stretches of a workspace as offsets, so that sizes are known at compile time.
class Stretches {
 public:
  template <class T> constexpr size_t take(int64_t count) {
    size_t const at = end_;
    end_ += size_t(round_up(count * int64_t(sizeof(T)), 64));
    return at;
  }
  constexpr size_t end() const { return end_; }

 private:
  size_t end_ = 0;
};

/// Panels of q rows that read one packing of a key tile, at most so many rows: with all that belongs to them they
/// should stay in half of today's second-level caches.
constexpr int64_t chunk_panels(int64_t q, int64_t row_bytes, int64_t most_rows) {
  return std::max<int64_t>(std::min((int64_t(3) << 18) / row_bytes, most_rows) / q, 4);
}

/// How many of `heads` that share keys are computed together if each has `rows` rows: as many as fit into a lane block,
/// and no block much fuller than the others. With matrix registers only flat ones: larger blocks have not been timed
/// there.
template <class S> constexpr int64_t heads_together(int64_t heads, int64_t rows) {
  int64_t const fit = (S::Register::matrix ? S::flat : S::lanes) / std::max<int64_t>(rows, 1);
  return fit > 1 && heads > 1 ? ceil_div(heads, ceil_div(heads, fit)) : 1;
}

template <class K> struct ForwardLayout {
  using A = typename K::Accumulator;
  using S = Sizes<K>;
  using T = typename S::T;
  static constexpr int64_t most_slots =
      chunk_panels(S::q, S::head_terms* int64_t(sizeof(T)) + S::value_rows * int64_t(sizeof(A)), 1536);
  static constexpr int64_t most_panels = std::max<int64_t>(most_slots, 128);  ///< a unit lists its panels on the stack

  int64_t together;  ///< heads that are computed together
  int64_t chunk;     ///< panels of a chunk, at most
  int64_t slots;     ///< of scratch: a chunk's panels, or blocks of heads that are computed together
  /// [panel]: [lane block][value_rows][lanes] ([value_columns] of each row if flat), [q], [q]; [chunk].
  size_t out, max, sum, turn;
  size_t queries, keys, values, scores, weights, seen;  ///< from the start of a worker's scratch
  size_t segment_out, segment_max, segment_sum;         ///< [slot]: the same as out, max, sum
  size_t scratch, scratch_bytes, bytes;

  constexpr ForwardLayout(PanelCounts n, int threads)
      : together(heads_together<S>(n.group(), n.rows)),
        chunk(std::min({most_slots * together, most_panels, n.of_group()})),
        slots(together > 1 ? std::min(chunk, (chunk / n.group() + 2) * ceil_div(n.group(), together)) : chunk) {
    Stretches all, mine;
    out = all.take<A>(n.all() * S::value_rows * S::q);
    max = all.take<A>(n.all() * S::q);
    sum = all.take<A>(n.all() * S::q);
    turn = all.take<int64_t>(n.all());
    queries = mine.take<T>(slots * S::query_terms);
    keys = mine.take<T>(S::keys * S::flat_terms);
    values = mine.take<T>(S::key_terms * std::max(S::value_rows, S::value_columns));
    scores = mine.take<A>(std::max<int64_t>(S::keys * S::lanes, round_up(S::keys, S::vector) * S::vector));
    weights = S::terms == 1 ? scores : mine.take<T>(S::key_terms * S::lanes);
    seen = mine.take<unsigned char>(S::keys * S::lanes);
    segment_out = mine.take<A>(slots * S::value_rows * S::q);
    segment_max = mine.take<A>(slots * S::q);
    segment_sum = mine.take<A>(slots * S::q);
    scratch = all.end();
    scratch_bytes = mine.end();
    bytes = scratch + (chunk > 0 ? size_t(threads) * scratch_bytes : 0);
  }
};

/// How far a chunk of backward has come.
struct BackwardTurn {
  std::atomic<int64_t> passed{0};   ///< key tiles that it has added to dK|dV, or that it does not see
  std::atomic<int64_t> cleared{0};  ///< of them, those that all chunks before it have passed, too
};

template <class K> struct BackwardLayout {
  using A = typename K::Accumulator;
  using S = Sizes<K>;
  using T = typename S::T;
  static constexpr int64_t most_panels =
      chunk_panels(S::q, (S::head + S::value) * int64_t(sizeof(A)), S::Register::matrix ? 1536 : 768);
  /// Lane blocks whose sums over query rows are made together: dK|dV are read and written once for all of them.
  static constexpr int64_t joint = S::Register::matrix ? 4 : 2;

  int64_t chunks = 0, chunk = 0;  ///< of one (batch, key/value head); panels of one
  size_t dq, delta, turns;        ///< [panel]: [lane block][head_rows][lanes], [q]; [unit]
  size_t q_lanes, q_columns, dout_lanes, dout_columns, lse, special;  ///< of a worker's chunk
  size_t key_rows, key_columns, value_rows, dk, dv;                   ///< of a key tile
  size_t weights, scores;  ///< P and dS of the joint lane blocks, as numbers: [lane block][keys][lanes]
  size_t weight_pairs, score_pairs, score_row_pairs;  ///< the same as pairs; score_row_pairs of one lane block
  size_t seen;
  size_t scratch, scratch_bytes, bytes;

  /// Chunks are cut without regard to the threads, whose number must not change a sum. Where there are few heads, they
  /// are half as large as they could be, so that there are units for more threads.
  constexpr BackwardLayout(PanelCounts n, int threads) {
    int64_t const wanted = n.kv_heads > 0 ? ceil_div(16, n.kv_heads) : 1;
    chunks = std::max(ceil_div(n.of_group(), most_panels), std::min(wanted, n.of_group() / (most_panels / 2)));
    chunk = chunks > 0 ? ceil_div(n.of_group(), chunks) : 0;
    Stretches all, mine;
    dq = all.take<A>(n.all() * S::head_rows * S::q);
    delta = all.take<A>(n.all() * S::q);
    turns = all.take<BackwardTurn>(n.batch * n.kv_heads * chunks);
    q_lanes = mine.take<T>(chunk * S::head_terms * S::q);
    q_columns = mine.take<T>(chunk * S::head_columns * S::q / S::terms);
    dout_lanes = mine.take<T>(chunk * S::value_terms * S::q);
    dout_columns = mine.take<T>(chunk * S::value_columns * S::q / S::terms);
    lse = mine.take<A>(chunk * S::q);
    special = mine.take<unsigned char>(chunk);
    key_rows = mine.take<T>(S::keys * S::head_terms);
    key_columns = mine.take<T>(S::key_terms * S::head_rows);
    value_rows = mine.take<T>(S::keys * S::value_terms);
    dk = mine.take<A>(S::keys * S::head_columns);
    dv = mine.take<A>(S::keys * S::value_columns);
    if constexpr (S::terms == 1) {
      weights = weight_pairs = mine.take<A>(joint * S::keys * S::lanes);
      scores = score_pairs = score_row_pairs = mine.take<A>(joint * S::keys * S::lanes);
    } else {
      weights = mine.take<A>(S::rows * S::lanes);
      scores = mine.take<A>(S::rows * S::lanes);
      weight_pairs = mine.take<T>(joint * S::keys * S::lane_terms);
      score_pairs = mine.take<T>(joint * S::keys * S::lane_terms);
      score_row_pairs = mine.take<T>(S::key_terms * S::lanes);
    }
    seen = mine.take<unsigned char>(S::keys * S::lanes);
    scratch = all.end();
    scratch_bytes = mine.end();
    bytes = scratch + (chunk > 0 ? size_t(threads) * scratch_bytes : 0);
  }
};

/// The part of a key tile that a query tile sees, in blocks of `rows` keys.
template <int keys, int rows> class VisibleKeys {
 public:
  template <class Mask> VisibleKeys(Mask const& mask, Rows q, Rows k) {
    Coverage const whole = mask.coverage(q, k);
    if (whole == Coverage::none) return;
    end_ = int(k.count);
    partial_ = whole == Coverage::partial;
    if (!partial_) return;
    int const n = int(ceil_div(k.count, rows));
    int first = n, last = -1;
    for (int i = 0; i < n; ++i) {
      int64_t const at = int64_t(i) * rows;
      block_[i] = mask.coverage(q, k.slice(at, std::min<int64_t>(rows, k.count - at)));
      if (block_[i] == Coverage::none) continue;
      first = std::min(first, i);
      last = i;
    }
    begin_ = first * rows;
    end_ = std::min(end_, (last + 1) * rows);
  }

  int begin() const { return begin_; }  ///< a multiple of rows
  int end() const { return end_; }
  bool none() const { return begin_ >= end_; }
  bool partial() const { return partial_; }
  bool any(int from, int to) const {
    while (from < to && block(from) == Coverage::none) from += rows;
    return from < to;
  }
  /// Of the block that starts at key `at`.
  Coverage block(int at) const { return partial_ ? block_[at / rows] : Coverage::full; }

 private:
  int begin_ = 0, end_ = 0;
  bool partial_ = false;
  Coverage block_[ceil_div(keys, rows)];
};

}  // namespace ringattn::cpu
