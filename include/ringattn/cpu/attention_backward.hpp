// SPDX-License-Identifier: Apache-2.0
// Backward attention: S^T and dP^T as in forward, dQ^T += K^T dS^T with query rows as lanes, dV += P^T dO and
// dK += dS^T Q with dimensions as lanes. Weights are recomputed from the LSE (Dao 2023, algorithm 2).
//
// A chunk of panels walks along the keys; it owns its rows of dQ, and adds its sum for a key tile to dK|dV only after
// the chunks before it did. So any number of threads sums in the same order: panels within a chunk, then chunks, late
// rows first: under a causal mask they have the most work.
#pragma once

#include <atomic>
#include <new>
#include <utility>

#include "attention.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

template <class K> class Backward {
 public:
  using A = typename K::Accumulator;
  using E = typename K::Element;
  using S = Sizes<K>;
  using T = typename S::T;  // what products multiply
  using Step = BackwardStep<K, HostSpace>;

  Backward(Step const& step, int threads)
      : step_(step), scaling_(scaling<K, T>(step.scale)), count_(count_panels_of<K>(step)), layout_(count_, threads) {}

  int64_t panels() const { return count_.all(); }
  /// Numbers that `finish` writes.
  int64_t results() const { return count_.batch * count_.heads * count_rows(step_.q_rows) * S::head; }
  int64_t units() const { return count_.batch * count_.kv_heads * layout_.chunks; }

  /// Clears dQ of a panel and computes its row sums dO . O: with the operations of dP = V dO, in their order, so that
  /// dP - dO . O is exactly 0 where a row attends to one key only.
  void clear(int64_t panel) const {
    auto const [b, h, rows, first] = place(panel);
    std::fill_n(dq(panel), S::head_rows * S::q, A(0));
    std::fill_n(delta(panel), S::q, A(0));
    Slab<E const> const out(step_.out, b, first, h), dout(step_.dout, b, first, h);
    alignas(64) T x[S::value_terms * S::vector], y[S::value_terms * S::vector];
    for (int64_t r = 0; r < rows.count; r += S::vector) {
      int64_t const n = std::min<int64_t>(S::vector, rows.count - r);
      pack_lanes<S::value, S::value_terms>(out.from(r), n, rows.count - r, S::vector, A(1), x);
      pack_lanes<S::value, S::value_terms>(dout.from(r), n, rows.count - r, S::vector, A(1), y);
      Vec<A> sum = Vec<A>::zero();
      for (int t = 0; t < S::value_terms * S::vector; t += S::vector)
        sum = fma(Factor<T>::load(x + t), Factor<T>::load(y + t), sum);
      sum.store(delta(panel) + r);
    }
  }
  /// Before the units of a step.
  void start() const {
    for (int64_t i = 0; i < units(); ++i) new (&turn(i)) BackwardTurn;
  }

  /// One chunk against all keys of the step. Units must be started in order: each waits for its head's chunks before.
  /// The last chunks of all heads come first, then the ones before: threads wait only where they outnumber heads.
  void unit(int64_t index, int worker, StepControl& control) const {
    int64_t const heads = count_.batch * count_.kv_heads;
    int64_t const b = index % heads / count_.kv_heads, g = index % count_.kv_heads;
    // Chunks differ by a panel at most, so that two runs of equal lengths share one at most, in the middle.
    int64_t const chunk = layout_.chunks - 1 - index / heads, begin = chunk * count_.of_group() / layout_.chunks;
    int64_t const n = (chunk + 1) * count_.of_group() / layout_.chunks - begin;
    bool const is_first = index < heads;
    Scratch const mine(step_.state + layout_.scratch + size_t(worker) * layout_.scratch_bytes, layout_);
    [[maybe_unused]] typename S::Register::Scope const registers{};
    Panel panels[BackwardLayout<K>::most_panels];
    for (int64_t p = 0; p < n; ++p) panels[p] = panel_of(step_.q_rows, S::tile.q, count_, b, g, begin + p);
    bool packed_panels[BackwardLayout<K>::most_panels] = {};

    int64_t pairs = 0;
    int64_t const all_keys = count_rows(step_.k_rows);
    each_key_tile(step_.k_rows, S::tile.kv, [&](Rows k, int64_t first, int64_t tile) {
      bool packed = false, special = false;
      Slab<E const> const keys(step_.k, b, first, g), values(step_.v, b, first, g);
      int64_t const next = std::min<int64_t>(S::keys, all_keys - first - k.count);
      Prefetch<S::head, S::value, S::nearness, E> ahead(keys.from(k.count), values.from(k.count), next,
                                                        n * ceil_div(k.count, S::rows));
      Joint joint;
      for (int64_t p = 0; p < n; ++p) {
        VisibleKeys<S::keys, S::rows> const see(step_.mask, panels[p].rows, k);
        if (see.none()) continue;
        if (!std::exchange(packed_panels[p], true)) pack_panel(mine, p, b, panels[p]);
        if (!packed) {
          special = pack_keys(mine, keys, values, k.count);
          packed = true;
        }
        attend(mine, p, panels[p], k, see, special || mine.special[p], joint, ahead);
        pairs += panels[p].rows.count * (see.end() - see.begin());
        if (!control.keep_going()) return false;
      }
      add_joint(mine, joint, int(k.count));
      if (packed || is_first) {
        if (!control.wait_until([&] { return is_my_turn(index, tile); })) return false;
        add<S::head, S::head_columns>(step_.dk, mine.dk, step_.scale, b, g, first, k.count, packed, is_first);
        add<S::value, S::value_columns>(step_.dv, mine.dv, A(1), b, g, first, k.count, packed, is_first);
        turn(index).cleared.store(tile + 1, std::memory_order_release);
      }
      turn(index).passed.store(tile + 1, std::memory_order_release);
      return true;
    });
    control.count_pairs(pairs);
  }

  void finish(int64_t panel, View<E, HostSpace> const& to) const {
    auto const [b, h, rows, first] = place(panel);
    Slab<E> const dst(to, b, first, h);
    for (int64_t w0 = 0; w0 < rows.count; w0 += S::lanes)
      unpack_lanes<S::head>(
          dq(panel) + w0 * S::head_rows, std::min<int64_t>(S::lanes, rows.count - w0),
          vectors_of(rows.count - w0) * S::vector, [&](int64_t) { return step_.scale; }, dst.from(w0));
  }

 private:
  struct Scratch {
    T *q_lanes, *q_columns, *dout_lanes, *dout_columns;
    A* lse;
    unsigned char* special;  ///< [panel of the chunk]
    T *key_rows, *key_columns, *value_rows;
    A *dk, *dv, *weights, *scores;
    T *weight_pairs, *score_pairs, *score_row_pairs;  ///< weights and scores themselves where T is a number
    unsigned char* seen;

    Scratch(std::byte* p, BackwardLayout<K> const& l)
        : q_lanes(at<T>(p, l.q_lanes)),
          q_columns(at<T>(p, l.q_columns)),
          dout_lanes(at<T>(p, l.dout_lanes)),
          dout_columns(at<T>(p, l.dout_columns)),
          lse(at<A>(p, l.lse)),
          special(at<unsigned char>(p, l.special)),
          key_rows(at<T>(p, l.key_rows)),
          key_columns(at<T>(p, l.key_columns)),
          value_rows(at<T>(p, l.value_rows)),
          dk(at<A>(p, l.dk)),
          dv(at<A>(p, l.dv)),
          weights(at<A>(p, l.weights)),
          scores(at<A>(p, l.scores)),
          weight_pairs(at<T>(p, l.weight_pairs)),
          score_pairs(at<T>(p, l.score_pairs)),
          score_row_pairs(at<T>(p, l.score_row_pairs)),
          seen(at<unsigned char>(p, l.seen)) {}
  };
  /// Neighbouring lane blocks that see the whole key tile and wait for their sums over query rows.
  struct Joint {
    int64_t first = 0, count = 0;
  };
  struct Place {
    int64_t b, h;
    Rows rows;
    int64_t first;
  };

  template <class X> static X* at(std::byte* base, size_t offset) { return reinterpret_cast<X*>(base + offset); }
  /// Of the lane block that the first of `rows` rows is in. Matrix registers sum over whole lane blocks.
  static constexpr int vectors_of(int64_t rows) { return S::Register::matrix ? S::vectors : vectors_for<S>(rows); }
  A* dq(int64_t panel) const { return at<A>(step_.state, layout_.dq) + panel * S::head_rows * S::q; }
  A* delta(int64_t panel) const { return at<A>(step_.state, layout_.delta) + panel * S::q; }
  BackwardTurn& turn(int64_t unit) const { return at<BackwardTurn>(step_.state, layout_.turns)[unit]; }
  /// Have all chunks before this one added their share of a key tile, if they have any?
  bool is_my_turn(int64_t unit, int64_t tile) const {
    int64_t const heads = count_.batch * count_.kv_heads;
    for (int64_t before = unit - heads; before >= 0; before -= heads) {
      if (turn(before).cleared.load(std::memory_order_acquire) > tile) return true;
      if (turn(before).passed.load(std::memory_order_acquire) <= tile) return false;
    }
    return true;
  }
  Place place(int64_t panel) const {
    auto const [rows, first] = row_tile(step_.q_rows, S::tile.q, panel % count_.tiles);
    return {panel / count_.tiles / count_.heads, panel / count_.tiles % count_.heads, rows, first};
  }

  void pack_panel(Scratch const& mine, int64_t p, int64_t b, Panel const& panel) const {
    Slab<E const> const q(step_.q, b, panel.first, panel.head), dout(step_.dout, b, panel.first, panel.head);
    int64_t const n = panel.rows.count;
    bool special = false;
    for (int64_t w0 = 0; w0 < n; w0 += S::lanes) {
      int64_t const rows = std::min<int64_t>(S::lanes, n - w0), lane = p * S::q + w0;
      int64_t const lanes = vectors_of(n - w0) * S::vector;
      pack_lanes<S::head, S::head_terms>(q.from(w0), rows, n - w0, lanes, scaling_.packed,
                                         mine.q_lanes + lane * S::head_terms);
      pack_lanes<S::value, S::value_terms>(dout.from(w0), rows, n - w0, lanes, A(1),
                                           mine.dout_lanes + lane * S::value_terms);
      special |= pack_columns<S::head, S::head_columns, S::columns>(q.from(w0), rows, S::lanes,
                                                                    mine.q_columns + lane / S::terms * S::head_columns);
      special |= pack_columns<S::value, S::value_columns, S::columns>(
          dout.from(w0), rows, S::lanes, mine.dout_columns + lane / S::terms * S::value_columns);
    }
    mine.special[p] = special;
    // A row without keys has the LSE -inf: +inf instead gives its pairs the weight 0, where -inf - -inf would be NaN.
    for (int64_t r = 0; r < S::q; ++r) {
      A const lse = r < n ? A(step_.lse(b, panel.first + r, panel.head, 0)) : softmax::minus_infinity<A>;
      mine.lse[p * S::q + r] = lse == softmax::minus_infinity<A> ? -lse : lse * A(softmax::log2_e);
    }
  }
  bool pack_keys(Scratch const& mine, Slab<E const> k, Slab<E const> v, int64_t n) const {
    int64_t const rows = round_up(n, S::rows);
    pack_rows<S::head, S::head_terms>(k, n, rows, mine.key_rows);
    pack_rows<S::value, S::value_terms>(v, n, rows, mine.value_rows);
    bool const special = pack_factors<S::head, S::head_rows>(k, n, S::keys, mine.key_columns);
    std::fill_n(mine.dk, S::keys * S::head_columns, A(0));
    std::fill_n(mine.dv, S::keys * S::value_columns, A(0));
    return special || special_in_rows<S::value>(v, n);
  }

  /// to = (is_first ? 0 : to) + factor * sum, for the rows of one key tile; sum counts as 0 if nothing was `packed`.
  template <int width, int columns>
  static void add(View<A, HostSpace> const& to, A const* sum, A factor, int64_t b, int64_t g, int64_t first, int64_t n,
                  bool packed, bool is_first) {
    for (int64_t r = 0; r < n; ++r) {
      A* const row = to.row(b, first + r, g);
      int64_t const dim = to.stride[3];
      for (int d = 0; d < width; ++d) {
        A const before = is_first ? A(0) : row[d * dim];
        row[d * dim] = packed ? fma(sum[r * columns + d], factor, before) : before;
      }
    }
  }

  /// One panel against one key tile: adds to its dQ and to the chunk's dK|dV, the latter now or with `joint`.
  template <class Ahead>
  void attend(Scratch const& mine, int64_t p, Panel const& panel, Rows k, VisibleKeys<S::keys, S::rows> const& see,
              bool special, Joint& joint, Ahead& ahead) const {
    int const begin = see.begin(), n = see.end() - begin;
    bool const apart = special || see.partial(), careful = special && see.partial();
    for (int64_t w0 = 0; w0 < panel.rows.count; w0 += S::lanes) {
      int const vectors = vectors_of(panel.rows.count - w0), lanes = vectors * S::vector;
      int64_t const block = (p * S::q + w0) / S::lanes;  // of the chunk
      bool const alone = apart || vectors < S::vectors;
      if (alone || joint.count == BackwardLayout<K>::joint || joint.first + joint.count != block)
        add_joint(mine, joint, int(k.count));
      if (joint.count == 0) joint.first = block;
      int64_t const slot = joint.count * S::keys;

      int64_t position[S::lanes];  // of padded lanes: of the last row
      for (int w = 0; w < lanes; ++w) position[w] = panel.rows.at(std::min(w0 + w, panel.rows.count - 1));
      for (int i = begin; i < see.end(); i += S::rows) {
        ahead.some();
        pair_block(mine, slot, block * S::lanes, vectors, panel, w0, k, see.block(i), i,
                   std::min(S::rows, see.end() - i), position);
      }
      // Pairs of keys: the second of the last pair may be none.
      T const* const scores = mine.score_row_pairs + ((S::terms == 1 ? slot : 0) + begin) / S::terms * lanes;
      if (careful)
        for (int i = 0; i < n; ++i)
          for (int w = 0; w < lanes; ++w)
            mine.seen[i * S::lanes + w] = step_.mask.visible(position[w], k.at(begin + i));

      // dQ^T += K^T dS^T
      T const* const a = mine.key_columns + begin / S::terms * S::factor_step;
      A* const grad = dq(panel.index) + w0 * S::head_rows;
      if (careful)
        for (int d = 0; d < S::head_rows; d += S::rows)
          seen_product<Into::add, S::factor_row, S::factor_step>(S::rows, lanes, a + d * S::key_terms, scores, n,
                                                                 mine.seen, 0, S::lanes, 1, grad + d * lanes, lanes);
      else
        tall_product<Into::add, S::vectors, S::factor_row, S::factor_step>(
            vectors, S::head_rows, a, S::rows * S::key_terms, scores, ceil_div(n, S::terms), grad, lanes);
      // dV += P^T dO, dK += dS^T Q
      if (!alone) {
        ++joint.count;
        continue;
      }
      Columns const at{.first = begin,
                       .keys = n,
                       .slot = slot,
                       .block = block,
                       .blocks = 1,
                       .rows = std::min<int64_t>(S::lanes, panel.rows.count - w0),
                       .vectors = vectors,
                       .careful = careful};
      add_columns<S::value_columns>(mine.weight_pairs, mine.dout_columns, at, mine.seen, mine.dv);
      add_columns<S::head_columns>(mine.score_pairs, mine.q_columns, at, mine.seen, mine.dk);
    }
  }

  /// Weights P and score gradients dS of a block of keys from `i` on and one lane block, which starts at `lane` of the
  /// chunk. Rows from `valid` on come out as 0.
  void pair_block(Scratch const& mine, int64_t slot, int64_t lane, int vectors, Panel const& panel, int64_t w0, Rows k,
                  Coverage coverage, int i, int valid, int64_t const* position) const {
    int const lanes = vectors * S::vector;
    int64_t const at_key = slot + i, wide = S::terms == 1 ? at_key : 0;
    A *const weights = mine.weights + wide * lanes, *const scores = mine.scores + wide * lanes;
    if (coverage == Coverage::none) {
      std::fill_n(weights, S::rows * lanes, A(0));
      std::fill_n(scores, S::rows * lanes, A(0));
    } else {
      tall_product<Into::replace, S::vectors, S::head_terms, 1>(vectors, S::rows, mine.key_rows + i * S::head_terms, 0,
                                                                mine.q_lanes + lane * S::head_terms, S::head_terms,
                                                                weights, lanes);
      tall_product<Into::replace, S::vectors, S::value_terms, 1>(vectors, S::rows, mine.value_rows + i * S::value_terms,
                                                                 0, mine.dout_lanes + lane * S::value_terms,
                                                                 S::value_terms, scores, lanes);
      A const *const lse = mine.lse + lane, *const sums = delta(panel.index) + w0;
      if constexpr (K::Score::identity) {
        weigh_gradients<S::vectors, T>(vectors, S::rows, weights, scores, scaling_.product, lse, sums);
      } else {
        for (int r = 0; r < valid; ++r)
          for (int w = 0; w < lanes; ++w) {
            A &s = weights[r * lanes + w], &ds = scores[r * lanes + w];
            int64_t const at_q = position[w], at_k = k.at(i + r);
            A const score = s * scaling_.product, slope = step_.score.slope(score, panel.head, at_q, at_k);
            s = exp2(step_.score.apply(score, panel.head, at_q, at_k) * A(softmax::log2_e) - lse[w]);
            ds = s * (ds - sums[w]) * slope;
          }
      }
      // Chosen, not multiplied away: 0 times a NaN or an infinity would reach keys that the row does not see.
      if (coverage == Coverage::partial)
        for (int r = 0; r < valid; ++r) {
          int64_t const key = k.at(i + r);
          for (int w = 0; w < lanes; ++w) {
            bool const visible = step_.mask.visible(position[w], key);
            weights[r * lanes + w] = visible ? weights[r * lanes + w] : A(0);
            scores[r * lanes + w] = visible ? scores[r * lanes + w] : A(0);
          }
        }
      std::fill(weights + valid * lanes, weights + S::rows * lanes, A(0));
      std::fill(scores + valid * lanes, scores + S::rows * lanes, A(0));
    }
    if constexpr (S::terms == 2) {
      // A padded lane may be the other half of a real row's pair.
      if (int64_t const rows = panel.rows.count - w0; rows < lanes)
        for (int r = 0; r < S::rows; ++r) {
          std::fill(weights + r * lanes + rows, weights + (r + 1) * lanes, A(0));
          std::fill(scores + r * lanes + rows, scores + (r + 1) * lanes, A(0));
        }
      round_to_pairs<S::vectors>(vectors, S::rows, weights, mine.weight_pairs + at_key * lanes / S::terms,
                                 static_cast<T*>(nullptr));
      round_to_pairs<S::vectors>(vectors, S::rows, scores, mine.score_pairs + at_key * lanes / S::terms,
                                 mine.score_row_pairs + i / S::terms * lanes);
    }
  }

  /// Which keys of the tile and which lane blocks of the chunk a sum over query rows is for.
  struct Columns {
    int first, keys;
    int64_t slot;           ///< where P and dS of the first lane block are
    int64_t block, blocks;  ///< lane blocks, each of `rows` query rows
    int64_t rows;
    int vectors = S::vectors;  ///< of lanes that a lane block has
    bool careful = false;
  };

  void add_joint(Scratch const& mine, Joint& joint, int keys) const {
    if (joint.count > 0) {
      Columns const at{
          .first = 0, .keys = keys, .slot = 0, .block = joint.first, .blocks = joint.count, .rows = S::lanes};
      add_columns<S::value_columns>(mine.weight_pairs, mine.dout_columns, at, mine.seen, mine.dv);
      add_columns<S::head_columns>(mine.score_pairs, mine.q_columns, at, mine.seen, mine.dk);
    }
    joint = {};
  }

  /// sum[key][column] += the sum over query rows of a[key][row] b[row][column]; rows of a are lane blocks of at.vectors
  /// <= most vectors.
  template <int columns, int most = S::vectors>
  static void add_columns(T const* a, T const* b, Columns const& at, unsigned char const* seen, A* sum) {
    if constexpr (most > 1 && !S::Register::matrix)
      if (at.vectors < most) return add_columns<columns, most - 1>(a, b, at, seen, sum);
    constexpr int left = columns % S::columns / S::vector, row = most * S::vector / S::terms;
    a += (at.slot + at.first) * row;
    b += at.block * S::lane_terms * columns;
    sum += at.first * columns;
    for (int c = 0; c + S::columns <= columns; c += S::columns)
      add_column_block<S::column_vectors, columns, row>(a, b + c * S::lane_terms, at, seen, sum + c);
    if constexpr (left > 0) {
      constexpr int c = columns - left * S::vector;
      add_column_block<left, columns, row>(a, b + c * S::lane_terms, at, seen, sum + c);
    }
  }
  template <int vectors, int columns, int row>
  static void add_column_block(T const* a, T const* b, Columns const& at, unsigned char const* seen, A* sum) {
    Stretch const blocks{.count = at.blocks, .a = S::keys * row, .b = S::lane_terms * columns};
    if (at.careful)
      for (int i = 0; i < at.keys; i += S::rows)
        seen_product<Into::add, row, 1>(S::rows, vectors * S::vector, a + i * row, b, at.rows, seen + i * S::lanes,
                                        S::lanes, 1, 0, sum + i * columns, columns);
    else
      tall_product<Into::add, S::column_vectors, row, 1>(vectors, at.keys, a, S::rows * row, b,
                                                         ceil_div(at.rows, S::terms), sum, columns,
                                                         static_cast<A const*>(nullptr), blocks);
  }

  Step const& step_;
  Scaling<A> scaling_;
  PanelCounts count_;
  BackwardLayout<K> layout_;
};

}  // namespace ringattn::cpu
