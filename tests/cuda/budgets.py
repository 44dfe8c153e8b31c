#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What ptxas makes of every shipped kernel, compared with budgets.json: spills, registers, shared memory, instructions.

    budgets.py --nvcc NVCC [--write] [--table] [--precision NAME]... [--jobs N]

0 spills are demanded of every kernel on every card. Registers and shared memory must be those of the file, and so must the
mix of instructions where a disassembler is found (nvdisasm: beside nvcc, in PATH, in $NVDISASM, or pip's package
nvidia-cuda-nvdisasm). Another release of ptxas than the file's may take up to 10 % more registers; its mix is not compared.
--write makes the file anew, --table prints it for docs/performance.md."""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent
PRECISIONS = ["Bf16", "Fp16", "Fp32", "Tf32"]
CARDS = {80: ["sm_80", "sm_90"], 86: ["sm_86", "sm_89"]}  # which kernel runs on which architecture
REGISTERS, SHARED, THREADS = 65536, {"sm_80": 164, "sm_86": 100, "sm_89": 100, "sm_90": 228}, {
    "sm_80": 2048, "sm_86": 1536, "sm_89": 1536, "sm_90": 2048}
# Groups of SASS instructions: what must be there, and what it costs.
MIX = {
    "tensor": r"HMMA\.", "load_matrix": r"LDSM", "async_copy_16": r"LDGSTS\S*\.128", "load_16": r"LDG\S*\.128",
    "store_16": r"STG\S*\.128", "exp2": r"MUFU\.EX2", "shuffle": r"SHFL", "barrier": r"BAR", "spill": r"(LDL|STL)",
}


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def find_disassembler(nvcc):
    places = [os.environ.get("NVDISASM"), nvcc.parent / "nvdisasm", shutil.which("nvdisasm")]
    for folder in [*map(pathlib.Path, sys.path), root / "build/tools"]:
        places += sorted(folder.glob("nvidia/cu*/bin/nvdisasm")) if folder.is_dir() else []
    return next((pathlib.Path(p) for p in places if p and pathlib.Path(p).is_file()), None)


def name_of(demangled):
    """The kernel and its head_dim; None for what is not ours."""
    found = re.search(r"::(\w+)<ringattn::\w+::Kernel<ringattn::\w+::\w+, ringattn::\w+::(\w+),[^>]*?, (\d+), (\d+)>(.*?)>\(", demangled)
    if not found:
        return None
    kernel, mask, dim, _, rest = found.groups()
    return (f"{kernel}_atomic_{mask.lower()}" if "Adding)1" in rest else kernel), int(dim)


def measure(nvcc, disassembler, precision, card, folder):
    ptx = folder / f"{precision}_{card}.ptx"
    flags = ["-std=c++20", "-I", root / "include", f"-DRINGATTN_PRECISION={precision}", f"-DRINGATTN_CARD={card}"]
    run([nvcc, *flags, "-ptx", "-arch", "compute_80", here / "kernels.cu", "-o", ptx])
    blocks = {}
    program = folder / f"{precision}_{card}"
    run([nvcc, *flags, "-cudart", "static", "-arch", "compute_80", "-code", "compute_80",
         here / "kernels.cu", "-o", program])
    for line in run([program]).splitlines():
        kernel, *numbers = line.split()
        dim, threads, shared, q, kv = map(int, numbers)
        blocks[kernel, dim] = {"threads": threads, "shared": shared, "tile": f"{q} x {kv}"}
    found = {}
    for arch in CARDS[card]:
        cubin = folder / f"{precision}_{arch}.cubin"
        said = run([nvcc.parent / "ptxas", "-arch", arch, "-v", ptx, "-o", cubin])
        entries = re.findall(r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
                             r"(\d+) bytes spill loads\s+ptxas info\s+: Used (\d+) registers", said)
        names = dict(zip([e[0] for e in entries], run(["c++filt", *[e[0] for e in entries]]).splitlines()))
        mixes = mix_of(disassembler, cubin) if disassembler else {}
        for mangled, stack, stores, loads, registers in entries:
            name = name_of(names[mangled])
            if not name:
                continue
            entry = {"registers": int(registers), "spill_bytes": int(stores) + int(loads), **blocks.get(name, {})}
            if mangled in mixes:
                entry["mix"] = mixes[mangled]
            found[f"{name[0]} {precision} {name[1]} {arch}"] = entry
    return found


def mix_of(disassembler, cubin):
    """Instructions by group, per kernel."""
    mixes, kernel = {}, None
    for line in run([disassembler, "-c", cubin]).splitlines():
        section = re.match(r"\s*\.section\s+\.text\.(\S+?),", line)
        if section:
            kernel = mixes.setdefault(section[1], collections.Counter())
        code = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*);", line)
        if code and kernel is not None:
            text = re.sub(r"^@!?U?P\w+\s+", "", code[1])
            kernel["all"] += text.split()[0] != "NOP"
            for group, pattern in MIX.items():
                kernel[group] += bool(re.match(pattern, text))
    return {k: dict(v) for k, v in mixes.items()}


def problems(found, budget, same_release, with_mix):
    bad = [f"{k}: {e['spill_bytes']} bytes are spilled" for k, e in found.items() if e["spill_bytes"]]
    for key, e in found.items():
        want = budget.get(key)
        if want is None:
            bad.append(f"{key}: not in the budget; --write")
            continue
        most = want["registers"] if same_release else want["registers"] * 11 // 10
        if e["registers"] > most:
            bad.append(f"{key}: {e['registers']} registers, {want['registers']} budgeted")
        for what in ("threads", "shared", "tile"):
            if e.get(what) != want.get(what):
                bad.append(f"{key}: {what} {e.get(what)}, {want.get(what)} budgeted")
        mix = e.get("mix")
        if mix and key.startswith("attend") and not (mix["tensor"] and mix["async_copy_16"]):
            bad.append(f"{key}: no tensor-core instructions or no 16-byte copies: {mix}")
        if mix and with_mix and same_release and mix != want.get("mix"):
            bad.append(f"{key}: instructions {mix}, {want.get('mix')} budgeted")
    return bad


def occupancy(e, arch):
    """Blocks per multiprocessor."""
    by_registers = REGISTERS // (-(-e["registers"] // 8) * 8 * e["threads"])
    by_shared = SHARED[arch] * 1024 // (e["shared"] + 1024)
    return min(by_registers, by_shared, THREADS[arch] // e["threads"])


def flop_per_byte(kernel, precision, e):
    """Of what a block moves between the L2 cache and its multiprocessor for a pair of tiles, head_dim = value_dim."""
    size = 2 if precision in ("Bf16", "Fp16") else 4
    q, kv = map(int, e["tile"].split(" x "))
    if kernel == "attend":
        return 4 * q * kv / (2 * kv * size)  # keys and values come by; queries and sums stay
    return 10 * q * kv / (q * (2 * size + 8))  # queries and dO come by, dQ goes in and out in fp32


# A100: dense tensor-core rate by precision (Fp32: three products of tf32), and bytes per second from L2, roughly.
RATE, L2 = {"Bf16": 312e12, "Fp16": 312e12, "Tf32": 156e12, "Fp32": 52e12}, 4e12


def table(budget):
    print("| kernel | precision | head_dim | tile (q x kv) | registers | shared KB | warps per SM | tensor, all instructions | "
          "FLOP per byte of L2 | expected bound on A100 |\n|---|---|---|---|---|---|---|---|---|---|")
    for key, e in sorted(budget.items(), key=lambda i: (i[0].split()[0], i[0].split()[1], int(i[0].split()[2]))):
        kernel, precision, dim, arch = key.split()
        if arch == "sm_80" and "tile" in e:
            mix, intensity = e.get("mix", {}), flop_per_byte(kernel, precision, e)
            bound = "tensor cores" if intensity * L2 >= RATE[precision] else f"L2, {intensity * L2 / RATE[precision]:.0%} of tensor"
            print(f"| `{kernel}` | {precision} | {dim} | {e['tile']} | {e['registers']} | {e['shared'] / 1024:.0f} | "
                  f"{occupancy(e, arch) * e['threads'] // 32} | {mix.get('tensor', '-')}, {mix.get('all', '-')} | {intensity:.0f} | "
                  f"{bound} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", type=pathlib.Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    file = here / "budgets.json"
    old = json.loads(file.read_text()) if file.is_file() else {"release": "", "kernels": {}}
    if args.table:
        return table(old["kernels"])
    nvcc = args.nvcc.resolve()
    release = re.search(r"release ([\d.]+), V([\d.]+)", run([nvcc, "--version"]))[2]
    disassembler = find_disassembler(nvcc)
    if not disassembler:
        print("nvdisasm not found: the mix of instructions is not compared (pip: nvidia-cuda-nvdisasm)")
    found = {}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        work = [pool.submit(measure, nvcc, disassembler, p, card, pathlib.Path(folder))
                for p in args.precision or PRECISIONS for card in CARDS]
        for w in work:
            found.update(w.result())
    bad = [] if args.write else problems(found, old["kernels"], old["release"] == release, bool(disassembler))
    if args.write:
        bad = [b for b in problems(found, found, True, False)]
        kernels = {**old["kernels"], **found} if args.precision else found
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(kernels[k])}" for k in sorted(kernels))
        file.write_text(f'{{"release": "{release}", "kernels": {{\n{lines}\n}}}}\n')
    print("\n".join(bad))
    print(f"{len(found)} kernels, {len(bad)} problems")
    print("ringattn-tests: " + json.dumps({"passed": len(found) - min(len(bad), len(found)), "failed": len(bad), "skipped": 0}))
    return 1 if bad else 0


sys.exit(main())
