// SPDX-License-Identifier: Apache-2.0
// Forward attention, transposed: S^T = K Q^T and O^T += V^T P^T with query rows as lanes, so that the online softmax
// (softmax.hpp) runs down the lanes and never across them.
#pragma once

#include "control.hpp"
#include "layout.hpp"
#include "pack.hpp"
#include "softmax_tile.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

template <class K> class Forward {
 public:
  using A = typename K::Accumulator;
  using E = typename K::Element;
  using S = Sizes<K>;
  using T = typename S::T;  // what products multiply
  using Step = AttendStep<K, HostSpace>;

  Forward(Step const& step, int threads)
      : step_(step), scaling_(scaling<K, T>(step.scale)), count_(count_panels_of<K>(step)), layout_(count_, threads) {
    // Small chunks when there are few panels, so that every thread has some; and of one size, for a chunk that packs
    // keys for a panel or two is slow.
    int64_t const most =
        std::clamp<int64_t>(count_.all() / (4 * int64_t(threads)), 1, std::max<int64_t>(layout_.chunk, 1));
    chunk_ = ceil_div(count_.of_group(), std::max<int64_t>(ceil_div(count_.of_group(), most), 1));
    chunk_ = std::max<int64_t>(chunk_, 1);
    chunks_ = ceil_div(count_.of_group(), chunk_);
  }

  int64_t panels() const { return count_.all(); }
  int64_t units() const { return count_.batch * count_.kv_heads * chunks_; }

  void clear(int64_t panel) const {
    std::fill_n(out(panel), S::value_rows * S::q, A(0));
    std::fill_n(max(panel), S::q, softmax::minus_infinity<A>);
    std::fill_n(sum(panel), S::q, A(0));
  }

  /// One chunk of panels against all keys of the step. Late rows first: under a causal mask they have the most work.
  void unit(int64_t index, int worker, StepControl& control) const {
    index = units() - 1 - index;
    int64_t const pair = index / chunks_, b = pair / count_.kv_heads, g = pair % count_.kv_heads;
    int64_t const begin = index % chunks_ * chunk_, n = std::min(chunk_, count_.of_group() - begin);
    std::byte* const scratch = step_.state + layout_.scratch + size_t(worker) * layout_.scratch_bytes;
    Scratch const mine{at<T>(scratch, layout_.queries), at<T>(scratch, layout_.keys),
                       at<T>(scratch, layout_.values),  at<A>(scratch, layout_.scores),
                       at<T>(scratch, layout_.weights), at<unsigned char>(scratch, layout_.seen)};
    Panel panels[ForwardLayout<K>::most_panels];
    for (int64_t p = 0; p < n; ++p) {
      panels[p] = panel_of(b, g, begin + p);
      Slab<E const> const rows(step_.q, b, panels[p].first, panels[p].head);
      for (int64_t w0 = 0; w0 < panels[p].rows.count; w0 += S::lanes)
        pack_lanes<S::head, S::lanes>(rows.from(w0), std::min<int64_t>(S::lanes, panels[p].rows.count - w0),
                                      scaling_.packed, mine.queries + (p * S::q + w0) * S::head_terms);
    }
    int64_t pairs = 0;
    int64_t const all_keys = count_rows(step_.k_rows);
    each_key_tile(step_.k_rows, S::tile.kv, [&](Rows k, int64_t first, int64_t) {
      bool packed = false, special = false;
      Slab<E const> const keys(step_.k, b, first, g), values(step_.v, b, first, g);
      int64_t const next = std::min<int64_t>(S::keys, all_keys - first - k.count);
      Prefetch<S::head, S::value, E> ahead(keys.from(k.count), values.from(k.count), next,
                                           n * ceil_div(k.count, S::rows));
      for (int64_t p = 0; p < n; ++p) {
        VisibleKeys<S::keys> const see(step_.mask, panels[p].rows, k);
        if (see.none()) continue;
        if (!packed) {
          pack_rows<S::head>(keys, k.count, round_up(k.count, S::rows), mine.keys);
          special = pack_columns<S::value, S::value_rows, S::rows>(values, k.count, S::keys, mine.values);
          packed = true;
        }
        attend(panels[p], mine, mine.queries + p * S::head_terms * S::q, k, see, special, ahead);
        pairs += panels[p].rows.count * (see.end() - see.begin());
        if (!control.keep_going()) return false;
      }
      return true;
    });
    control.count_pairs(pairs);
  }

  /// Normalises one panel and writes its rows.
  void finish(int64_t panel, AttendResult<K, HostSpace> const& result) const {
    int64_t const b = panel / count_.tiles / count_.heads, h = panel / count_.tiles % count_.heads;
    auto const [rows, first] = row_tile(step_.q_rows, S::tile.q, panel % count_.tiles);
    A factor[S::q];
    for (int64_t r = 0; r < rows.count; ++r) {
      A const top = max(panel)[r], total = sum(panel)[r];
      bool const undefined = total == 0 && top != softmax::minus_infinity<A>;
      factor[r] = undefined ? std::numeric_limits<A>::quiet_NaN() : softmax::normaliser(total);
      if (result.lse) result.lse(b, first + r, h, 0) = undefined ? factor[r] : softmax::lse(top, total);
    }
    Slab<E> const to(result.out, b, first, h);
    for (int64_t w0 = 0; w0 < rows.count; w0 += S::lanes)
      unpack_lanes<S::value, S::lanes>(
          out(panel) + w0 * S::value_rows, std::min<int64_t>(S::lanes, rows.count - w0),
          [&](int64_t r) { return factor[w0 + r]; }, to.from(w0));
  }

 private:
  struct Scratch {
    T *queries, *keys, *values;
    A* scores;
    T* weights;  // the scores themselves where products multiply numbers
    unsigned char* seen;
  };

  template <class X> static X* at(std::byte* base, size_t offset) { return reinterpret_cast<X*>(base + offset); }
  A* out(int64_t panel) const { return at<A>(step_.state, layout_.out) + panel * S::value_rows * S::q; }
  A* max(int64_t panel) const { return at<A>(step_.state, layout_.max) + panel * S::q; }
  A* sum(int64_t panel) const { return at<A>(step_.state, layout_.sum) + panel * S::q; }

  /// One panel of a group: which query tile, of which head, and where its state is.
  struct Panel {
    Rows rows;
    int64_t first, head, index;
  };
  Panel panel_of(int64_t b, int64_t g, int64_t i) const {
    int64_t const t = i / count_.group(), h = g * count_.group() + i % count_.group();
    auto const [rows, first] = row_tile(step_.q_rows, S::tile.q, t);
    return {rows, first, h, count_.index(b, h, t)};
  }

  /// One panel against one key tile.
  template <class Ahead>
  void attend(Panel const& panel, Scratch const& mine, T const* queries, Rows k, VisibleKeys<S::keys> const& see,
              bool special, Ahead& ahead) const {
    Rows const q = panel.rows;
    int const begin = see.begin(), n = see.end() - begin;
    bool const careful = special && see.partial();
    for (int64_t w0 = 0; w0 < q.count; w0 += S::lanes) {
      int64_t position[S::lanes];  // of padded lanes: of the last row
      for (int w = 0; w < S::lanes; ++w) position[w] = q.at(std::min(w0 + w, q.count - 1));

      for (int i = begin; i < see.end(); i += S::rows) {
        ahead.some();
        score(mine, queries + w0 * S::head_terms, panel.head, position, k, i, std::min(S::rows, see.end() - i),
              see.block(i));
      }

      alignas(64) A alpha[S::lanes];
      A *const s = mine.scores + begin * S::lanes, *const top = max(panel.index) + w0;
      T* const weights = mine.weights + begin / S::terms * S::lanes;
      A const product = K::Score::identity ? scaling_.product : A(1);
      bool const rescale = softmax_rows<S::vectors>(s, n, product, top, sum(panel.index) + w0, alpha, weights);
      mark_seen(top, position, std::min<int64_t>(S::lanes, q.count - w0), k.slice(begin, n));

      if (careful) {
        if (!rescale) std::fill_n(alpha, S::lanes, A(1));
        for (int i = 0; i < n; ++i)
          for (int w = 0; w < S::lanes; ++w)
            mine.seen[i * S::lanes + w] = step_.mask.visible(position[w], k.at(begin + i));
      }
      A* const o = out(panel.index) + w0 * S::value_rows;
      for (int d = 0; d < S::value_rows; d += S::rows) {
        T const* const v = mine.values + d * S::key_terms + begin / S::terms * S::rows;
        A* const to = o + d * S::lanes;
        if (careful)
          seen_product<Into::rescale_add, S::vectors, 1, S::rows>(v, weights, n, mine.seen, 0, S::lanes, 1, to,
                                                                  S::lanes, alpha);
        else if (rescale)
          tile_product<Into::rescale_add, S::vectors, 1, S::rows>(v, weights, ceil_div(n, S::terms), to, S::lanes,
                                                                  alpha);
        else
          tile_product<Into::add, S::vectors, 1, S::rows>(v, weights, ceil_div(n, S::terms), to, S::lanes);
      }
    }
  }

  /// Scores of tile_rows keys from i on, `valid` of them real, and one lane block; -inf where a pair is invisible.
  void score(Scratch const& mine, T const* queries, int64_t head, int64_t const* position, Rows k, int i, int valid,
             Coverage coverage) const {
    A* const s = mine.scores + i * S::lanes;
    if (coverage == Coverage::none) {
      std::fill_n(s, S::rows * S::lanes, softmax::minus_infinity<A>);
      return;
    }
    tile_product<Into::replace, S::vectors, S::head_terms, 1>(mine.keys + i * S::head_terms, queries, S::head_terms, s,
                                                              S::lanes);
    if constexpr (!K::Score::identity)
      for (int r = 0; r < valid; ++r)
        for (int w = 0; w < S::lanes; ++w)
          s[r * S::lanes + w] =
              step_.score.apply(s[r * S::lanes + w] * scaling_.product, head, position[w], k.at(i + r)) *
              A(softmax::log2_e);
    if (coverage == Coverage::partial)
      for (int r = 0; r < valid; ++r) {
        int64_t const key = k.at(i + r);
        for (int w = 0; w < S::lanes; ++w)
          s[r * S::lanes + w] = step_.mask.visible(position[w], key) ? s[r * S::lanes + w] : softmax::minus_infinity<A>;
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
  int64_t chunk_, chunks_;
};

}  // namespace ringattn::cpu
