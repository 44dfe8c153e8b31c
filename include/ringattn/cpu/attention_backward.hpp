// SPDX-License-Identifier: Apache-2.0
// Backward attention: S^T and dP^T as in forward, dQ^T += K^T dS^T with query rows as lanes, dV += P^T dO and
// dK += dS^T Q with dimensions as lanes. Weights are recomputed from the LSE (Dao 2023, algorithm 2).
//
// A chunk of panels walks along the keys; it owns its rows of dQ, and adds its sum for a key tile to dK|dV only after
// the chunk before it did. So any number of threads sums in the same order: panels within a chunk, then chunks.
#pragma once

#include <atomic>
#include <new>
#include <thread>

#include "attention.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

/// For register_rows keys: base-2 scores become weights, dP becomes dS = P (dP - delta).
template <int lanes, class A>
[[gnu::noinline]] void weigh_gradients(A* RINGATTN_RESTRICT scores, A* RINGATTN_RESTRICT dp,
                                       A const* RINGATTN_RESTRICT lse, A const* RINGATTN_RESTRICT delta) {
  for (int r = 0; r < register_rows; ++r)
    for (int w = 0; w < lanes; ++w) {
      A const p = exp2(scores[r * lanes + w] - lse[w]);
      scores[r * lanes + w] = p;
      dp[r * lanes + w] = p * (dp[r * lanes + w] - delta[w]);
    }
}

