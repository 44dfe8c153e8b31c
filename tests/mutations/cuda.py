#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants bugs in the CUDA kernels and transports and runs, emulated, the test that must see them.

    cuda.py --emulator FOLDER --nvcc NVCC --build-dir DIR [--jobs N] [--compiler CXX] [NAME ...]

FOLDER holds the look-alikes of libcudart and, where there is one, of libnccl. Exit status 0 only if every test is green
without a bug, every mutant still applies and every mutant is caught."""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from run import INCLUDE, apply

TESTS = INCLUDE.parent / 'tests'
# name, what it is, the test that must see it, [(file, old text, new text), ...]
MUTANTS = [
    ('peer_sender_not_waited_for', 'a copy to a peer starts before the data is there', 'cuda_peer', [
        ('comm/cuda_peer_copies.hpp', 'cuda::check(cudaStreamWaitEvent(c.stream, sender.ready), "copy to a peer: sender");', '')]),
    ('peer_receiver_not_waited_for', 'a copy from a peer overwrites what is still read', 'cuda_peer', [
        ('comm/cuda_peer_copies.hpp', 'cuda::check(cudaStreamWaitEvent(c.stream, receiver.ready), "copy to a peer: receiver");', '')]),
    ('peer_arrival_not_waited_for', 'the step reads a block that is still being copied', 'cuda_peer', [
        ('comm/cuda_peer_copies.hpp', 'if (place.courier) cuda::check(cudaStreamWaitEvent(stream, place.courier->arrived), "wait for a peer\'s copy");', '(void)place; (void)stream;')]),
    ('peer_copy_left_behind', 'memory is given back while a copy that was given up is still to come', 'cuda_peer', [
        ('comm/cuda_peer_copies.hpp', '(void)cudaStreamWaitEvent(stream, place.courier->arrived);', '')]),
    ('nccl_backend_not_waited_for', 'NCCL sends what has not been computed', 'nccl', [
        ('comm/nccl_ring.hpp', 'cuda::check(cudaStreamWaitEvent(stream_, g.ready), "NCCL: wait for the backend");', '')]),
    ('nccl_arrival_not_waited_for', 'the step reads a block that NCCL is still receiving', 'nccl', [
        ('comm/nccl_ring.hpp', 'cuda::check(cudaStreamWaitEvent(stream, g.arrived), "wait for NCCL");', '(void)g; (void)stream;')]),
    ('nccl_not_torn_down', 'an abort leaves NCCL\'s kernels waiting for ever', 'nccl', [
        ('comm/nccl_ring.hpp', '(void)ncclCommAbort(std::exchange(comm_, nullptr)); (void)cudaStreamSynchronize(stream_);', 'comm_ = nullptr;')]),
    ('causal_lost', 'partly visible tiles count as fully visible', 'forward', [
        ('cuda/scores.cuh', 'partial = seen == Coverage::partial || tile.rows.count < runs.tile_size();', 'partial = tile.rows.count < runs.tile_size();')]),
    ('rows_past_the_end', 'the zeros that fill up a tile count as keys', 'forward', [
        ('cuda/scores.cuh', 'partial = seen == Coverage::partial || tile.rows.count < runs.tile_size();', 'partial = seen == Coverage::partial;')]),
    ('sum_not_rescaled', 'a new maximum does not reach the sum', 'forward', [
        ('cuda/scores.cuh', 'state.sum[i] *= factor[i];', '')]),
    ('outputs_not_rescaled', 'a new maximum does not reach the outputs', 'forward', [
        ('cuda/scores.cuh', 'for (int i = 0; i < m * d * 4; ++i) o[i / (4 * d)][i / 4 % d][i % 4] *= factor[i / (4 * d) * 2 + i % 4 / 2];', 'for (int i = 0; i < 0; ++i) {}')]),
    ('mask_one_key_off', 'the mask is asked for the neighbours of the keys', 'forward', [
        ('cuda/scores.cuh', 'int64_t key = k.at(lane % 4 * 2);', 'int64_t key = k.at(lane % 4 * 2) + k.stride;')]),
    ('edge_of_a_tile', 'one zero past the end of a run counts as a key', 'forward', [
        ('cuda/scores.cuh', 'j / 2 * 8 + j % 2 < left', 'j / 2 * 8 + j % 2 <= left')]),
    ('keys_not_published', 'keys are read that other warps still copy', 'forward', [
        ('cuda/sm80/attention.cuh', 'else { __syncthreads(); }', '')]),
    ('stale_values', 'values are read from the buffer of another turn', 'forward', [
        ('cuda/sm80/attention.cuh', 'typename S::Values const v = values(turn % stages);', 'typename S::Values const v = values((turn + 1) % stages);')]),
    ('copy_not_waited_for', 'keys are read while they are copied', 'forward', [
        ('cuda/sm80/attention.cuh', 'ptx::wait_copies<under_way>(); // Keys are here', '// Keys are here')]),
    ('step_starts_anew', 'the running state does not continue from step to step', 'forward', [
        ('cuda/sm80/attention.cuh', 'bool const fresh = rows.x == softmax::minus_infinity<float> && rows.y == softmax::minus_infinity<float>;', 'bool const fresh = true;')]),
    ('masked_nan_counts', 'a NaN that is masked reaches rows that do not see it', 'forward', [
        ('cuda/sm80/attention.cuh', 'bool const careful = (S::Mma::split || here.partial) && v.special();', 'bool const careful = false;')]),
    ('base_2_lse', 'the LSE is that of base 2', 'forward', [
        ('cuda/sm80/forward_state.cuh', 'softmax::lse(max, sum);', 'max + log2f(sum);')]),
    ('lse_of_another_run', 'the LSE of a second run goes where that of the first belongs', 'forward', [
        ('cuda/sm80/attention.cuh', '*p.lse.at(block.b, block.local + row, block.head)', '*p.lse.at(block.b, p.q_runs.tile(p.place(blockIdx.x).tile).before + row, block.head)')]),
    ('lse_of_another_run_in_finish', 'the same where a call ends after its last step', 'forward', [
        ('cuda/sm80/forward_state.cuh', '*p.lse.at(b, mine.local + row, head)', '*p.lse.at(b, mine.before + row, head)')]),
    ('queries_of_another_run', 'a second run reads the queries of the first', 'forward', [
        ('cuda/sm80/attention.cuh', 'queries.fill(p.q, p.q.at(place.b, mine.local, place.head), int(mine.rows.count));', 'queries.fill(p.q, p.q.at(place.b, mine.before, place.head), int(mine.rows.count));')]),
    ('keys_of_another_run', 'a second run of keys reads those of the first', 'forward', [
        ('cuda/sm80/attention.cuh', 'fill(p.k, block.k + tile.local * p.k.row, tile.count())', 'fill(p.k, block.k + tile.before * p.k.row, tile.count())')]),
    ('state_of_another_panel', 'the rows of a panel lie where those of the next one lie', 'forward', [
        ('cuda/sm80/forward_state.cuh', 'return rows + (panel * S::images + image) * 32;', 'return rows + (panel + image) * 32;')]),
    ('state_aliases_outputs', 'maxima and sums lie where outputs lie', 'forward', [
        ('cuda/sm80/attention.cuh', 'rows = o + size_t(lanes * Sizes<K, arch>::d) * sizeof(float4);', 'rows = o;')]),
    ('unseen_rows_finished', 'the end reads outputs of rows that saw no key', 'forward', [
        ('cuda/sm80/forward_state.cuh', 'bool const fresh = r[0].x == softmax::minus_infinity<float> && r[0].y == softmax::minus_infinity<float>;', 'bool const fresh = false;')]),
    ('max_of_other_rows', 'the end takes the maximum of a row 8 rows before', 'forward', [
        ('cuda/sm80/forward_state.cuh', 'float const max = half ? r[0].y : r[0].x;', 'float const max = r[0].x;')]),
    ('part_of_a_sum', 'the end adds three of the four parts of a sum', 'forward', [
        ('cuda/sm80/forward_state.cuh', '(r[0].w + r[1].w) + (r[2].w + r[3].w)', '(r[0].w + r[1].w) + r[2].w')]),
    ('finish_past_the_end', 'the end writes rows past the end of a run', 'forward', [
        ('cuda/sm80/forward_state.cuh', 'if (row >= mine.rows.count) continue;', '')]),
    ('heads_in_turn', 'query heads take the key heads in turn instead of in groups', 'forward', [
        ('cuda/sm80/attention.cuh', 'block.k = p.k.at(place.b, 0, place.head / p.group);', 'block.k = p.k.at(place.b, 0, place.head % (p.heads / p.group));'),
        ('cuda/sm80/attention.cuh', 'block.v = p.v.at(place.b, 0, place.head / p.group);', 'block.v = p.v.at(place.b, 0, place.head % (p.heads / p.group));')]),
    ('negative_scale', 'a negative scale takes the smallest score for the largest', 'forward', [
        ('cuda/sm80/attention.cuh', 'float const unit = K::Score::identity ? fabsf(p.scale) * float(softmax::log2_e) : 1.f;', 'float const unit = K::Score::identity ? p.scale * float(softmax::log2_e) : 1.f;'),
        ('cuda/sm80/attention.cuh', 'if (K::Score::identity && p.scale < 0) {', 'if (false) {')]),
    ('sign_of_scale_lost', 'a negative scale counts as positive', 'forward', [
        ('cuda/sm80/attention.cuh', 'if (K::Score::identity && p.scale < 0) {', 'if (false) {')]),
    ('no_maximum', 'exponentials without a maximum subtracted', 'forward', [
        ('cuda/scores.cuh', 'float const max = ptx::max(state.max[i], top == lowest ? top : top * unit);', 'float const max = ptx::max(state.max[i], top == softmax::minus_infinity<float> ? top : 0.f);')]),
    ('unstable_lse', 'log of a sum of exponentials that overflows', 'forward', [
        ('softmax.hpp', 'A(max * A(ln_2) + log(sum))', 'A(log(std::exp2(max) * sum))')]),
    ('strict_diagonal', 'a query does not see the last key of a partly visible tile', 'forward', [
        ('cuda/scores.cuh', 'mask.visible(position, key)', 'mask.visible(position - 1, key)')]),
    ('corner_skipped', 'tiles that touch the diagonal in a corner are skipped', 'forward', [
        ('policy/mask.hpp', 'if (k.first > q.last() + offset) return Coverage::none;', 'if (k.first >= q.last() + offset) return Coverage::none;')]),
    ('inclusive_where_strict', 'tiles that end one key above the diagonal count as fully visible', 'forward', [
        ('policy/mask.hpp', 'return k.last() <= q.first + offset ?', 'return k.last() <= q.first + offset + 1 ?')]),
    ('length_rounded_down', 'the last partial tile of a run is dropped', 'forward', [
        ('cuda/runs.cuh', 'tiles_ = run.tile + (run.rows.count + tile - 1) / tile;', 'tiles_ = run.tile + run.rows.count / tile;'),
        ('cuda/runs.cuh', 'run.tile += (rows.count + tile - 1) / tile;', 'run.tile += rows.count / tile;')]),
    ('partial_tile_made_whole', 'a partial tile after a whole one counts as whole', 'forward', [
        ('cuda/runs.cuh', 'int64_t const count = t.after < tile_ ? t.after : tile_;', 'int64_t const count = tile_;')]),
    ('next_run_forgotten', 'the tile after the last one of a run is sought in the same run', 'forward', [
        ('cuda/runs.cuh', 'if (t.after == 0) return tile(i);', '')]),
    ('runs_written_over_each_other', 'runs beyond what one launch carries overwrite the first', 'forward', [
        ('cuda/runs.cuh', 'more_ + written, filled', 'more_, filled')]),
    ('search_forgets', 'a search beyond the first 32 tiles forgets how far it has come', 'forward', [
        ('cuda/runs.cuh', 'return begin + by * (n + __ffs(int(found)) - 1);', 'return begin + by * (__ffs(int(found)) - 1);')]),
    ('search_gives_up', 'a search ends after 32 tiles', 'forward', [
        ('cuda/runs.cuh', 'for (int64_t n = 0; n < count; n += 32) {', 'for (int64_t n = 0; n < count && n < 32; n += 32) {')]),
    ('strides_of_inputs_lost', 'inputs are read as if their rows were dense', 'forward', [
        ('cuda/tile.cuh', 'Share::chunk() * per_chunk * tensor.dim;', 'Share::chunk() * per_chunk;')]),
    ('odd_start_overlooked', 'inputs are copied 16 bytes at a time from where they happen to start', 'forward', [
        ('cuda/tile.cuh', '&& reinterpret_cast<size_t>(data) % 16 == 0', '')]),
    ('offsets_in_32_bits', 'strides reach 2^31 elements and no further', 'forward', [
        ('cuda/tile.cuh', 'return data + b * batch + s * row + h * head;', 'return data + int(b * batch + s * row + h * head);')]),
    ('strided_row_too_many', 'of strided inputs a row past the end is read', 'forward', [
        ('cuda/tile.cuh', 'if (row < count) {', 'if (row <= count) {')]),
    ('strides_of_outputs_lost', 'outputs of the end are written as if their rows were dense', 'forward', [
        ('cuda/tile.cuh', 'to[(8 * column + 2 * i + 1) * tensor.dim]', 'to[8 * column + 2 * i + 1]')]),
    ('strides_of_pairs_lost', 'outputs of the last step are written as if their rows were dense', 'forward', [
        ('cuda/tile.cuh', 'row[(column + 1) * tensor.dim] = pair.y;', 'row[column + 1] = pair.y;')]),
    ('chunks_of_outputs', 'eight fp32 outputs go where four belong', 'forward_fp32', [
        ('cuda/tile.cuh', 'reinterpret_cast<Chunk*>(to)[column * (4 / n) + i]', 'reinterpret_cast<Chunk*>(to)[column + i]')]),
    ('correction_of_a_lost', '3xTF32 lacks low times high', 'forward_fp32', [
        ('cuda/mma.cuh', 'ptx::mma_tf32(low, a.low, b.high);', '')]),
    ('correction_of_b_lost', '3xTF32 lacks high times low', 'forward_fp32', [
        ('cuda/mma.cuh', 'ptx::mma_tf32(low, a.high, b.low);', '')]),
    ('taken_as_finite', 'factors with NaN are taken as finite', 'forward_fp32', [
        ('cuda/product.cuh', 'if (A::Mma::split && finite)', 'if (A::Mma::split)')]),
    ('queries_forgotten', 'queries with NaN are taken as finite after the first tile', 'forward_fp32', [
        ('cuda/sm80/attention.cuh', 'if (turn == 0) finite_queries = finite;', '')]),
    ('infinite_corrections', 'small products of an infinite factor, NaN, are added', 'forward_fp32', [
        ('cuda/product.cuh', 'x = y == y ? x + y : x;', 'x = x + y;')]),
    ('scale_lost_in_dk', 'dK is not scaled', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'write(p.dk, dk, p.scale);', 'write(p.dk, dk, 1);')]),
    ('dq_not_cleared', 'dQ starts from what was in the workspace', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'check(cudaMemsetAsync(plan.work.dq, 0, plan.layout.facts - plan.layout.dq, where.stream), "begin gradients");', '')]),
    ('dq_of_steps_lost', 'dQ of all steps but the last is lost', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'check(cudaMemsetAsync(plan.work.turn, 0, plan.layout.k_runs - plan.layout.turn, where.stream), "gradients");',
         'check(cudaMemsetAsync(plan.work.turn, 0, plan.layout.k_runs - plan.layout.turn, where.stream), "gradients"), '
         'check(cudaMemsetAsync(plan.work.dq, 0, plan.layout.facts - plan.layout.dq, where.stream), "dQ");')]),
    ('queries_not_waited_for', 'queries and dO are read while they are copied', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'ptx::wait_copies<0>(); // A pair', '// A pair')]),
    ('stale_queries', 'queries are read from the buffer of the next turn', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'typename S::Queries const queries{stage(turn)};', 'typename S::Queries const queries{stage(turn + 1)};')]),
    ('head_of_a_group_lost', 'dK and dV lack the last head that shares the keys', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'block.end = (block.kv_head + 1) * (p.heads / p.kv_heads);', 'block.end = (block.kv_head + 1) * (p.heads / p.kv_heads) - 1;')]),
    ('delta_lost', 'dO . O does not reach dS', 'backward', [
        ('cuda/sm80/backward_state.cuh', 'facts.delta = sum;', '')]),
    ('ds_not_published', 'dQ is computed from dS that other warps still write', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'careful = __syncthreads_or(careful); if constexpr', 'if constexpr')]),
    ('padding_of_keys_counts', 'the zeros that fill up a tile of keys have weights', 'backward', [
        ('cuda/gradients.cuh', 'partial = !whole || c == Coverage::partial;', 'partial = c == Coverage::partial; (void)whole;')]),
    ('turns_not_waited_for', 'blocks add to dQ in any order, over each other', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'while (ptx::load_acquire(turn_of(now())) != Word(now().before + 1)) ptx::pause();', ';')]),
    ('dk_dv_swapped', 'dK and dV change places', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'write(p.dk, dk, p.scale);', 'write(p.dk, dv, 1);'),
        ('cuda/sm80/attention_backward.cuh', 'write(p.dv, dv, 1);', 'write(p.dv, dk, p.scale);')]),
    ('dk_dv_summed', 'dK receives dK + dV', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'write(p.dk, dk, p.scale);', 'for (int i = 0; i < m * S::dk * 4; ++i) dk[i / (4 * S::dk)][i / 4 % S::dk][i % 4] += dv[i / (4 * S::dk)][i / 4 % S::dk][i % 4] / p.scale; write(p.dk, dk, p.scale);')]),
    ('facts_of_another_run', 'a second run uses the LSE of the first', 'backward', [
        ('cuda/sm80/backward_state.cuh', '*p.lse.at(b, tile.local + row, head)', '*p.lse.at(b, tile.before + row, head)')]),
    ('dout_of_another_run', 'a second run uses the dO of the first', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'p.dout.at(block.b, at.queries.local, at.head)', 'p.dout.at(block.b, at.queries.before, at.head)')]),
    ('gradients_of_another_run', 'dK and dV of a second run go where those of the first belong', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'to.at(block.b, block.k.local + row, block.kv_head)', 'to.at(block.b, block.k.before + row, block.kv_head)')]),
    ('dq_of_another_run', 'dQ of a second run goes where that of the first belongs', 'backward', [
        ('cuda/sm80/backward_state.cuh', 'p.dq.at(b, mine.local + row, head)', 'p.dq.at(b, mine.before + row, head)')]),
    ('dq_past_the_end', 'dQ of rows past the end of a run is written', 'backward', [
        ('cuda/sm80/backward_state.cuh', 'if (row >= mine.rows.count) continue;', '')]),
    ('dq_aliases_facts', 'dQ is summed where the facts of the rows lie', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'facts = dq + size_t(panels * S::images * (K::head_dim / 8)) * sizeof(SumsInMemory);', 'facts = dq + size_t(panels * S::images * (K::head_dim / 8 - 1)) * sizeof(SumsInMemory);')]),
    ('p_aliases_ds', 'dS overwrites P, which the other warps still need', 'backward', [
        ('cuda/sm80/attention_backward.cuh', 'p_tile{base + (columns > 1 ? S::p_at : S::ds_at)}', 'p_tile{base + S::ds_at}')]),
    ('strict_diagonal_in_backward', 'a query does not see the last key of a partly visible tile', 'backward', [
        ('cuda/gradients.cuh', 'mask.visible(q.at(i), k.at(j))', 'mask.visible(q.at(i) - 1, k.at(j))')]),
    ('corner_skipped_in_backward', 'tiles that touch the diagonal in a corner are skipped', 'backward', [
        ('policy/mask.hpp', 'if (k.first > q.last() + offset) return Coverage::none;', 'if (k.first >= q.last() + offset) return Coverage::none;')]),
    ('inclusive_in_backward', 'tiles that end one key above the diagonal count as fully visible', 'backward', [
        ('policy/mask.hpp', 'return k.last() <= q.first + offset ?', 'return k.last() <= q.first + offset + 1 ?')]),
    ('previous_run_forgotten', 'the tile before the first one of a run is sought in the same run', 'backward', [
        ('cuda/runs.cuh', 'if (t.before == 0) return tile(i);', '')]),
    ('previous_tile_not_moved', 'the tile before another one has its local rows', 'backward', [
        ('cuda/runs.cuh', 't.local - tile_, t.before - tile_', 't.local, t.before - tile_')]),
    ('search_forgets_in_backward', 'a search beyond the first 32 tiles forgets how far it has come', 'backward', [
        ('cuda/runs.cuh', 'return begin + by * (n + __ffs(int(found)) - 1);', 'return begin + by * (__ffs(int(found)) - 1);')]),
    ('waits_for_all', 'a tile of keys waits for one before it that adds nothing', 'backward', [
        ('cuda/gradients.cuh', 'set(q, k, keys, mask.coverage(at.rows, keys), at, first_head, i, earlier);', 'set(q, k, keys, mask.coverage(at.rows, keys), at, first_head, i, tile - 1); (void)earlier;')]),
    ('strides_of_facts_lost', 'out and dO are read as if their rows were dense', 'backward', [
        ('cuda/tile.cuh', 'float(from[(8 * column + i) * tensor.dim])', 'float(from[8 * column + i])')]),
    ('ds_taken_as_finite', 'dS with NaN is taken as finite', 'backward_fp32', [
        ('cuda/sm80/attention_backward.cuh', 'bool const special = careful || (Mma::split && any_special(ds));', 'bool const special = careful;')]),
    ('next_queries_too_early', 'with one stage, queries arrive where they are still read', 'backward_fp32', [
        ('cuda/sm80/attention_backward.cuh', 'if (S::stages == 1) fetch(this_turn() + 1);', ''),
        ('cuda/sm80/attention_backward.cuh', 'if (S::stages == 2) fetch(turn + 1);', 'fetch(turn + 1);')]),
    ('additions_lost', 'atomics: blocks that add to dQ at once lose additions', 'atomics', [
        ('cuda/sm80/backward_state.cuh', 'ptx::add(&x[8 * e].x + lane, sums[e]);', '(&x[8 * e].x)[lane] += sums[e];')]),
    ('tickets_not_reset', 'atomics: blocks take tiles by tickets that nobody resets', 'atomics', [
        ('cuda/sm80/attention_backward.cuh', 'adding == Adding::in_turn ? atomicAdd(p.ticket, 1u) : blockIdx.x;', 'atomicAdd(p.ticket, 1u);')]),
]


# The passes and precisions of planted.cu.
PROGRAMS = {'forward': (1, 'Bf16'), 'backward': (2, 'Bf16'), 'atomics': (3, 'Bf16'), 'forward_fp32': (1, 'Fp32'), 'backward_fp32': (2, 'Fp32')}


def run(command):
    """None, or why it does not compile."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if 'error' in line]
    return f'does not compile: {errors[0] if errors else done.stderr[-300:]}' if done.returncode else None


