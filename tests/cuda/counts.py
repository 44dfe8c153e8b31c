#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the attention kernels ask of a multiprocessor, counted by the emulator: a gate on bank conflicts.

    counts.py PROGRAM PART...     a program of this folder and what of it to run: cuda_backward_Bf16 whole

Prints, per 128 x 128 pairs of whole tiles: cycles that tensor cores take at 2048 FLOP each (A100, 16 bits; 1024 with
tf32), cycles of shared memory, those that conflicts cost, warp instructions of PTX by four schedulers, KB that come from L2
or go there, barriers. More than 1 % of conflicts fails."""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "counts.json")
        subprocess.run(sys.argv[1:], env=dict(os.environ, RINGATTN_EMULATOR_COUNTS=file), check=True, stdout=subprocess.DEVNULL)
        with open(file) as lines:
            launches = [json.loads(line) for line in lines]
    kernels = collections.defaultdict(collections.Counter)
    for launch in launches:
        found = re.search(r"(attend\w*)<ringattn::\w+::Kernel<ringattn::\w+::(\w+),.*?, (\d+), (\d+)>", launch["kernel"])
        if found:
            count = {k: v for k, v in launch.items() if k != "kernel"}
            kernels[found[1], found[2], int(found[3]), int(found[4])].update(count | {"launches": 1, "warps": launch["threads"] // 32})
    if not kernels:
        sys.exit("no kernel was counted")
    print(f"{'kernel':16} {'':5} head_dim   tensor  shared  conflicts  instructions  L2 KB  barriers")
    bad = 0
    for (kernel, precision, *dims), n in sorted(kernels.items()):
        of_pair = (4 if kernel == "attend" else 10) * 128 * 128 * sum(dims) / 2 * (3 if precision == "Fp32" else 1)
        pairs = n["tensor_flop"] / of_pair
        rate = 1024 if precision in ("Fp32", "Tf32") else 2048
        conflicts = n["shared_cycles"] - n["shared_least"]
        bad += 100 * conflicts > n["shared_cycles"]
        print(f"{kernel:16} {precision:5} {dims[0]:8} {of_pair / rate:8.0f} {n['shared_cycles'] / pairs:7.0f} {conflicts / pairs:10.0f} "
              f"{n['instructions'] / 4 / pairs:13.0f} {n['global_bytes'] / 1024 / pairs:6.0f} {n['barriers'] / n['warps'] / pairs * n['launches']:9.1f}")
    sys.exit(f"{bad} kernels with conflicts" if bad else 0)


main()