template <class K> class Backward {
 public:
  using A = typename K::Accumulator;
  using E = typename K::Element;
  using S = Sizes<K>;
  using Step = BackwardStep<K, HostSpace>;

  Backward(Step const& step, int threads) : step_(step), count_(count_panels_of<K>(step)), layout_(count_, threads) {}

  int64_t panels() const { return count_.all(); }
  int64_t units() const { return count_.batch * count_.kv_heads * layout_.chunks; }

  /// Clears dQ of a panel and computes its row sums dO . O.
  void clear(int64_t panel) const {
    auto const [b, h, rows, first] = place(panel);
    std::fill_n(dq(panel), S::head_rows * S::q, A(0));
    std::fill_n(delta(panel), S::q, A(0));
    for (int64_t r = 0; r < rows.count; ++r) {
      E const *const o = step_.out.row(b, first + r, h), *const g = step_.dout.row(b, first + r, h);
      int64_t const o_dim = step_.out.stride[3], g_dim = step_.dout.stride[3];
      A sum = 0;
      for (int d = 0; d < S::value; ++d) sum = fma(convert<A>(o[d * o_dim]), convert<A>(g[d * g_dim]), sum);
      delta(panel)[r] = sum;
    }
  }
  /// Before the units of a step.
  void start() const {
    for (int64_t i = 0; i < units(); ++i) new (&tiles_done(i)) std::atomic<int64_t>(0);
  }

  /// One chunk against all keys of the step. Units must be started in order: each waits for the one before it.
  void unit(int64_t index, int worker, StepControl& control) const {
    int64_t const pair = index / layout_.chunks, b = pair / count_.kv_heads, g = pair % count_.kv_heads;
    int64_t const begin = index % layout_.chunks * layout_.chunk;
    int64_t const n = std::min(layout_.chunk, count_.of_group() - begin);
    bool const is_first = begin == 0, is_last = begin + n == count_.of_group();
    Scratch const mine(step_.state + layout_.scratch + size_t(worker) * layout_.scratch_bytes, layout_);
    for (int64_t p = 0; p < n; ++p) pack_panel(mine, p, b, panel_of(b, g, begin + p));

    int64_t pairs = 0;
    each_key_tile(step_.k_rows, S::tile.kv, [&](Rows k, int64_t first, int64_t tile) {
      bool packed = false, special = false;
      for (int64_t p = 0; p < n; ++p) {
        Panel const panel = panel_of(b, g, begin + p);
        VisibleKeys<S::keys> const see(step_.mask, panel.rows, k);
        if (see.none()) continue;
        if (!packed) {
          special = pack_keys(mine, b, g, k.count, first);
          packed = true;
        }
        attend(mine, p, panel, k, see, see.partial() && (special || mine.special[p]));
        pairs += panel.rows.count * (see.end() - see.begin());
        if (!control.keep_going()) return false;
      }
      // The chunk before this one has added its share of the tile.
      while (!is_first && tiles_done(index - 1).load(std::memory_order_acquire) <= tile) {
        if (!control.keep_going()) return false;
        std::this_thread::yield();
      }
      if (packed || is_first) {
        add<S::head, S::head_columns>(step_.dk, mine.dk, step_.scale, b, g, first, k.count, packed, is_first);
        add<S::value, S::value_columns>(step_.dv, mine.dv, A(1), b, g, first, k.count, packed, is_first);
      }
      if (!is_last) tiles_done(index).store(tile + 1, std::memory_order_release);
      return true;
    });
    control.count_pairs(pairs);
  }

  void finish(int64_t panel, View<E, HostSpace> const& to) const {
    auto const [b, h, rows, first] = place(panel);
    for (int64_t r = 0; r < rows.count; ++r) {
      A const* const from = dq(panel) + r / S::lanes * S::head_rows * S::lanes + r % S::lanes;
      E* const row = to.row(b, first + r, h);
      for (int d = 0; d < S::head; ++d) row[d * to.stride[3]] = convert<E>(from[d * S::lanes] * step_.scale);
    }
  }

 private:
  struct Scratch {
    A *q_lanes, *q_columns, *dout_lanes, *dout_columns, *lse;
    unsigned char* special;  ///< [panel of the chunk]
    A *key_groups, *key_columns, *value_groups, *weights, *scores;
    unsigned char* seen;
    A *dk, *dv;

    Scratch(std::byte* p, BackwardLayout<K> const& l)
        : q_lanes(at<A>(p, l.q_lanes)),
          q_columns(at<A>(p, l.q_columns)),
          dout_lanes(at<A>(p, l.dout_lanes)),
          dout_columns(at<A>(p, l.dout_columns)),
          lse(at<A>(p, l.lse)),
          special(at<unsigned char>(p, l.special)),
          key_groups(at<A>(p, l.key_groups)),
          key_columns(at<A>(p, l.key_columns)),
          value_groups(at<A>(p, l.value_groups)),
          weights(at<A>(p, l.weights)),
          scores(at<A>(p, l.scores)),
          seen(at<unsigned char>(p, l.seen)),
          dk(at<A>(p, l.dk)),
          dv(at<A>(p, l.dv)) {}
  };
  struct Panel {
    Rows rows;
    int64_t first, head, index;
  };
  struct Place {
    int64_t b, h;
    Rows rows;
    int64_t first;
  };

  template <class T> static T* at(std::byte* base, size_t offset) { return reinterpret_cast<T*>(base + offset); }
  A* dq(int64_t panel) const { return at<A>(step_.state, layout_.dq) + panel * S::head_rows * S::q; }
  A* delta(int64_t panel) const { return at<A>(step_.state, layout_.delta) + panel * S::q; }
  /// How many key tiles a unit has added to dK|dV.
  std::atomic<int64_t>& tiles_done(int64_t unit) const {
    return at<std::atomic<int64_t>>(step_.state, layout_.progress)[unit];
  }
  Panel panel_of(int64_t b, int64_t g, int64_t i) const {
    int64_t const t = i / count_.group(), h = g * count_.group() + i % count_.group();
    auto const [rows, first] = query_tile(step_.q_rows, S::tile.q, t);
    return {rows, first, h, count_.index(b, h, t)};
  }
  Place place(int64_t panel) const {
    auto const [rows, first] = query_tile(step_.q_rows, S::tile.q, panel % count_.tiles);
    return {panel / count_.tiles / count_.heads, panel / count_.tiles % count_.heads, rows, first};
  }

  void pack_panel(Scratch const& mine, int64_t p, int64_t b, Panel const& panel) const {
    Slab<E const> const q(step_.q, b, panel.first, panel.head), dout(step_.dout, b, panel.first, panel.head);
    int64_t const n = panel.rows.count;
    A const factor = K::Score::identity ? step_.scale * A(softmax::log2_e) : step_.scale;
    pack_row_groups<S::lanes>(q, n, S::head, factor, mine.q_lanes + p * S::head * S::q);
    pack_row_groups<S::lanes>(dout, n, S::value, A(1), mine.dout_lanes + p * S::value * S::q);
    bool const special_q =
        pack_column_groups<S::lanes>(q, n, S::q, S::head, S::head_columns, mine.q_columns + p * S::head_columns * S::q);
    bool const special_dout = pack_column_groups<S::lanes>(dout, n, S::q, S::value, S::value_columns,
                                                           mine.dout_columns + p * S::value_columns * S::q);
    mine.special[p] = special_q || special_dout;
    // A row without keys has the LSE -inf: +inf instead gives its pairs the weight 0, where -inf - -inf would be NaN.
    for (int64_t r = 0; r < S::q; ++r) {
      A const lse = r < n ? A(step_.lse(b, panel.first + r, panel.head, 0)) : softmax::minus_infinity<A>;
      mine.lse[p * S::q + r] = lse == softmax::minus_infinity<A> ? -lse : lse * A(softmax::log2_e);
    }
  }
  bool pack_keys(Scratch const& mine, int64_t b, int64_t g, int64_t n, int64_t first) const {
    Slab<E const> const k(step_.k, b, first, g), v(step_.v, b, first, g);
    bool const special_k = pack_row_groups<S::rows>(k, n, S::head, A(1), mine.key_groups);
    pack_column_groups<S::rows>(k, n, S::keys, S::head, S::head_rows, mine.key_columns);
    bool const special_v = pack_row_groups<S::rows>(v, n, S::value, A(1), mine.value_groups);
    std::fill_n(mine.dk, S::keys * S::head_columns, A(0));
    std::fill_n(mine.dv, S::keys * S::value_columns, A(0));
    return special_k || special_v;
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

  /// One panel against one key tile: adds to its dQ and to the chunk's dK|dV.
  void attend(Scratch const& mine, int64_t p, Panel const& panel, Rows k, VisibleKeys<S::keys> const& see,
              bool careful) const {
    int const begin = see.begin(), n = see.end() - begin;
    for (int64_t w0 = 0; w0 < panel.rows.count; w0 += S::lanes) {
      int64_t position[S::lanes];  // of padded lanes: of the last row
      for (int w = 0; w < S::lanes; ++w) position[w] = panel.rows.at(std::min(w0 + w, panel.rows.count - 1));
      for (int i = begin; i < see.end(); i += S::rows)
        pair_block(mine, p * S::q + w0, panel, w0, k, see.block(i), i, std::min(S::rows, see.end() - i), position);
      A const *const weights = mine.weights + begin * S::lanes, *const scores = mine.scores + begin * S::lanes;
      if (careful)
        for (int i = 0; i < n; ++i)
          for (int w = 0; w < S::lanes; ++w)
            mine.seen[i * S::lanes + w] = step_.mask.visible(position[w], k.at(begin + i));

      // dQ^T += K^T dS^T
      for (int d = 0; d < S::head_rows; d += S::rows) {
        A const* const a = mine.key_columns + d * S::keys + begin * S::rows;
        A* const grad = dq(panel.index) + w0 * S::head_rows + d * S::lanes;
        if (careful)
          seen_product<Into::add, S::lanes, 1, S::rows>(a, scores, n, mine.seen, 0, S::lanes, 1, grad, S::lanes);
        else
          tile_product<Into::add, S::lanes, 1, S::rows>(a, scores, n, grad, S::lanes);
      }
      // dV += P^T dO, dK += dS^T Q, without the padded lanes
      int64_t const rows = std::min<int64_t>(S::lanes, panel.rows.count - w0);
      add_columns<S::value_columns>(weights, mine.dout_columns + p * S::value_columns * S::q, w0, rows, mine.seen,
                                    mine.dv + begin * S::value_columns, n, careful);
      add_columns<S::head_columns>(scores, mine.q_columns + p * S::head_columns * S::q, w0, rows, mine.seen,
                                   mine.dk + begin * S::head_columns, n, careful);
    }
  }

  /// Weights P and score gradients dS of register_rows keys from `i` on and one block of lanes, from `lane` of the
  /// chunk.
  void pair_block(Scratch const& mine, int64_t lane, Panel const& panel, int64_t w0, Rows k, Coverage coverage, int i,
                  int valid, int64_t const* position) const {
    A *const weights = mine.weights + i * S::lanes, *const scores = mine.scores + i * S::lanes;
    if (coverage == Coverage::none) {
      std::fill_n(weights, S::rows * S::lanes, A(0));
      std::fill_n(scores, S::rows * S::lanes, A(0));
      return;
    }
    tile_product<Into::replace, S::lanes, 1, S::rows>(mine.key_groups + i * S::head, mine.q_lanes + lane * S::head,
                                                      S::head, weights, S::lanes);
    tile_product<Into::replace, S::lanes, 1, S::rows>(mine.value_groups + i * S::value,
                                                      mine.dout_lanes + lane * S::value, S::value, scores, S::lanes);
    A const *const lse = mine.lse + lane, *const sums = delta(panel.index) + w0;
    if constexpr (K::Score::identity) {
      weigh_gradients<S::lanes>(weights, scores, lse, sums);
    } else {
      for (int r = 0; r < valid; ++r)
        for (int w = 0; w < S::lanes; ++w) {
          A &s = weights[r * S::lanes + w], &ds = scores[r * S::lanes + w];
          int64_t const at_q = position[w], at_k = k.at(i + r);
          A const slope = step_.score.slope(s, panel.head, at_q, at_k);
          s = exp2(step_.score.apply(s, panel.head, at_q, at_k) * A(softmax::log2_e) - lse[w]);
          ds = s * (ds - sums[w]) * slope;
        }
    }
    // Chosen, not multiplied away: 0 times a NaN or an infinity would reach keys that the row does not see.
    if (coverage == Coverage::partial)
      for (int r = 0; r < valid; ++r) {
        int64_t const key = k.at(i + r);
        for (int w = 0; w < S::lanes; ++w) {
          bool const visible = step_.mask.visible(position[w], key);
          weights[r * S::lanes + w] = visible ? weights[r * S::lanes + w] : A(0);
          scores[r * S::lanes + w] = visible ? scores[r * S::lanes + w] : A(0);
        }
      }
  }

  /// sum[key][column] += the sum over `rows` rows of a[key][row] b[w0 + row][column], for n keys.
  template <int columns>
  static void add_columns(A const* a, A const* b, int64_t w0, int64_t rows, unsigned char const* seen, A* sum, int n,
                          bool careful) {
    constexpr int left = columns % S::lanes;
    for (int c = 0; c + S::lanes <= columns; c += S::lanes)
      add_column_block<S::lanes>(a, b + c * S::q + w0 * S::lanes, rows, seen, sum + c, columns, n, careful);
    if constexpr (left > 0)
      add_column_block<left>(a, b + (columns - left) * S::q + w0 * left, rows, seen, sum + columns - left, columns, n,
                             careful);
  }
  template <int width>
  static void add_column_block(A const* a, A const* b, int64_t rows, unsigned char const* seen, A* sum, int columns,
                               int n, bool careful) {
    for (int i = 0; i < n; i += S::rows)
      if (careful)
        seen_product<Into::add, width, S::lanes, 1>(a + i * S::lanes, b, rows, seen + i * S::lanes, S::lanes, 1, 0,
                                                    sum + i * columns, columns);
      else
        tile_product<Into::add, width, S::lanes, 1>(a + i * S::lanes, b, rows, sum + i * columns, columns);
  }

  Step const& step_;
  PanelCounts count_;
  BackwardLayout<K> layout_;
};

}  // namespace ringattn::cpu
