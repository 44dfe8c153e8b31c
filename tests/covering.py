#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the pairwise covering list of the ring's tests: every two values of every two factors meet in some row.

    covering.py --write FILE   write the list
    covering.py --check FILE   every pair is covered, and the file is what --write gives; exit status 1 otherwise

The factors that are template parameters form a short list of policies first, so that the list compiles in reasonable
time; rows then give run-time values to policies. Greedy and deterministic: no random module, no hash order.
"""
import argparse
import itertools
import json
import os
import sys

POLICY_FACTORS = {
    'mask': ['Full', 'Causal', 'SlidingWindow'],
    'shard': ['Contiguous', 'ZigZag', 'Striped'],
    'kv_shard': ['Contiguous', 'ZigZag', 'Striped'],
    'precision': ['Fp64', 'Fp32', 'Bf16', 'Fp16'],
    'dims': ['8, 8', '16, 16', '32, 32', '64, 64', '96, 96', '128, 128', '192, 128', '256, 256'],
    'overlap': ['Overlapped', 'Serial'],
}
# What a mask type is given at run time. window_left_1: keys up to one shard to the left.
VARIANTS = {
    'Full': ['full'],
    'Causal': ['causal', 'causal_bottom_right'],
    'SlidingWindow': ['window_left_0', 'window_left_1', 'window_left_2',
                      'window_both_0', 'window_both_1', 'window_both_2'],
}
RUN_FACTORS = {
    'heads': ['8, 8', '8, 2', '8, 1', '5, 5', '32, 4'],
    'ranks': ['1', '2', '3', '4', '5', '7', '8', '16'],
    'length': ['even', 'uneven', 'fewer_than_ranks', 'one_query', 'more_keys', 'fewer_keys'],
    'calls': ['forward_only', 'with_backward'],
    'input': ['normal', 'uniform01', 'uniform02', 'clamped', 'huge_lse', 'one_hot_v', 'constant_k', 'huge_row'],
    'commit': ['all', 'local'],
}
KIND = {variant: kind for kind, variants in VARIANTS.items() for variant in variants}
ALL_FACTORS = {**POLICY_FACTORS, 'mask': list(KIND), **RUN_FACTORS}
NAMES = list(ALL_FACTORS)


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
    left, rows = all_pairs(factors), []
    while left:
        a, x, b, y = min(left)
        row = best_row(factors, left, {a: x, b: y}, dice, tries)
        rows.append(row)
        left -= pairs_of(row)
    return rows


def make_rows():
    dice = Dice()
    policies = cover(POLICY_FACTORS, dice, 40)
    left, rows = all_pairs(ALL_FACTORS), []
    while left:
        a, x, b, y = min(left)
        best, best_score = None, 0
        for number, policy in enumerate(policies):
            as_policy = {f: KIND.get(v, v) if f == 'mask' else v for f, v in ((a, x), (b, y)) if f in policy}
            if any(policy[f] != v for f, v in as_policy.items()):
                continue
            for variant in VARIANTS[policy['mask']]:
                fixed = {**policy, 'mask': variant, **{f: v for f, v in ((a, x), (b, y)) if f not in policy}}
                if fixed[a] != x or fixed[b] != y:
                    continue
                row = best_row(ALL_FACTORS, left, fixed, dice, 1)
                score = len(pairs_of(row) & left)
                if score > best_score:
                    best, best_score = (number, row), score
        rows.append(best)
        left -= pairs_of(best[1])
    # Every policy must run at least once.
    used = {number for number, _ in rows}
    for number, policy in enumerate(policies):
        if number not in used:
            fixed = {**policy, 'mask': VARIANTS[policy['mask']][0]}
            rows.append((number, best_row(ALL_FACTORS, left, fixed, dice, 1)))
    return sorted(rows, key=lambda r: r[0])


def text_of(rows):
    policies = 1 + max(number for number, _ in rows)
    lines = ['// SPDX-License-Identifier: Apache-2.0',
             '// Generated by covering.py: every two values of every two factors meet in one of these rows.',
             f'// {len(rows)} rows, {policies} policies. ROW(row, policy, mask type, ' + ', '.join(NAMES) + ')']
    for i, (number, row) in enumerate(rows):
        lines.append(f'ROW({i}, {number}, {KIND[row["mask"]]}, ' + ', '.join(row[f] for f in NAMES) + ')')
    return '\n'.join(lines) + '\n'


def parse(text):
    two = {'dims', 'heads'}  # factors that are two numbers
    for line in text.splitlines():
        if line.startswith('ROW('):
            cells = [c.strip() for c in line[4:line.index(')')].split(',')][3:]
            row = {}
            for name in NAMES:
                row[name] = ', '.join(cells[:2]) if name in two else cells[0]
                cells = cells[2 if name in two else 1:]
            yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--write', metavar='FILE')
    parser.add_argument('--check', metavar='FILE')
    args = parser.parse_args()
    wanted = text_of(make_rows())
    if args.write:
        with open(args.write, 'w') as f:
            f.write(wanted)
    if not args.check:
        return 0
    with open(args.check) as f:
        text = f.read()
    rows = list(parse(text))
    pairs = all_pairs(ALL_FACTORS)
    missing = pairs - set().union(*(pairs_of(row) for row in rows))
    for a, x, b, y in sorted(missing):
        print(f'not covered: {a} {x} with {b} {y}')
    if text != wanted:
        print(f'{args.check} is not what {sys.argv[0]} --write gives')
    print(f'{len(rows)} rows, {len(pairs) - len(missing)} of {len(pairs)} pairs covered')
    if report := os.environ.get('RINGATTN_REPORT_DIR'):
        with open(os.path.join(report, 'covering.json'), 'w') as f:
            json.dump({'covering_rows': len(rows), 'pairs': len(pairs), 'pairs_covered': len(pairs) - len(missing)}, f)
    return 1 if missing or text != wanted else 0


if __name__ == '__main__':
    sys.exit(main())