def build_kernels(test, include, folder, args):
    """folder/test.o with kernels from `include`. That of the program without a bug stays; where a bug changes device code
    alone, only that is compiled, and takes its place in the object."""
    which, precision = PROGRAMS[test]
    nvcc = [args.nvcc, '-std=c++20', '--no-compress', '-gencode=arch=compute_80,code=compute_80', f'-DRINGATTN_TEST_PRECISION={precision}',
            f'-DRINGATTN_TEST_PASS={which}', '-I', include, TESTS / 'cuda/planted.cu']
    host, kernels = folder.parent / f'unmutated {test}/test.o', folder / 'kernels'
    if folder == host.parent:
        return run([*nvcc, '-c', '-o', host]) or run(['objcopy', '--dump-section', f'.nv_fatbin={kernels}', host])
    if problem := run([*nvcc, '-fatbin', '-o', kernels]):
        return problem
    if kernels.read_bytes() == host.with_name('kernels').read_bytes():
        return run([*nvcc, '-c', '-o', folder / 'test.o'])
    return run(['objcopy', '--update-section', f'.nv_fatbin={kernels}', host, folder / 'test.o'])


def build_and_run(test, include, folder, args):
    """'green', 'red: ...' or 'does not compile: ...'."""
    emulator = args.emulator.resolve()
    libraries = ['-L', emulator, '-l:libcudart.so.13', f'-Wl,-rpath,{emulator}', '-pthread']
    program = folder / 'program'
    if test in PROGRAMS:
        problem = build_kernels(test, include, folder, args) or run([args.compiler, folder / 'test.o', '-o', program, *libraries])
    else:
        nvcc_include = args.nvcc.resolve().parent.parent / 'include'
        nccl = ['-l:libnccl.so.2'] if test == 'nccl' else []
        problem = run([args.compiler, '-std=c++20', '-I', include, '-I', TESTS, '-isystem', nvcc_include, TESTS / f'cuda/{test}.cpp',
                       args.main, '-o', program, '-L', emulator, *nccl, *libraries])
    if problem:
        return problem
    try:
        done = subprocess.run([program, *([] if test in PROGRAMS else ['--abort-after=1'])], capture_output=True, text=True, timeout=300,
                              env={**os.environ, 'LD_LIBRARY_PATH': str(emulator), 'RINGATTN_TEST_TIMEOUT': '120',
                                   'RINGATTN_EMULATOR_BUDGET': str(1 << 24)})  # soon enough for what waits for ever
    except subprocess.TimeoutExpired:
        return 'red: no end within 300 s'
    if done.returncode == 0:
        return 'green'
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith(('emulator:', 'NO', 'watchdog')) or 'ERROR' in line]
    return f'red: {said[0][:150] if said else done.returncode}'


