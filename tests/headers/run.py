#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every header compiles alone and twice, without a warning: run.py [--without PREFIX]... COMPILER [ARGUMENT]...

.hpp for any compiler (nvcc takes them as .cu), .cuh for nvcc only. --without skips headers that need what is not
installed. Under nvcc headers must compile without an error; its own warnings are not ours."""
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


def verdict(header):
    """'ok', 'skip' or what the compiler said, and the seconds it took."""
    if str(header.relative_to(root / "ringattn")).startswith(tuple(without)):
        return "skip", 0
    line = f"#include <{header.relative_to(root)}>\n"
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / ("alone.cu" if nvcc else "alone.cpp")
        source.write_text(line * 2)
        how = ["-c", "-o", folder + "/alone.o"] if nvcc else ["-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
        done = subprocess.run(command + ["-std=c++20", *how, "-I", root, source], capture_output=True, text=True)
    return ("ok" if done.returncode == 0 else "FAIL\n" + (done.stderr + done.stdout)[:3000]), time.monotonic() - start


headers = sorted(p for p in root.rglob("*") if p.suffix == ".hpp" or (nvcc and p.suffix == ".cuh"))
counts = {"passed": 0, "failed": 0, "skipped": 0}
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for header, (what, seconds) in zip(headers, pool.map(verdict, headers)):
        counts[{"ok": "passed", "skip": "skipped"}.get(what, "failed")] += 1
        print(f"{header.relative_to(root)}: {what} ({seconds:.1f} s)", flush=True)
print("ringattn-tests: " + json.dumps(counts))
sys.exit(counts["failed"] > 0)
