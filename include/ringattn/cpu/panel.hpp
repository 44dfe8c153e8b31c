// SPDX-License-Identifier: Apache-2.0
// The panels of forward attention: which of them are computed together, and what each has summed up.
#pragma once

#include "layout.hpp"
#include "softmax_tile.hpp"

namespace ringattn::inline RINGATTN_ABI::cpu {

/// One query tile of one head: its rows, the first one's place in local order, and the panel's number.
struct Panel {
  Rows rows;
  int64_t first, head, index;
};

/// Number i of the panels of key/value head g, in the order of chunks.
inline Panel panel_of(std::span<Rows const> runs, int64_t tile, PanelCounts const& count, int64_t b, int64_t g,
                      int64_t i) {
  int64_t const t = i / count.group(), h = g * count.group() + i % count.group();
  auto const [rows, first] = row_tile(runs, tile, t);
  return {rows, first, h, count.index(b, h, t)};
}

/// Vectors of the lane block that the first of `rows` rows is in.
template <class S> constexpr int vectors_for(int64_t rows) {
  return int(ceil_div(std::min<int64_t>(rows, S::lanes), S::vector));
}

/// Few enough rows for the products of flat_tile.hpp.
template <class S> constexpr bool is_flat(int64_t rows) { return rows <= S::flat; }
template <class S> bool is_flat(Panel const* panels, int64_t together) {
  return is_flat<S>(together * panels->rows.count);
}

/// How many of n panels, from the first on, are computed together: heads of the same query tile.
template <class S> int64_t computed_together(Panel const* panels, int64_t n) {
  int64_t heads = 1;
  while (heads < n && panels[heads].first == panels->first) ++heads;
  return heads_together<S>(heads, panels->rows.count);
}

/// What is computed at once: at most `lanes` rows of a panel, or all rows of several heads of one query tile.
template <class S> struct Block {
  int64_t rows;
  int vectors;
  int64_t position[S::lanes], head[S::lanes];  ///< of padded lanes: of the last row

  int lanes() const { return vectors * S::vector; }
  /// Rows from `first` on of each of n panels.
  Block(Panel const* panels, int64_t n, int64_t first) {
    int64_t const each = std::min<int64_t>(S::lanes, panels->rows.count - first);
    rows = n * each;
    vectors = vectors_for<S>(rows);
    for (int64_t w = 0, i = 0; i < n; ++i)
      for (int64_t r = 0; r < each; ++r, ++w) {
        position[w] = panels->rows.at(first + r);
        head[w] = panels->head + i;
      }
    std::fill(position + rows, position + lanes(), position[rows - 1]);
    std::fill(head + rows, head + lanes(), head[rows - 1]);
  }
};

/// A panel's sums, over all keys so far or over those of one segment; `out` is null if there are none. Its own are
/// [lane block][value_rows][lanes], or [row][value_columns] if it is flat; those of a head of a block of several heads
/// are some rows of the block's.
template <class S> struct PanelState {
  using A = typename S::A;

  A *out = nullptr, *max = nullptr, *sum = nullptr;
  int64_t dim = 0;  ///< stride of a dimension in the `out` of a block of several heads: 1 if it is flat

  PanelState of(int64_t panel) const {
    return {out + panel * S::value_rows * S::q, max + panel * S::q, sum + panel * S::q};
  }
  /// Rows from `first` on of a block of `rows`.
  PanelState rows_from(int64_t first, int64_t rows) const {
    bool const flat = is_flat<S>(rows);
    return {out + first * (flat ? S::value_columns : 1), max + first, sum + first,
            flat ? 1 : vectors_for<S>(rows) * S::vector};
  }

  void clear(int64_t rows) const {
    int64_t const full = rows / S::lanes * S::lanes;
    std::fill_n(
        out,
        is_flat<S>(rows) ? rows * S::value_columns : S::value_rows * (full + vectors_for<S>(rows - full) * S::vector),
        A(0));
    std::fill_n(max, S::q, softmax::minus_infinity<A>);
    std::fill_n(sum, S::q, A(0));
  }
  bool empty(int64_t rows) const {
    return std::all_of(max, max + rows, [](A m) { return m == softmax::minus_infinity<A>; });
  }

  /// Adds the sums of later keys.
  void merge(int64_t rows, PanelState const& next) const {
    int64_t const lanes = round_up(rows, S::vector);
    bool const flat = is_flat<S>(rows), next_flat = flat && next.dim <= 1;  // flat rows may lie in a tall block
    alignas(64) A left[S::q], right[S::q];
    if (next.dim > 0) {
      alignas(64) A next_max[S::q], next_sum[S::q]{};  // without the rows of other heads
      std::fill_n(next_max, S::q, softmax::minus_infinity<A>);
      std::copy_n(next.max, rows, next_max);
      std::copy_n(next.sum, rows, next_sum);
      merge_states(lanes, max, sum, next_max, next_sum, left, right);
    } else {
      merge_states(lanes, max, sum, next.max, next.sum, left, right);
    }
    if (next_flat)
      for (int64_t r = 0; r < rows; ++r)
        merge_row(S::value_columns, out + r * S::value_columns, next.out + r * S::value_columns, left[r], right[r]);
    else if (next.dim > 0)
      for (int64_t d = 0; d < S::value; ++d)
        for (int64_t r = 0; r < rows; ++r) {
          A& x = flat ? out[r * S::value_columns + d] : out[d * lanes + r];
          x = fma(next.out[d * next.dim + r], right[r], x * left[r]);
        }
    else
      for (int64_t w = 0; w < rows; w += S::lanes)
        merge_lanes<S::vectors>(vectors_for<S>(rows - w), S::value_rows, out + w * S::value_rows,
                                next.out + w * S::value_rows, left + w, right + w);
  }
};

}  // namespace ringattn::cpu
