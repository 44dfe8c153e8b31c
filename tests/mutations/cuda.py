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
    ('causal_lost', 'partly visible tiles count as fully visible', 'planted', [
        ('cuda/scores.cuh', 'partial = seen == Coverage::partial || tile.rows.count < runs.tile_size();', 'partial = tile.rows.count < runs.tile_size();')]),
    ('rows_past_the_end', 'the zeros that fill up a tile count as keys', 'planted', [
        ('cuda/scores.cuh', 'partial = seen == Coverage::partial || tile.rows.count < runs.tile_size();', 'partial = seen == Coverage::partial;')]),
    ('sum_not_rescaled', 'a new maximum does not reach the sum', 'planted', [
        ('cuda/scores.cuh', 'state.sum[i] *= factor[i];', '')]),
    ('outputs_not_rescaled', 'a new maximum does not reach the outputs', 'planted', [
        ('cuda/scores.cuh', 'for (int i = 0; i < m * d * 4; ++i) o[i / (4 * d)][i / 4 % d][i % 4] *= factor[i / (4 * d) * 2 + i % 4 / 2];', 'for (int i = 0; i < 0; ++i) {}')]),
    ('mask_one_key_off', 'the mask is asked for the neighbours of the keys', 'planted', [
        ('cuda/scores.cuh', 'int64_t key = k.at(lane % 4 * 2);', 'int64_t key = k.at(lane % 4 * 2) + k.stride;')]),
    ('edge_of_a_tile', 'one zero past the end of a run counts as a key', 'planted', [
        ('cuda/scores.cuh', 'j / 2 * 8 + j % 2 < left', 'j / 2 * 8 + j % 2 <= left')]),
    ('keys_not_published', 'keys are read that other warps still copy', 'planted', [
        ('cuda/sm80/attention.cuh', 'else { __syncthreads(); }', '')]),
    ('stale_values', 'values are read from the buffer of another turn', 'planted', [
        ('cuda/sm80/attention.cuh', 'typename S::Values const v = values(turn % stages);', 'typename S::Values const v = values((turn + 1) % stages);')]),
    ('copy_not_waited_for', 'keys are read while they are copied', 'planted', [
        ('cuda/sm80/attention.cuh', 'ptx::wait_copies<under_way>(); // Keys are here', '// Keys are here')]),
    ('step_starts_anew', 'the running state does not continue from step to step', 'planted', [
        ('cuda/sm80/attention.cuh', 'bool const fresh = rows.x == softmax::minus_infinity<float> && rows.y == softmax::minus_infinity<float>;', 'bool const fresh = true;')]),
    ('masked_nan_counts', 'a NaN that is masked reaches rows that do not see it', 'planted', [
        ('cuda/sm80/attention.cuh', 'bool const careful = (S::Mma::split || here.partial) && v.special();', 'bool const careful = false;')]),
    ('base_2_lse', 'the LSE is that of base 2', 'planted', [
        ('cuda/sm80/attention.cuh', 'softmax::lse(max, sum);', 'max + log2f(sum);')]),
    ('scale_lost_in_dk', 'dK is not scaled', 'planted', [
        ('cuda/sm80/attention_backward.cuh', 'write(p.dk, dk, p.scale);', 'write(p.dk, dk, 1);')]),
    ('dq_not_cleared', 'dQ starts from what was in the workspace', 'planted', [
        ('cuda/sm80/attention_backward.cuh', 'check(cudaMemsetAsync(plan.work.dq, 0, plan.layout.facts - plan.layout.dq, where.stream), "begin gradients");', '')]),
    ('dq_of_steps_lost', 'dQ of all steps but the last is lost', 'planted', [
        ('cuda/sm80/attention_backward.cuh', 'check(cudaMemsetAsync(plan.work.turn, 0, plan.layout.k_runs - plan.layout.turn, where.stream), "gradients");',
         'check(cudaMemsetAsync(plan.work.turn, 0, plan.layout.k_runs - plan.layout.turn, where.stream), "gradients"), '
         'check(cudaMemsetAsync(plan.work.dq, 0, plan.layout.facts - plan.layout.dq, where.stream), "dQ");')]),
    ('queries_not_waited_for', 'queries and dO are read while they are copied', 'planted', [
        ('cuda/sm80/attention_backward.cuh', 'ptx::wait_copies<0>(); // A pair', '// A pair')]),
    ('stale_queries', 'queries are read from the buffer of the next turn', 'planted', [
        ('cuda/sm80/attention_backward.cuh', 'typename S::Queries const queries{stage(turn)};', 'typename S::Queries const queries{stage(turn + 1)};')]),
    ('head_of_a_group_lost', 'dK and dV lack the last head that shares the keys', 'planted', [
        ('cuda/sm80/attention_backward.cuh', 'block.end = (block.kv_head + 1) * (p.heads / p.kv_heads);', 'block.end = (block.kv_head + 1) * (p.heads / p.kv_heads) - 1;')]),
    ('delta_lost', 'dO . O does not reach dS', 'planted', [
        ('cuda/sm80/backward_state.cuh', 'facts.delta = sum;', '')]),
    ('ds_not_published', 'dQ is computed from dS that other warps still write', 'planted', [
        ('cuda/sm80/attention_backward.cuh', 'careful = __syncthreads_or(careful); if constexpr', 'if constexpr')]),
    ('padding_of_keys_counts', 'the zeros that fill up a tile of keys have weights', 'planted', [
        ('cuda/gradients.cuh', 'partial = !whole || c == Coverage::partial;', 'partial = c == Coverage::partial; (void)whole;')]),
    ('turns_not_waited_for', 'blocks add to dQ in any order, over each other', 'planted', [
        ('cuda/sm80/attention_backward.cuh', 'while (ptx::load_acquire(turn_of(now())) != Word(now().before + 1)) ptx::pause();', ';')]),
]