def outcome(name, test, changes, args):
    folder = args.build_dir.resolve() / 'cuda_mutations' / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(INCLUDE, folder / 'include')
    problem = apply(folder / 'include', changes)
    result = f'does not apply: {problem}' if problem else build_and_run(test, folder / 'include', folder, args)
    if changes:
        shutil.rmtree(folder)
    return result


def timed(name, test, changes, args):
    start = time.monotonic()
    return outcome(name, test, changes, args), time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help='only these mutants')
    parser.add_argument('--emulator', required=True, type=pathlib.Path)
    parser.add_argument('--nvcc', required=True, type=pathlib.Path)
    parser.add_argument('--build-dir', required=True, type=pathlib.Path)
    parser.add_argument('--jobs', type=int, default=1)
    parser.add_argument('--compiler', default='c++')
    args = parser.parse_args()
    args.main = args.build_dir.resolve() / 'cuda_mutations_main.o'  # the same for all tests of transports
    args.main.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([args.compiler, '-std=c++20', '-c', TESTS / 'main.cpp', '-o', args.main], check=True)
    nccl = (args.emulator / 'libnccl.so.2').exists()
    wanted = [m for m in MUTANTS if (not args.names or m[0] in args.names) and (nccl or m[2] != 'nccl')]
    missed = []
    unmutated = [(f'unmutated {t}', t, []) for t in dict.fromkeys(m[2] for m in wanted)]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for jobs in unmutated, [(m[0], m[2], m[3]) for m in wanted]:
            for (name, _, changes), (result, seconds) in zip(jobs, pool.map(lambda job: timed(*job, args), jobs)):
                print(f'{name}: {result} ({seconds:.0f} s)', flush=True)
                if changes and not result.startswith('red') or not changes and result != 'green':
                    missed.append(name)
    print(f'{len(wanted)} planted, {len([m for m in wanted if m[0] not in missed])} caught')
    print('ringattn-tests: ' + json.dumps({'passed': len(wanted) - len(missed), 'failed': len(missed), 'skipped': 0}))
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
