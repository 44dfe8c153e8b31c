# SPDX-License-Identifier: Apache-2.0
"""Bugs that products of this kind have had, each as (name, what it imitates, [(file, old text, new text), ...]).

Old texts must occur exactly once in the file; white space does not count. Files are relative to include/ringattn.
"""

CHUNK = '''
  std::vector<typename K::Element> chunk_out(size_t(args.out.extents.count()));
  std::vector<typename K::Accumulator> chunk_lse(size_t(args.lse.extents.count()));
  auto chunk_state = backend.allocate(backend.template attend_bytes<K>({.batch = plan.problem.batch,
      .heads = plan.problem.heads, .kv_heads = plan.problem.kv_heads, .q_rows = plan.q_rows,
      .kv_count = s.largest_kv(), .kv_runs = 2}));
  AttendStep<K, typename P::Backend::Space> chunk = step;
  chunk.k = args.k;
  chunk.v = args.v;
  chunk.k_rows = plan.kv_rows[size_t(plan.here.rank)];
  chunk.state = chunk_state.data();
  backend.template begin<K>(chunk);
  backend.template step<K>(chunk);
  backend.template finish<K>(chunk, {.out = {chunk_out.data(), args.out.extents},
                                     .lse = {chunk_lse.data(), args.lse.extents}});
'''

