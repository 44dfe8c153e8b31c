#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the pairwise covering list of the ring's tests: every two values of every two factors meet in some row.

    covering.py [--list NAME] --write FILE   write the list
    covering.py [--list NAME] --check FILE   every pair is covered, and the file is what --write gives; exit status 1 otherwise

The factors that are template parameters form a short list of policies first, so that the list compiles in reasonable
time; rows then give run-time values to policies. Greedy and deterministic: no random module, no hash order.
"""
import argparse
import itertools
import json
import os
import sys

# What a mask type is given at run time. window_left_1: keys up to one shard to the left.
VARIANTS = {
    'Full': ['full'],
    'Causal': ['causal', 'causal_bottom_right'],
    'SlidingWindow': ['window_left_0', 'window_left_1', 'window_left_2',
                      'window_both_0', 'window_both_1', 'window_both_2'],
}
MASKS = [variant for variants in VARIANTS.values() for variant in variants]
LENGTHS = ['even', 'uneven', 'fewer_than_ranks', 'one_query', 'more_keys', 'fewer_keys']
CALLS = ['forward_only', 'with_backward']


class List:
    """The factors of one list. Those of the policy are template parameters; `kinds`: the mask's type is one."""

    def __init__(self, policy, run, kinds):
        self.policy, self.kinds = policy, kinds
        self.all = {**policy, **({'mask': MASKS} if kinds else {}), **run}
        self.names = list(self.all)

    def kind(self, name, value):
        """What a factor's value means for the policy."""
        if name != 'mask' or not self.kinds:
            return value
        return next(kind for kind, variants in VARIANTS.items() if value in variants)


LISTS = {
    'cpu': List(
        policy={
            'mask': ['Full', 'Causal', 'SlidingWindow'],
            'shard': ['Contiguous', 'ZigZag', 'Striped'],
            'kv_shard': ['Contiguous', 'ZigZag', 'Striped'],
            'precision': ['Fp64', 'Fp32', 'Bf16', 'Fp16'],
            'dims': ['8, 8', '16, 16', '32, 32', '64, 64', '96, 96', '128, 128', '192, 128', '256, 256'],
            'overlap': ['Overlapped', 'Serial'],
        },
        run={
            'heads': ['8, 8', '8, 2', '8, 1', '5, 5', '32, 4'],
            'ranks': ['1', '2', '3', '4', '5', '7', '8', '16'],
            'length': LENGTHS,
            'calls': CALLS,
            'input': ['normal', 'uniform01', 'uniform02', 'clamped', 'huge_lse', 'one_hot_v', 'constant_k', 'huge_row'],
            'commit': ['all', 'local'],
        },
        kinds=True),
    # Emulated, so smaller; masks and shards are chosen at run time, so that there are fewer kernels. In every row all
    # transports run.
    'cuda': List(
        policy={
            'precision': ['Bf16', 'Fp16', 'Fp32', 'Tf32'],
            'dims': ['32, 32', '64, 64', '96, 96', '128, 128', '192, 192', '192, 128', '256, 256'],
        },
        run={
            'mask': ['full', 'causal', 'causal_bottom_right', 'window_left_1', 'window_both_0'],
            'shard': ['contiguous', 'zigzag', 'striped', 'lopsided'],
            'kv_shard': ['contiguous', 'zigzag', 'striped', 'lopsided'],
            'heads': ['2, 2', '4, 2', '3, 1'],
            'ranks': ['1', '2', '3', '4'],
            'length': LENGTHS,
            'calls': CALLS,
            'input': ['normal', 'uniform02', 'huge_lse', 'one_hot_v', 'huge_row'],
            'commit': ['all', 'local'],
            'devices': ['one', 'several'],
        },
        kinds=False),
}
# The policies of every day, one for each precision; the others come with the full run.
LISTS['cuda_short'] = List(policy={'precision_and_dims': ['Bf16, 64, 64', 'Fp16, 128, 128', 'Fp32, 32, 32',
                                                          'Tf32, 96, 96']},
                           run={name: values for name, values in LISTS['cuda'].all.items()
                                if name not in LISTS['cuda'].policy}, kinds=False)


def possible(a, x, b, y):
    """A ring of one cannot have fewer rows than ranks and still have rows."""
    return {(a, x), (b, y)} != {('length', 'fewer_than_ranks'), ('ranks', '1')}


def pairs_of(row):
    return {(a, row[a], b, row[b]) for a, b in itertools.combinations(row, 2)}


def all_pairs(factors):
    return {(a, x, b, y) for a, b in itertools.combinations(factors, 2)
            for x in factors[a] for y in factors[b] if possible(a, x, b, y)}


class Dice:
    """A linear congruential generator: the same numbers in every version of Python."""

    def __init__(self):
        self.state = 1

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


