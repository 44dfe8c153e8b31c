#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same bits under every schedule: runs an emulated program under several seeds of the emulator.

    seeds.py PROGRAM [ARGUMENT]...

Every run has to be green. A program that prints a hash of all its results (`bits ...`) has to print the same one each time.
The other tests run under seed 1 ($RINGATTN_EMULATOR_SEED)."""
import os
import re
import subprocess
import sys

SEEDS = [2, 3, 4]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    bits, bad = {}, 0
    for seed in SEEDS:
        done = subprocess.run(sys.argv[1:], env=dict(os.environ, RINGATTN_EMULATOR_SEED=str(seed)), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        found = re.findall(r"\bbits ([0-9a-f]{16})$", done.stdout, re.M)
        bits.setdefault(found[-1] if found else None, []).append(seed)
        print(f"seed {seed}: {'green' if done.returncode == 0 else f'RED, status {done.returncode}'}, bits {found[-1] if found else '-'}")
        if done.returncode:
            bad += 1
            print("\n".join(done.stdout.splitlines()[-30:]))
    if len(bits) > 1:
        bad += 1
        print(f"the bits depend on the schedule: {bits}")
    sys.exit(1 if bad else 0)


main()
