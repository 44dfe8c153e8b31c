#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much of a backward step on a GPU blocks wait for their turn to add to dQ: a model, not a measurement.

    turns.py [--multiprocessors 132]

A tile of queries takes a block one unit of time, within 10 % by chance, and a block one unit and a half more to begin
and end. Blocks start by ticket, one on each multiprocessor, and add to a tile four fifths into it, if the block before
has said that it has; that it says four fifths into its next tile (include/ringattn/cuda/sm80/attention_backward.cuh).
Printed: work over time and multiprocessors, when nobody waits (atomics), when blocks walk the tiles of one head after
the other, and when they walk the heads of one tile after the other.
"""
import argparse
import heapq
import random

ENDS, ADD = 1.5, 0.8
# name, tiles of rows, heads, heads that share keys, batch, causal
SHAPES = [("full, 1 x 16384, 16/16", 128, 16, 1, 1, False), ("causal, 1 x 16384, 16/16", 128, 16, 1, 1, True),
          ("full, 8 x 2048, 16/16", 16, 16, 1, 8, False), ("causal, 2 x 8192, 16/16", 64, 16, 1, 2, True),
          ("full, 1 x 16384, 32/4", 128, 32, 8, 1, False), ("causal, 1 x 16384, 32/4", 128, 32, 8, 1, True)]


def busy(multiprocessors, tiles, heads, group, batch, causal, in_turn, by_head):
    chance = random.Random(1)
    free = [0.0] * multiprocessors
    told = {}  # (key head, query head, tile): when the last block that added to it said so
    for key_tile in range(tiles):  # tickets: a block waits only for those before it, so this order will do
        seen = range(tiles - 1, key_tile - 1 if causal else -1, -1)
        walk = [(h, i) for h in range(group) for i in seen] if by_head else [(h, i) for i in seen for h in range(group)]
        for key_head in range(heads // group * batch):
            now, last = heapq.heappop(free) + ENDS / 2, None
            for at in walk:
                takes = chance.uniform(0.9, 1.1)
                now += ADD * takes
                if in_turn:
                    if last:
                        told[(key_head, *last)] = now
                    now = max(now, told.get((key_head, *at), 0) if key_tile else 0)
                now += (1 - ADD) * takes
                last = at
            told[(key_head, *last)] = now
            heapq.heappush(free, now + ENDS / 2)
    work = (tiles * (tiles + 1) / 2 if causal else tiles * tiles) * heads * batch
    return work / (max(free) * multiprocessors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--multiprocessors", type=int, default=132)
    count = parser.parse_args().multiprocessors
    print(f"{'':28}nobody waits  head by head  tile by tile")
    for name, *shape in SHAPES:
        print(f"{name:28}" + "".join(f"{busy(count, *shape, *how):12.3f}  " for how in
                                     ((False, True), (True, True), (True, False))), flush=True)