def best_row(factors, left, fixed, dice, tries):
    """The row, among some, that covers the most of `left`; `fixed` holds the values it must have."""
    best, best_score = None, -1
    for _ in range(tries):
        row = dict(fixed)
        order = [f for f in factors if f not in row]
        for i in range(len(order) - 1, 0, -1):
            j = dice.below(i + 1)
            order[i], order[j] = order[j], order[i]
        for name in order:
            def gain(value):
                if not all(possible(name, value, f, row[f]) for f in row):
                    return -1
                return sum(((name, value, f, row[f]) in left) or ((f, row[f], name, value) in left) for f in row)
            values = factors[name]
            start = dice.below(len(values))
            row[name] = max(values[start:] + values[:start], key=gain)
        row = {f: row[f] for f in factors}
        score = len(pairs_of(row) & left)
        if score > best_score:
            best, best_score = row, score
    return best


def cover(factors, dice, tries):
    if len(factors) == 1:
        return [{name: value} for name, values in factors.items() for value in values]
    left, rows = all_pairs(factors), []
    while left:
        a, x, b, y = min(left)
        row = best_row(factors, left, {a: x, b: y}, dice, tries)
        rows.append(row)
        left -= pairs_of(row)
    return rows


def make_rows(which):
    dice = Dice()
    policies = cover(which.policy, dice, 40)
    left, rows = all_pairs(which.all), []
    while left:
        a, x, b, y = min(left)
        best, best_score = None, 0
        for number, policy in enumerate(policies):
            as_policy = {f: which.kind(f, v) for f, v in ((a, x), (b, y)) if f in policy}
            if any(policy[f] != v for f, v in as_policy.items()):
                continue
            for variant in VARIANTS[policy['mask']] if which.kinds else [None]:
                fixed = {**policy, **({'mask': variant} if variant else {}),
                         **{f: v for f, v in ((a, x), (b, y)) if f not in policy}}
                if fixed[a] != x or fixed[b] != y:
                    continue
                row = best_row(which.all, left, fixed, dice, 1)
                score = len(pairs_of(row) & left)
                if score > best_score:
                    best, best_score = (number, row), score
        rows.append(best)
        left -= pairs_of(best[1])
    # Every policy must run at least once.
    used = {number for number, _ in rows}
    for number, policy in enumerate(policies):
        if number not in used:
            fixed = {**policy, **({'mask': VARIANTS[policy['mask']][0]} if which.kinds else {})}
            rows.append((number, best_row(which.all, left, fixed, dice, 1)))
    return sorted(rows, key=lambda r: r[0])


def text_of(which, rows):
    policies = 1 + max(number for number, _ in rows)
    kind = 'mask type, ' if which.kinds else ''
    lines = ['// SPDX-License-Identifier: Apache-2.0',
             '// Generated by covering.py: every two values of every two factors meet in one of these rows.',
             f'// {len(rows)} rows, {policies} policies. ROW(row, policy, {kind}' + ', '.join(which.names) + ')']
    for i, (number, row) in enumerate(rows):
        kind = which.kind('mask', row['mask']) + ', ' if which.kinds else ''
        lines.append(f'ROW({i}, {number}, {kind}' + ', '.join(row[f] for f in which.names) + ')')
    return '\n'.join(lines) + '\n'


def parse(which, text):
    for line in text.splitlines():
        if line.startswith('ROW('):
            cells = [c.strip() for c in line[4:line.index(')')].split(',')][3 if which.kinds else 2:]
            row = {}
            for name in which.names:
                width = 1 + which.all[name][0].count(',')  # a factor may be two or three words
                row[name] = ', '.join(cells[:width])
                cells = cells[width:]
            yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--list', choices=LISTS, default='cpu')
    parser.add_argument('--write', metavar='FILE')
    parser.add_argument('--check', metavar='FILE')
    args = parser.parse_args()
    which = LISTS[args.list]
    wanted = text_of(which, make_rows(which))
    if args.write:
        with open(args.write, 'w') as f:
            f.write(wanted)
    if not args.check:
        return 0
    with open(args.check) as f:
        text = f.read()
    rows = list(parse(which, text))
    pairs = all_pairs(which.all)
    missing = pairs - set().union(*(pairs_of(row) for row in rows))
    for a, x, b, y in sorted(missing):
        print(f'not covered: {a} {x} with {b} {y}')
    if text != wanted:
        print(f'{args.check} is not what {sys.argv[0]} --list {args.list} --write gives')
    print(f'{len(rows)} rows, {len(pairs) - len(missing)} of {len(pairs)} pairs covered')
    if report := os.environ.get('RINGATTN_REPORT_DIR'):
        prefix = '' if args.list == 'cpu' else args.list + '_'
        with open(os.path.join(report, f'covering_of_{args.list}.json'), 'w') as f:
            json.dump({f'{prefix}covering_rows': len(rows), f'{prefix}pairs': len(pairs),
                       f'{prefix}pairs_covered': len(pairs) - len(missing)}, f)
    return 1 if missing or text != wanted else 0


if __name__ == '__main__':
    sys.exit(main())
