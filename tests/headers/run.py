#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every header compiles alone and twice, without a warning: run.py [--without PREFIX]... COMPILER [ARGUMENT]...

nvcc takes alone what only it can read and the others, which g++ and clang++ take alone, all together; it must find no
error, and its own warnings are not ours. --without skips headers that need what is not installed."""
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile
import time

root = pathlib.Path(__file__).parent.parent.parent / "include"
without, command = [], sys.argv[1:]
while command[0] == "--without":
    without.append(command[1])
    command = command[2:]
nvcc = "nvcc" in pathlib.Path(command[0]).name
needs_cuda = tuple("ringattn/" + prefix for prefix in ("cuda/", "comm/cuda_peer", "comm/nccl"))


def name(header):
    return str(header.relative_to(root))


def verdict(headers):
    """'ok' or what the compiler said, and the seconds it took."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / ("alone.cu" if nvcc else "alone.cpp")
        source.write_text("".join(f"#include <{name(h)}>\n" for h in headers) * 2)
        how = ["-c", "-o", folder + "/alone.o"] if nvcc else ["-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
        done = subprocess.run(command + ["-std=c++20", *how, "-I", root, source], capture_output=True, text=True)
    return ("ok" if done.returncode == 0 else "FAIL\n" + (done.stderr + done.stdout)[:3000]), time.monotonic() - start


skip = tuple("ringattn/" + prefix for prefix in without) + (() if nvcc else needs_cuda)
found = sorted(p for p in root.rglob("*") if p.suffix == ".hpp" or (nvcc and p.suffix == ".cuh"))
headers = [h for h in found if not name(h).startswith(skip)]
units = [[h] for h in headers if not nvcc or name(h).startswith(needs_cuda)]
if nvcc:
    units.append([h for h in headers if not name(h).startswith(needs_cuda)])
counts = {"passed": 0, "failed": 0, "skipped": len(found) - len(headers)}
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for unit, (what, seconds) in zip(units, pool.map(verdict, units)):
        counts["passed" if what == "ok" else "failed"] += 1
        print(f"{name(unit[0])}{f' and {len(unit) - 1} more' if len(unit) > 1 else ''}: {what} ({seconds:.1f} s)", flush=True)
print("ringattn-tests: " + json.dumps(counts))
sys.exit(counts["failed"] > 0)
