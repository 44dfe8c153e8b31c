# SPDX-License-Identifier: Apache-2.0
"""Runs every planted bug: it must be reported, of the right kind and at the right PTX instruction; its right twin must not."""
import os
import re
import subprocess
import sys

# name: (kind of report, what the report's "PTX line" must show; None where no kernel is to blame)
BUGS = {
    "missing_barrier": ("(race in shared memory|uninitialised read)",  # whether the writer came first is up to the seed
                        r"PTX line \d+: ld\.shared"),
    "missing_second_barrier": ("race in shared memory", r"PTX line \d+: (ld|st)\.shared"),
    "missing_warp_barrier": ("race in shared memory", r"PTX line \d+: ld\.shared"),
    "missing_wait": ("missing wait", r"PTX line \d+: ld\.shared.*issued at PTX line \d+: .*cp\.async"),
    "wait_too_weak": ("missing wait", r"PTX line \d+: ld\.shared.*issued at PTX line \d+: .*cp\.async"),
    "out_of_bounds": ("out-of-bounds", r"PTX line \d+: ld\.global"),
    "uninitialised": ("uninitialised read", r"PTX line \d+: ld\.global"),
    "uninitialised_shared": ("uninitialised read", r"PTX line \d+: ld\.shared"),
    "diverged_shuffle": ("(diverged shuffle|barrier divergence)", r"PTX line \d+: shfl\.sync"),
    "shuffle_from_nobody": ("diverged shuffle", r"PTX line \d+: shfl\.sync"),
    "shared_overrun": ("shared-memory overrun", r"PTX line \d+: st\.shared"),
    "dynamic_overrun": ("shared-memory overrun", r"PTX line \d+: st\.shared"),
    "diverged_barrier": ("barrier divergence", r"PTX line \d+: bar\.sync"),
    "exited_before_barrier": ("barrier divergence", r"PTX line \d+: bar\.sync"),
    "barrier_of_too_many": ("deadlock", r"PTX line \d+: .*bar\.sync"),
    "misaligned": ("misaligned access", r"PTX line \d+: ld\.global"),
    "unknown_opcode": ("unknown opcode", r"PTX line \d+: .*movmatrix"),
    "missing_event": ("race between streams", r"PTX line \d+: (ld|st)\.global"),
    "missing_event_for_reuse": ("race between streams", None),
    "freed_too_early": ("use after free", r"PTX line \d+: ld\.global"),
    "read_of_nothing": ("uninitialised read", None),
}


def main():
    program, seeds = sys.argv[1], range(1, 1 + int(sys.argv[2]) if len(sys.argv) > 2 else 4)
    wrong = 0
    for name, (kind, line) in BUGS.items():
        for seed in seeds:
            environment = dict(os.environ, RINGATTN_EMULATOR_SEED=str(seed))
            planted = subprocess.run([program, name], env=environment, capture_output=True, text=True, timeout=60)
            report = planted.stderr
            good = re.search(f"emulator: {kind}:", report) and planted.returncode != 0
            good = good and (line is None or re.search(line, report, re.DOTALL))
            fixed = subprocess.run([program, name, "fixed"], env=environment, capture_output=True, text=True, timeout=60)
            if not good or fixed.returncode != 0 or fixed.stderr:
                wrong += 1
                print(f"{name}, seed {seed}: planted: rc {planted.returncode}\n{report}{planted.stdout}"
                      f"fixed: rc {fixed.returncode}\n{fixed.stderr}{fixed.stdout}")
    print(f"{len(BUGS)} bugs, {len(seeds)} seeds each, {wrong} runs wrong")
    return wrong != 0


if __name__ == "__main__":
    sys.exit(main())
