#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares builds of bench/attention, case by case in turn, so that a slow moment of the machine meets all of them.

    interleave.py [--only REGEX] [--rounds N] [--json FILE] [--within PERCENT] BUILD/bench/attention OTHER/bench/attention ...

A round times a case with every build, three repetitions each. Printed per case: the best percent of the peak of each
and its best GFLOP/s over the first one's, since another program on the same core only ever makes a repetition slower;
then the median and range of that ratio round by round. --within: exit status 1 if a ratio of the best is below
1 - PERCENT / 100.
"""
import argparse
import json
import re
import statistics
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].strip())
    parser.add_argument("builds", nargs="+")
    parser.add_argument("--only", default="n4096.*-t1$")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--within", type=float)
    arguments = parser.parse_args()

    listed = subprocess.run([arguments.builds[0], "--list"], capture_output=True, text=True, check=True).stdout
    names = [name for name in (json.loads(line)["name"] for line in listed.splitlines()) if re.search(arguments.only, name)]
    if not names:
        parser.error(f"no case matches {arguments.only}")
    beyond, all_ratios = 0, [[] for _ in arguments.builds]
    for name in names:
        rounds = [[measured(build, name) for build in arguments.builds] for _ in range(arguments.rounds)]
        builds = range(len(arguments.builds))
        percent = [max(r[i]["percent"]["max"] for r in rounds) for i in builds]
        best = [max(r[i]["gflops"]["max"] for r in rounds) for i in builds]
        over = [x / best[0] for x in best]
        ratios = [[r[i]["gflops"]["median"] / r[0]["gflops"]["median"] for r in rounds] for i in builds]
        far = arguments.within is not None and min(over) < 1 - arguments.within / 100
        beyond += far
        for of_all, ratio in zip(all_ratios, over):
            of_all.append(ratio)
        print(f"{name:46}", *(f"{p:5.1f}" for p in percent), " over the first:",
              *(f"{x:.3f}, by rounds {statistics.median(r):.3f} ({min(r):.2f} to {max(r):.2f})" for x, r in zip(over[1:], ratios[1:])),
              "BEYOND" if far else "", flush=True)
        if arguments.json:
            line = {"bench": "interleave", "name": name, "compilers": [m["machine"]["compiler"].strip() for m in rounds[0]],
                    "machine": {k: v for k, v in rounds[0][0]["machine"].items() if k in ("cpu", "cores", "isa")},
                    "best_percent": [round(p, 1) for p in percent], "best_gflops": [round(x, 2) for x in best],
                    "best_over_first": [round(x, 3) for x in over], "rounds": [[round(x, 3) for x in r] for r in ratios[1:]]}
            with open(arguments.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    for build, ratios in list(zip(arguments.builds, all_ratios))[1:]:
        print(f"{build} over {arguments.builds[0]}: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    return 1 if beyond else 0


def measured(build, name):
    command = [build, "--only", f"^{re.escape(name)}$", "--rows", "0", "--repetitions", "3", "--json", "-"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return next(json.loads(line) for line in output.splitlines() if line.startswith('{"bench"'))


sys.exit(main())
