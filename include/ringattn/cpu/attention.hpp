// SPDX-License-Identifier: Apache-2.0
// Forward attention, transposed: S^T = K Q^T and O^T += V^T P^T with query rows as lanes, so that the online softmax
// (softmax.hpp) runs down the lanes and never across them.
#pragma once

#include <atomic>
#include <new>
#include <utility>

#include "control.hpp"
#include "flat_tile.hpp"
#include "panel.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

template <class K> class Forward {
 public:
  using A = typename K::Accumulator;
  using E = typename K::Element;
  using S = Sizes<K>;
  using T = typename S::T;  // what products multiply
  using State = PanelState<S>;
  using Block = cpu::Block<S>;
  using Step = AttendStep<K, HostSpace>;

  Forward(Step const& step, int threads)
      : step_(step),
        scaling_(scaling<K, T>(step.scale)),
        count_(count_panels_of<K>(step)),
        layout_(count_, threads),
        segments_(std::max<int64_t>(count_tiles(step.k_rows, S::segment), 1)) {
    // Some units for every thread: of segments where there are many, else of few panels. Chunks are of one size, for a
    // chunk that packs keys for a panel or two is slow. More than 768 rows only if each thread has six such chunks.
    int64_t const wanted = threads == 1 ? 1 : 4 * int64_t(threads);
    int64_t const large =
        threads == 1 ? layout_.chunk : std::max<int64_t>(count_.all() / (6 * threads), 768 / S::q * layout_.together);
    int64_t const most =
        std::clamp<int64_t>(count_.all() * segments_ / wanted, 1, std::max<int64_t>(std::min(layout_.chunk, large), 1));
    chunks_of_group_ = ceil_div(count_.of_group(), most);
    chunks_ = count_.batch * count_.kv_heads * chunks_of_group_;
    splits_ = std::clamp<int64_t>(ceil_div(wanted, std::max<int64_t>(chunks_, 1)), 1, segments_);
  }

  int64_t panels() const { return count_.all(); }
  /// Numbers that `finish` writes.
  int64_t results() const { return count_.batch * count_.heads * count_rows(step_.q_rows) * S::value; }
  int64_t units() const { return chunks_ * splits_; }

  void clear(int64_t panel) const {
    state_of(panel).clear(row_tile(step_.q_rows, S::tile.q, panel % count_.tiles).rows.count);
  }
  /// Before the units of a step.
  void start() const {
    for (int64_t chunk = 0; chunk < chunks_ && splits_ > 1; ++chunk) new (&turn(chunk)) std::atomic<int64_t>(0);
  }

  /// One chunk of panels against some of the step's key segments. Late rows first: under a causal mask they have the
  /// most work. Units must be started in order: each waits for the one with the segments before it, so all chunks begin
  /// with the first segments.
  void unit(int64_t index, int worker, StepControl& control) const {
    int64_t const chunk = chunks_ - 1 - index % chunks_, split = index / chunks_;
    int64_t const pair = chunk / chunks_of_group_, place = chunk % chunks_of_group_;
    int64_t const b = pair / count_.kv_heads, g = pair % count_.kv_heads;
    int64_t const begin = place * count_.of_group() / chunks_of_group_;
    int64_t const n = (place + 1) * count_.of_group() / chunks_of_group_ - begin;
    Scratch const mine(step_.state + layout_.scratch + size_t(worker) * layout_.scratch_bytes, layout_);
    [[maybe_unused]] typename S::Register::Scope const registers{};
    Panel panels[ForwardLayout<K>::most_panels];
    for (int64_t p = 0; p < n; ++p) panels[p] = panel_of(step_.q_rows, S::tile.q, count_, b, g, begin + p);
    bool packed_queries[ForwardLayout<K>::most_panels] = {};
    bool my_turn = split == 0;
    int64_t const first_segment = split * segments_ / splits_, end_segment = (split + 1) * segments_ / splits_;
    each_key_tile(step_.k_rows, S::segment, [&](Rows keys, int64_t first, int64_t segment) {
      if (segment < first_segment) return true;
      if (segment >= end_segment) return false;
      State states[ForwardLayout<K>::most_panels];
      if (!attend_segment(mine, b, g, panels, packed_queries, n, keys, first, my_turn, states, control)) return false;
      for (int64_t p = 0; p < n; ++p) {
        State const running = state_of(panels[p].index);
        if (!states[p].out || states[p].out == running.out) continue;
        if (!my_turn && !wait_for_turn(chunk, split, control)) return false;
        my_turn = true;
        running.merge(panels[p].rows.count, states[p]);
      }
      return true;
    });
    if (splits_ == 1 || (!my_turn && !wait_for_turn(chunk, split, control))) return;
    turn(chunk).store(split + 1, std::memory_order_release);
  }

  /// Normalises one panel and writes its rows.
  void finish(int64_t panel, AttendResult<K, HostSpace> const& result) const {
    int64_t const b = panel / count_.tiles / count_.heads, h = panel / count_.tiles % count_.heads;
    auto const [rows, first] = row_tile(step_.q_rows, S::tile.q, panel % count_.tiles);
    State const state = state_of(panel);
    A factor[S::q];
    for (int64_t r = 0; r < rows.count; ++r) {
      A const top = state.max[r], total = state.sum[r];
      bool const undefined = total == 0 && top != softmax::minus_infinity<A>;
      factor[r] = undefined ? std::numeric_limits<A>::quiet_NaN() : softmax::normaliser(total);
      if (result.lse) result.lse(b, first + r, h, 0) = undefined ? factor[r] : softmax::lse(top, total);
    }
    Slab<E> const to(result.out, b, first, h);
    if (is_flat<S>(rows.count)) {
      for (int64_t r = 0; r < rows.count; ++r)
        for (int d = 0; d < S::value; ++d)
          to.at(r)[d * to.dim] = convert<E>(state.out[r * S::value_columns + d] * factor[r]);
      return;
    }
    for (int64_t w0 = 0; w0 < rows.count; w0 += S::lanes)
      unpack_lanes<S::value>(
          state.out + w0 * S::value_rows, std::min<int64_t>(S::lanes, rows.count - w0),
          vectors_for<S>(rows.count - w0) * S::vector, [&](int64_t r) { return factor[w0 + r]; }, to.from(w0));
  }

 private:
  template <class X> static X* at(std::byte* base, size_t offset) { return reinterpret_cast<X*>(base + offset); }

  struct Scratch {
    Scratch(std::byte* base, ForwardLayout<K> const& l)
        : queries(at<T>(base, l.queries)),
          keys(at<T>(base, l.keys)),
          values(at<T>(base, l.values)),
          scores(at<A>(base, l.scores)),
          weights(at<T>(base, l.weights)),
          seen(at<unsigned char>(base, l.seen)),
          segment{at<A>(base, l.segment_out), at<A>(base, l.segment_max), at<A>(base, l.segment_sum)} {}

    T *queries, *keys, *values;
    A* scores;
    T* weights;  // the scores themselves where products multiply numbers
    unsigned char* seen;
    State segment;
  };

  State state_of(int64_t panel) const {
    State const all{at<A>(step_.state, layout_.out), at<A>(step_.state, layout_.max), at<A>(step_.state, layout_.sum)};
    return all.of(panel);
  }
  /// How many units have added their segments of the step to the running states of a chunk.
  std::atomic<int64_t>& turn(int64_t chunk) const { return at<std::atomic<int64_t>>(step_.state, layout_.turn)[chunk]; }
  bool wait_for_turn(int64_t chunk, int64_t split, StepControl& control) const {
    return control.wait_until([&] { return turn(chunk).load(std::memory_order_acquire) == split; });
  }

  /// Lanes of rows, lane block by lane block, of one panel or of n that are computed together.
  void pack_queries(Panel const* panels, int64_t n, int64_t b, T* queries) const {
    int64_t const rows = panels->rows.count;
    bool const flat = is_flat<S>(panels, n);
    if (!flat && n == 1) {
      Slab<E const> const from(step_.q, b, panels->first, panels->head);
      for (int64_t w0 = 0; w0 < rows; w0 += S::lanes)
        pack_lanes<S::head, S::head_terms>(from.from(w0), std::min<int64_t>(S::lanes, rows - w0), rows - w0,
                                           vectors_for<S>(rows - w0) * S::vector, scaling_.packed,
                                           queries + w0 * S::head_terms);
      return;
    }
    int64_t const lanes = vectors_for<S>(n * rows) * S::vector;
    std::fill_n(queries, (flat ? S::flat_terms : S::head_terms) * lanes, T{});
    for (int64_t w = 0; w < n * rows; ++w) {
      Slab<E const> const from(step_.q, b, panels->first + w % rows, panels->head + w / rows);
      T line[S::head_terms];
      read_line<S::head, S::head_terms>(from.data, 0, from.dim, scaling_.packed, line);
      for (int t = 0; t < S::head_terms; ++t) queries[t * lanes + w] = line[t];
    }
  }

  /// n panels against one segment of keys, `first` the first. states: where each panel's sums are. False: the step has
  /// to stop.
  bool attend_segment(Scratch const& mine, int64_t b, int64_t g, Panel const* panels, bool* packed_queries, int64_t n,
                      Rows segment, int64_t first, bool my_turn, State* states, StepControl& control) const {
    int64_t pairs = 0, blocks = 0;
    int64_t const all_keys = count_rows(step_.k_rows);
    int const keys_at_once = S::together(vectors_for<S>(computed_together<S>(panels, n) * panels->rows.count));
    for (int64_t p = 0; p < n; p += computed_together<S>(panels + p, n - p)) ++blocks;
    bool go = true;
    for (int64_t done = 0; go && done < segment.count; done += S::tile.kv) {
      Rows const k = segment.slice(done, std::min<int64_t>(S::tile.kv, segment.count - done));
      enum class Packed { none, tall, flat } packed = Packed::none;
      bool special = false;
      DenseRows<T> dense_keys, dense_values;
      Slab<E const> const keys(step_.k, b, first + done, g), values(step_.v, b, first + done, g);
      int64_t const exist = all_keys - first - done;
      Prefetch<S::head, S::value, S::nearness, E> ahead(keys.from(k.count), values.from(k.count),
                                                        std::min<int64_t>(S::keys, exist - k.count),
                                                        blocks * ceil_div(k.count, keys_at_once));
      for (int64_t p = 0, slot = 0, together; go && p < n; p += together, ++slot) {
        together = computed_together<S>(panels + p, n - p);
        VisibleKeys<S::keys, S::rows> const see(step_.mask, panels[p].rows, k);
        if (see.none()) continue;
        bool const flat = is_flat<S>(panels + p, together);
        if (!states[p].out) begin_sums(mine.segment.of(slot), panels + p, together, my_turn, states + p);
        T* const queries = mine.queries + slot * S::query_terms;
        if (!std::exchange(packed_queries[p], true)) pack_queries(panels + p, together, b, queries);
        if (flat) {
          if (packed != Packed::flat) {
            using N = Number<T>;
            dense_keys =
                dense_rows<T, S::head, S::flat_terms * S::terms>(keys, k.count, exist, reinterpret_cast<N*>(mine.keys));
            dense_values =
                dense_rows<T, S::value, S::value_columns>(values, k.count, exist, reinterpret_cast<N*>(mine.values));
            packed = Packed::flat;
          }
          bool const careful = see.partial() && special_in_rows<S::value>(values, k.count);
          attend_flat(panels + p, together, states + p, mine, queries, k, see, dense_keys, dense_values, careful);
        } else {
          if (packed != Packed::tall) {
            pack_rows<S::head, S::head_terms>(keys, k.count, round_up(k.count, S::rows), mine.keys);
            special = pack_factors<S::value, S::value_rows>(values, k.count, S::keys, mine.values);
            packed = Packed::tall;
          }
          attend(panels + p, together, states[p], mine, queries, k, see, special && see.partial(), ahead);
        }
        pairs += together * panels[p].rows.count * (see.end() - see.begin());
        go = control.keep_going();
      }
    }
    control.count_pairs(pairs);
    return go;
  }

  /// Where panels that are computed together sum up a segment: in their slot, or in the running states if these are
  /// empty and would have the same form; such sums need not be merged.
  void begin_sums(State const& slot, Panel const* panels, int64_t together, bool my_turn, State* states) const {
    int64_t const rows = panels->rows.count;
    bool running = my_turn && (together == 1 || is_flat<S>(panels, together));
    for (int64_t i = 0; running && i < together; ++i) running = state_of(panels[i].index).empty(rows);
    if (!running) slot.clear(together * rows);
    for (int64_t i = 0; i < together; ++i)
      states[i] = running         ? state_of(panels[i].index)
                  : together == 1 ? slot
                                  : slot.rows_from(i * rows, together * rows);
  }

  /// One panel, or the heads of a joint block, against one key tile. careful: invisible values must not be multiplied.
  template <class Ahead>
  void attend(Panel const* panels, int64_t together, State const& state, Scratch const& mine, T const* queries, Rows k,
              VisibleKeys<S::keys, S::rows> const& see, bool careful, Ahead& ahead) const {
    int const begin = see.begin(), n = see.end() - begin;
    for (int64_t w0 = 0; w0 < panels->rows.count; w0 += S::lanes) {
      Block const block(panels, together, w0);
      int const at_once = S::together(block.vectors);
      for (int i = begin; i < see.end(); i += at_once) {
        int const end = std::min(i + at_once, see.end());
        ahead.some();
        if (see.any(i, end))
          tall_product<Into::replace, S::vectors, S::head_terms, 1>(
              block.vectors, end - i, mine.keys + i * S::head_terms, S::rows * S::head_terms,
              queries + w0 * S::head_terms, S::head_terms, mine.scores + i * block.lanes(), block.lanes());
        for (int j = i; j < end; j += S::rows) score(mine, block, k, j, std::min(S::rows, end - j), see.block(j));
      }
      alignas(64) A alpha[S::lanes];
      bool const rescale = weigh(mine, block, k, begin, n, state.max + w0, state.sum + w0, alpha, careful);
      add(block, mine.values, mine.weights + begin / S::terms * block.lanes(), begin, n, careful ? mine.seen : nullptr,
          state.out + w0 * S::value_rows, rescale ? alpha : nullptr);
    }
  }

  /// n flat panels of one query tile against one key tile.
  void attend_flat(Panel const* panels, int64_t n, State const* states, Scratch const& mine, T const* queries, Rows k,
                   VisibleKeys<S::keys, S::rows> const& see, DenseRows<T> keys, DenseRows<T> values,
                   bool careful) const {
    int const begin = see.begin(), end = see.end();
    Block const block(panels, n, 0);
    for (int i = begin / S::vector * S::vector; i < end; i += S::vector)
      some_flat_scores<S::flat>(int(block.rows), queries, keys.from(i), std::min<int64_t>(S::vector, end - i),
                                S::flat_terms, mine.scores + i * S::vector);
    for (int i = begin; i < end; i += S::rows) score(mine, block, k, i, std::min(S::rows, end - i), see.block(i));

    // The states of the panels side by side, and rows to write to beyond the last: products come in powers of two.
    alignas(64) A max[S::vector], sum[S::vector], alpha[S::vector], beyond[S::value_columns]{};
    A* out[S::vector];
    int64_t const each = panels->rows.count;
    for (int w = 0; w < S::vector; ++w) {
      bool const real = w < block.rows;
      State const& state = states[real ? w / each : 0];
      max[w] = real ? state.max[w % each] : softmax::minus_infinity<A>;
      sum[w] = real ? state.sum[w % each] : A(0);
      out[w] = real ? state.out + w % each * S::value_columns : beyond;
    }
    bool const rescale = weigh(mine, block, k, begin, end - begin, max, sum, alpha, careful);
    for (int w = 0; w < block.rows; ++w) {
      states[w / each].max[w % each] = max[w];
      states[w / each].sum[w % each] = sum[w];
    }

    T const* const weights = mine.weights + begin / S::terms * S::vector;
    if (!careful)
      return some_flat_values<S::flat>(int(block.rows), weights, values.from(begin), end - begin, S::value_columns, out,
                                       rescale ? alpha : nullptr);
    for (int w = 0; w < block.rows; ++w)
      add_seen(weights + w, values.from(begin), end - begin, mine.seen + w, out[w], alpha[w]);
  }

  /// Scores of a block of keys from i on, `valid` of them real, from their products; -inf where a pair is invisible.
  void score(Scratch const& mine, Block const& block, Rows k, int i, int valid, Coverage coverage) const {
    int const lanes = block.lanes();
    A* const s = mine.scores + i * lanes;
    if (coverage == Coverage::none) {
      std::fill_n(s, S::rows * lanes, softmax::minus_infinity<A>);
      return;
    }
    if constexpr (!K::Score::identity)
      for (int r = 0; r < valid; ++r)
        for (int w = 0; w < lanes; ++w)
          s[r * lanes + w] =
              step_.score.apply(s[r * lanes + w] * scaling_.product, block.head[w], block.position[w], k.at(i + r)) *
              A(softmax::log2_e);
    if (coverage == Coverage::partial)
      for (int r = 0; r < valid; ++r) {
        int64_t const key = k.at(i + r);
        for (int w = 0; w < lanes; ++w)
          s[r * lanes + w] = step_.mask.visible(block.position[w], key) ? s[r * lanes + w] : softmax::minus_infinity<A>;
      }
  }

  /// Scores of n keys from `begin` on become weights. alpha: what earlier sums are worth; false: all they were. With
  /// `careful`, says in `seen` which pairs count, and tells alpha in any case.
  bool weigh(Scratch const& mine, Block const& block, Rows k, int begin, int n, A* max, A* sum, A* alpha,
             bool careful) const {
    int const lanes = block.lanes();
    bool const rescale = narrow_softmax_rows<S::vectors>(block.vectors, mine.scores + begin * lanes, n,
                                                         K::Score::identity ? scaling_.product : A(1), max, sum, alpha,
                                                         mine.weights + begin / S::terms * lanes);
    if constexpr (S::Register::matrix)  // what is missing of the sums' last steps
      std::fill(mine.weights + (begin + round_up(n, S::terms)) / S::terms * lanes,
                mine.weights + (begin + round_up(n, S::rows)) / S::terms * lanes, T{});
    mark_seen(max, block.position, block.rows, k.slice(begin, n));
    if (!careful) return rescale;
    if (!rescale) std::fill_n(alpha, lanes, A(1));
    for (int i = 0; i < n; ++i)
      for (int w = 0; w < lanes; ++w) mine.seen[i * lanes + w] = step_.mask.visible(block.position[w], k.at(begin + i));
    return true;
  }

  /// O^T = alpha O^T + V^T P^T of n keys from `begin` on; `seen`: which pairs count, or null if all do; `alpha`: null
  /// if it is 1.
  static void add(Block const& block, T const* values, T const* weights, int begin, int n, unsigned char const* seen,
                  A* out, A const* alpha) {
    int const lanes = block.lanes(), step = S::rows * S::key_terms;
    T const* const v = values + begin / S::terms * S::factor_step;
    std::int64_t const terms = ceil_div(n, S::terms);
    if (seen)
      for (int d = 0; d < S::value_rows; d += S::rows)
        seen_product<Into::rescale_add, S::factor_row, S::factor_step>(
            S::rows, lanes, v + d * S::key_terms, weights, n, seen, 0, lanes, 1, out + d * lanes, lanes, alpha);
    else if (alpha)
      tall_product<Into::rescale_add, S::vectors, S::factor_row, S::factor_step>(block.vectors, S::value_rows, v, step,
                                                                                 weights, terms, out, lanes, alpha);
    else
      tall_product<Into::add, S::vectors, S::factor_row, S::factor_step>(block.vectors, S::value_rows, v, step, weights,
                                                                         terms, out, lanes);
  }
  /// A row of a flat panel: O = alpha O + P V, of the n keys that are seen.
  static void add_seen(T const* weights, DenseRows<T> values, int n, unsigned char const* seen, A* out, A alpha) {
    for (int d = 0; d < S::value; ++d) {
      A sum = 0;
      for (int k = 0; k < n; ++k)
        if (seen[k * S::vector])
          sum = fma(number(weights[k / S::terms * S::vector], k % S::terms), A(values.at(k)[d]), sum);
      out[d] = fma(out[d], alpha, sum);
    }
  }

  /// A row all of whose visible scores are -inf has no softmax (0/0), unlike one that sees no key: it gets the lowest
  /// finite maximum instead of -inf, which `finish` tells from the other by.
  void mark_seen(A* max, int64_t const* position, int64_t lanes, Rows k) const {
    for (int64_t w = 0; w < lanes; ++w)
      if (max[w] == softmax::minus_infinity<A>)
        for (int64_t i = 0; i < k.count; ++i)
          if (step_.mask.visible(position[w], k.at(i))) {
            max[w] = std::numeric_limits<A>::lowest();
            break;
          }
  }

  Step const& step_;
  Scaling<A> scaling_;
  PanelCounts count_;
  ForwardLayout<K> layout_;
  int64_t segments_;  ///< of the step's keys
  /// Chunks of a group and of the step; units that share the segments of a chunk.
  int64_t chunks_of_group_, chunks_, splits_;
};

}  // namespace ringattn::cpu
