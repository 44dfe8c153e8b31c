// SPDX-License-Identifier: Apache-2.0
// What rows of the covering lists of all backends say, the problems they stand for, and the count of those that ran.
#pragma once

#include <ringattn/policy/mask.hpp>
#include <ringattn/ring/plan.hpp>

#include <algorithm>
#include <string>

#include "inputs.hpp"
#include "report.hpp"

namespace ringattn::test {

enum class MaskVariant {
  full,
  causal,
  causal_bottom_right,
  window_left_0,
  window_left_1,
  window_left_2,
  window_both_0,
  window_both_1,
  window_both_2
};
enum class Length { even, uneven, fewer_than_ranks, one_query, more_keys, fewer_keys };
enum class Calls { forward_only, with_backward };

struct RunTime {
  int row;
  MaskVariant mask;
  int64_t heads, kv_heads;
  int ranks;
  Length length;
  Calls calls;
  InputClass input;
  Commit commit;
};

/// `even`: a length that the shards of all ranks divide.
inline Problem problem_of(RunTime const& r, int64_t even) {
  int64_t const ranks = r.ranks;
  int64_t uneven = even + 1;
  while (ranks > 1 && uneven % ranks == 0) ++uneven;
  Problem p{.batch = 1 + r.row % 2, .seq = even, .heads = r.heads, .kv_heads = r.kv_heads};
  switch (r.length) {
    case Length::even:
      break;
    case Length::uneven:
      p.seq = uneven;
      break;
    case Length::fewer_than_ranks:
      p.seq = ranks - 1;
      break;
    case Length::one_query:
      p.seq = 1;
      p.kv_seq = uneven;
      break;
    case Length::more_keys:
      p.kv_seq = uneven + 9;
      break;
    case Length::fewer_keys:
      p.kv_seq = even / 2 + 1;
      break;
  }
  return p.resolved();
}

inline void set_mask(Full&, RunTime const&, Problem const&) {}
inline void set_mask(Causal& m, RunTime const& r, Problem const& p) {
  if (r.mask == MaskVariant::causal_bottom_right) m = Causal::bottom_right(p);
}
inline void set_mask(SlidingWindow& m, RunTime const& r, Problem const& p) {
  int const kind = int(r.mask) - int(MaskVariant::window_left_0), shards = kind % 3;
  int64_t const shard = (p.kv_seq + r.ranks - 1) / r.ranks;
  m.left = shards == 0 ? shard / 2 : shards * shard;
  if (kind >= 3) {
    m.right = m.left;
    m.offset = p.kv_seq - p.seq;
  }
}

/// Counts what was run; written to the report when the program ends.
struct CoveringCount {
  std::string list, part;
  int rows = 0;
  double worst = 0;

  void add(double error_over_tolerance) {
    ++rows;
    worst = std::max(worst, error_over_tolerance);
  }
  ~CoveringCount() {
    if (rows == 0) return;
    std::string const name = list + "_" + part;
    write_report(name, {{list + "_rows_run", double(rows)}, {name + "_worst_error_over_tolerance", worst}});
  }
};
inline CoveringCount covering_count;

}  // namespace ringattn::test
