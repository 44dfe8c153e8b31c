#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the attention kernels ask of a multiprocessor, counted by the emulator: a gate on bank conflicts.

    counts.py PROGRAM whole     a program of this folder, and its part that computes 512 rows of every head_dim

Prints, per 128 x 128 pairs of a query and a key: cycles that tensor cores take at 2048 FLOP each (A100, 16 bits; 1024 with
tf32), cycles of shared memory, those that conflicts cost, warp instructions by four schedulers, KB that come from L2 or go
there, barriers. Conflicts of more than 1 % fail, and so does a kernel that was not counted."""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile

ROWS, DIMS = 512, [32, 64, 96, 128, 192, 256]


def main():
    if len(sys.argv) != 3:
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
            name = found[1], found[2], int(found[3])
            assert found[3] == found[4], launch["kernel"]
            kernels[name].update({k: v for k, v in launch.items() if k != "kernel"} | {"launches": 1, "warps": launch["threads"] // 32})
    print(f"{'kernel':16} {'':5} head_dim   tensor  shared  conflicts  instructions  L2 KB  barriers")
    bad = []
    for (kernel, precision, dim), n in sorted(kernels.items()):
        of_pair = (4 if kernel == "attend" else 10) * 128 * 128 * dim * (3 if precision == "Fp32" else 1)
        pairs = n["launches"] * (ROWS // 128) ** 2
        if n["tensor_flop"] != pairs * of_pair or not n["shared_cycles"]:
            bad.append(f"{kernel} {dim}: {n['tensor_flop']} FLOP of tensor cores rather than {pairs * of_pair}, {n['shared_cycles']} cycles")
        rate = 1024 if precision in ("Fp32", "Tf32") else 2048
        conflicts = n["shared_cycles"] - n["shared_least"]
        if 100 * conflicts > n["shared_cycles"]:
            bad.append(f"{kernel} {dim}: {conflicts} of {n['shared_cycles']} cycles are bank conflicts")
        print(f"{kernel:16} {precision:5} {dim:8} {of_pair / rate:8.0f} {n['shared_cycles'] / pairs:7.0f} {conflicts / pairs:10.0f} "
              f"{n['instructions'] / 4 / pairs:13.0f} {n['global_bytes'] / 1024 / pairs:6.0f} "
              f"{n['barriers'] * n['launches'] / n['warps'] / pairs:9.1f}")
    if [dim for *_, dim in sorted(kernels)] != DIMS:
        bad.append(f"counted {sorted(kernels)}, not one kernel of each head_dim {DIMS}")
    sys.exit("\n".join(bad) if bad else 0)


main()