def build_and_run(test, include, folder, args):
    """'green', 'red: ...' or 'does not compile: ...'."""
    emulator = args.emulator.resolve()
    libraries = ['-L', emulator, '-l:libcudart.so.13', f'-Wl,-rpath,{emulator}', '-pthread']
    device_test = test == 'planted'
    program = folder / 'program'
    if device_test:
        commands = [[args.nvcc, '-std=c++20', '--no-compress', '-lineinfo', '-gencode=arch=compute_80,code=compute_80',
                     '-DRINGATTN_TEST_PRECISION=Bf16', '-I', include, '-c', TESTS / f'cuda/{test}.cu', '-o', folder / 'test.o'],
                    [args.compiler, folder / 'test.o', '-o', program, *libraries]]
    else:
        nvcc_include = args.nvcc.resolve().parent.parent / 'include'
        nccl = ['-l:libnccl.so.2'] if test == 'nccl' else []
        commands = [[args.compiler, '-std=c++20', '-I', include, '-I', TESTS, '-isystem', nvcc_include, TESTS / f'cuda/{test}.cpp',
                     args.main, '-o', program, '-L', emulator, *nccl, *libraries]]
    for command in commands:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if 'error' in line]
            return f'does not compile: {errors[0] if errors else done.stderr[-300:]}'
    try:
        done = subprocess.run([program] if device_test else [program, '--abort-after=1'], capture_output=True, text=True, timeout=300,
                              env={**os.environ, 'LD_LIBRARY_PATH': str(emulator), 'RINGATTN_TEST_TIMEOUT': '120'})
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
    jobs = [(f'unmutated {t}', t, []) for t in dict.fromkeys(m[2] for m in wanted)] + [(m[0], m[2], m[3]) for m in wanted]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for (name, _, changes), (result, seconds) in zip(jobs, pool.map(lambda job: timed(*job, args), jobs)):
            print(f'{name}: {result} ({seconds:.0f} s)', flush=True)
            if changes and not result.startswith('red') or not changes and result != 'green':
                missed.append(name)
    print(f'{len(wanted)} planted, {len([m for m in wanted if m[0] not in missed])} caught')
    print('ringattn-tests: ' + json.dumps({'passed': len(wanted) - len(missed), 'failed': len(missed), 'skipped': 0}))
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