MUTANTS = [
    ('per_chunk_out', 'backward takes D = dO.O from the block\'s own output: dV right, dQ and dK off by 10 %', [
        ('ring/backward.hpp', 'backend.template begin_backward<K>(step);',
         CHUNK + 'step.out = View<typename K::Element const>(chunk_out.data(), args.out.extents);\n'
         'backend.template begin_backward<K>(step);')]),
    ('per_chunk_lse', 'backward normalises by the block\'s own lse', [
        ('ring/backward.hpp', 'backend.template begin_backward<K>(step);',
         CHUNK + 'step.lse = View<typename K::Accumulator const>(chunk_lse.data(), args.lse.extents);\n'
         'backend.template begin_backward<K>(step);')]),
    ('stale_kv', 'every step uses the first step\'s keys and values again', [
        ('ring/rotate.hpp', 'compute(step, Input(here.k), Input(here.v));', '(void)here; compute(step, k, v);')]),
    ('dk_dv_swapped', 'dK and dV change places', [
        ('ring/backward.hpp', 'step.dk = contribution.k;', 'step.dk = contribution.v;'),
        ('ring/backward.hpp', 'step.dv = contribution.v;', 'step.dv = contribution.k;')]),
    ('dk_dv_summed', 'a tuple is taken apart the wrong way: dK receives dK + dV', [
        ('ring/rotate_keys.hpp', 'backend_.copy(mine.v, args.dv);',
         'backend_.copy(mine.v, args.dv);\n'
         'for (int64_t i = 0; i < args.dk.extents.count(); ++i) args.dk.data[i] += args.dv.data[i];')]),
    ('gradient_one_hop_short', 'the gradient goes home one hop too early', [
        ('ring/backward.hpp', 'lane_.send(step < last ? s.next(rank) : owner,',
         'lane_.send(step + 1 < last ? s.next(rank) : owner,')]),
    ('last_contribution_lost', 'the last rank on a block\'s way passes its gradient on without its own share', [
        ('ring/backward.hpp', 'if (s.needs(rank, owner))', 'if (s.needs(rank, owner) && step < last)')]),
    ('gradient_not_sent_home', 'a block\'s gradient stays where it was last used', [
        ('ring/backward.hpp', 'lane_.send(step < last ? s.next(rank) : owner,',
         'if (step < last) lane_.send(s.next(rank),')]),
    ('accumulator_aliases_arriving', 'a step\'s scratch is the buffer in which the sum arrives', [
        ('ring/workspace.hpp', 'w.arriving = take(ring ? sum : 0);', 'w.arriving = w.mine;')]),
    ('accumulator_aliases_leaving', 'the next step overwrites the sum that is still being sent', [
        ('ring/workspace.hpp', 'w.leaving = take(ring ? sum : 0);', 'w.leaving = w.mine;')]),
    ('unstable_lse', 'log of a sum of exponentials that overflows', [
        ('softmax.hpp', 'A(max * A(ln_2) + log(sum))', 'A(log(std::exp2(max) * sum))')]),
    ('unstable_merge', 'two states are merged relative to the left maximum', [
        ('softmax.hpp', 'A const m = softmax::max(max_left, max_right);', 'A const m = max_left;')]),
    ('causal_lost', 'partly visible blocks count as fully visible', [
        ('cpu/attention.hpp', 'if (coverage == Coverage::partial)', 'if (false)')]),
    ('causal_lost_in_backward', 'the same in the backward pass', [
        ('cpu/attention_backward.hpp', 'if (coverage == Coverage::partial)', 'if (false)')]),
    ('strict_diagonal', 'a query does not see its own key', [
        ('policy/mask.hpp', 'return k <= q + offset;', 'return k < q + offset;')]),
    ('strict_diagonal_between_stripes', 'blocks that only touch the diagonal are skipped', [
        ('policy/mask.hpp', 'if (k.first > q.last() + offset) return Coverage::none;',
         'if (k.first >= q.last() + offset) return Coverage::none;')]),
    ('inclusive_where_strict', 'blocks that end one key above the diagonal count as fully visible', [
        ('policy/mask.hpp', 'return k.last() <= q.first + offset ?', 'return k.last() <= q.first + offset + 1 ?')]),
    ('length_rounded_down', 'each rank holds len // P rows', [
        ('policy/shard.hpp', 'seq * ring.rank / ring.size, end = seq * (ring.rank + 1) / ring.size',
         'seq / ring.size * ring.rank, end = seq / ring.size * (ring.rank + 1)')]),
    ('block_length_rounded_down', 'travelling blocks are taken to have len // P rows', [
        ('ring/plan.hpp', 'return {batch, schedule.kv_count[size_t(owner)], problem.kv_heads, P::head_dim};',
         'return {batch, owner == here.rank ? schedule.kv_count[size_t(owner)] : problem.kv_seq / here.size, '
         'problem.kv_heads, P::head_dim};')]),
    ('second_run_lse', 'the second chunk of a zigzag shard uses the first one\'s lse', [
        ('cpu/attention_backward.hpp', 'A(step_.lse(b, panel.first + r, panel.head, 0))',
         'A(step_.lse(b, panel.first % std::max<int64_t>(step_.q_rows[0].count, 1) + r, panel.head, 0))')]),
    ('segments_added_as_they_are', 'sums of two segments of keys are added as if their maxima were equal', [
        ('cpu/softmax_tile.hpp', 'x[0].store(left + w);', 'V::broadcast(A(1)).store(left + w);')]),
    ('running_max_dropped', 'each tile starts from a maximum of its own', [
        ('cpu/softmax_tile.hpp', 'top[j] = simd::max(top[j] * factor, before);', 'top[j] = top[j] * factor;')]),
    ('not_rescaled', 'a new maximum does not rescale what was summed before', [
        ('cpu/softmax_tile.hpp', 'rescale[j].store(alpha + j * lane);', 'V::broadcast(A(1)).store(alpha + j * lane);')]),
    ('one_receive_slot', 'the next block arrives in the slot that is still read', [
        ('ring/rotate.hpp', 'slot_{first_slot, second_slot}', 'slot_{first_slot, (second_slot, first_slot)}')]),
    ('wait_dropped', 'a block is used before the transfer was waited for', [
        ('ring/rotate.hpp', 'traffic_.wait(lane_, "key/value block");', '')]),
    ('rounded_partials', 'the running sum is kept in 16 bits between tiles', [
        ('cpu/softmax_tile.hpp',
         'for (int j = 0; j < vectors; ++j) (V::load(sum + j * lane) + total[j]).store(sum + j * lane);',
         'for (int j = 0; j < vectors; ++j) (V::load(sum + j * lane) + total[j]).store(sum + j * lane);'
         'for (int w = 0; w < lanes; ++w) sum[w] = A(float(BFloat16(float(sum[w]))));')]),
    ('rounded_gradients', 'travelling gradients are rounded to 16 bits at every hop', [
        ('cpu/pack.hpp', 'store_as(y ? Vec<A>::load(x + i) + load_as<A>(y + i) : Vec<A>::load(x + i), to + i);',
         'for (int j = 0; j < vector_lanes<A>; ++j)'
         ' to[i + j] = convert<W>(y ? A(float(BFloat16(float(x[i + j] + convert<A>(y[i + j]))))) : x[i + j]);')]),
    ('travel_one_short', 'the last rank that needs a block does not get it', [
        ('ring/schedule.hpp', 'travel[size_t(c)] = std::max(travel[size_t(c)], distance);',
         'travel[size_t(c)] = std::max(travel[size_t(c)], distance - 1);')]),
    ('sent_too_far', 'every block goes all the way round', [
        ('ring/schedule.hpp', 'if (s.needs(r, c)) travel[size_t(c)]', 'travel[size_t(c)]')]),
    ('no_vote', 'outputs are written though another rank failed', [
        ('ring/rotate_keys.hpp', 'if (!plan_.vote) return;', 'return;')]),
    ('fully_masked_nan', 'a row that sees no key divides 0 by 0', [
        ('softmax.hpp', 'return sum == A(0) ? A(0) : A(1) / sum;', 'return A(1) / sum;')]),
]
