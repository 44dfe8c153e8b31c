#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What ptxas makes of every shipped kernel, compared with budgets.json: spills, registers, shared memory, instructions.

    budgets.py --nvcc NVCC [--check WHAT]... [--precision NAME]... [--arch sm_NN]... [--work FOLDER] [--jobs N] [--write]
    budgets.py --table

WHAT: `budgets`, registers and shared memory, which must be those of the file; `instructions`, the mix of them, too, for which
a disassembler is needed (nvdisasm: beside nvcc, in PATH, in $NVDISASM, or pip's package nvidia-cuda-nvdisasm, also in
build/tools, where tests/setup.sh puts it; exit status 77, skipped, without one); `shapes`, no budget, for other masks and for
values narrower than keys. Without --check the first two. 0 spills are demanded of every kernel on every card. Cards of compute
capability 9.0 get code for it, which has instructions of its own, and not what is compiled for 8.0.

Another release of ptxas than the file's may take up to 10 % more registers; its mix is not compared. --write makes the file
anew, or what is asked for of it; --table prints it for docs/performance.md. What is compiled stays in --work, and is taken
from there as long as no header has changed."""
import argparse
import collections
import concurrent.futures
import hashlib
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
# Which kernel runs on which architecture, and which virtual one it is compiled for.
CARDS = {80: {"compute_80": ["sm_80"], "compute_90": ["sm_90"]}, 86: {"compute_80": ["sm_86", "sm_89"]}}
ARCHS = [a for of_virtual in CARDS.values() for archs in of_virtual.values() for a in archs]
REGISTERS, SHARED, THREADS = 65536, {"sm_80": 164, "sm_86": 100, "sm_89": 100, "sm_90": 228}, {
    "sm_80": 2048, "sm_86": 1536, "sm_89": 1536, "sm_90": 2048}
# Groups of SASS instructions: what must be there, and what it costs.
MIX = {
    "tensor": r"HMMA\.", "load_matrix": r"LDSM", "async_copy_16": r"LDGSTS\S*\.128", "load_16": r"LDG\S*\.128",
    "store_16": r"STG\S*\.128", "exp2": r"MUFU\.EX2", "shuffle": r"SHFL", "barrier": r"BAR", "spill": r"(LDL|STL)",
}
ADD_4 = r"REDG?\S*\.F32x4"  # of code for sm_90 alone, and only there in the file


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
    """The kernel, its mask, head_dim and value_dim; None for what is not ours."""
    found = re.search(r"::(\w+)<ringattn::\w+::Kernel<ringattn::\w+::\w+, ringattn::\w+::(\w+),[^>]*?, (\d+), (\d+)>(.*?)>\(", demangled)
    if not found:
        return None
    kernel, mask, dim, value_dim, rest = found.groups()
    return (f"{kernel}_atomic_{mask.lower()}" if "Adding)1" in rest else kernel), mask, int(dim), int(value_dim)


def sources_hash(nvcc_version):
    h = hashlib.sha256(nvcc_version.encode() + pathlib.Path(__file__).read_bytes())
    for file in [here / "kernels.cu", *sorted(p for p in (root / "include").rglob("*") if p.is_file())]:
        h.update(file.read_bytes())
    return h.hexdigest()[:16]


def compiled(nvcc, precision, card, archs, shapes, folder):
    """What ptxas says of each of the architectures, their cubins, and what the program prints. What is there stays."""
    folder = folder / f"{precision}_{card}{'_shapes' if shapes else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++20", "-I", root / "include", f"-DRINGATTN_PRECISION={precision}", f"-DRINGATTN_CARD={card}"]
    flags += ["-DRINGATTN_SHAPES"] if shapes else []
    said = {}
    for virtual, of_virtual in CARDS[card].items():
        missing = [a for a in of_virtual if a in archs and not (folder / f"{a}.txt").is_file()]
        ptx = folder / f"{virtual}.ptx"
        if missing:
            if shapes or (folder / "program.txt").is_file():
                run([nvcc, *flags, "-ptx", "-arch", virtual, here / "kernels.cu", "-o", ptx])
            else:  # both at once
                kept = folder / "kept"
                kept.mkdir(exist_ok=True)
                run([nvcc, *flags, "-cudart", "static", "-arch", virtual, "-code", virtual, "--keep", "--keep-dir", kept,
                     here / "kernels.cu", "-o", kept / "program"])
                (kept / "kernels.ptx").rename(ptx)
                (folder / "program.txt").write_text(run([kept / "program"]))
                shutil.rmtree(kept)
        for arch in missing:
            text = run([nvcc.parent / "ptxas", "-arch", arch, "-v", ptx, "-o", folder / f"{arch}.cubin"])
            (folder / f"{arch}.txt").write_text(text)
        for arch in of_virtual:
            if arch in archs:
                said[arch] = (folder / f"{arch}.txt").read_text(), folder / f"{arch}.cubin"
    return said, "" if shapes else (folder / "program.txt").read_text()


def measure(nvcc, disassembler, precision, card, archs, shapes, folder):
    said, printed = compiled(nvcc, precision, card, archs, shapes, folder)
    blocks = {}
    for line in printed.splitlines():
        kernel, *numbers = line.split()
        dim, threads, shared, q, kv = map(int, numbers)
        blocks[kernel, dim] = {"threads": threads, "shared": shared, "tile": f"{q} x {kv}"}
    found = {}
    for arch, (text, cubin) in said.items():
        entries = re.findall(r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
                             r"(\d+) bytes spill loads\s+ptxas info\s+: Used (\d+) registers", text)
        names = dict(zip([e[0] for e in entries], run(["c++filt", *[e[0] for e in entries]]).splitlines()))
        mixes = mix_of(disassembler, cubin) if disassembler else {}
        for mangled, stack, stores, loads, registers in entries:
            name = name_of(names[mangled])
            if not name:
                continue
            kernel, mask, dim, value_dim = name
            spilled = {"registers": int(registers), "spill_bytes": int(stores) + int(loads)}
            if shapes:
                found[f"{kernel} {precision} {mask} {dim}/{value_dim} {arch}"] = spilled
                continue
            entry = {**spilled, **blocks.get((kernel, dim), {})}
            if mangled in mixes:
                entry["mix"] = mixes[mangled]
            found[f"{kernel} {precision} {dim} {arch}"] = entry
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
            if re.match(ADD_4, text):
                kernel["add_4"] += 1
    return {k: dict(v) for k, v in mixes.items()}


def spills(found):
    return [f"{k}: {e['spill_bytes']} bytes are spilled" for k, e in found.items() if e["spill_bytes"]]


def problems(found, budget, same_release, with_mix):
    bad = spills(found)
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
        if not with_mix:
            continue
        mix = e.get("mix")
        if not mix:
            bad.append(f"{key}: no instructions found")
            continue
        if key.startswith("attend") and not (mix["tensor"] and mix["async_copy_16"]):
            bad.append(f"{key}: no tensor-core instructions or no 16-byte copies: {mix}")
        if key.startswith("attend_backward") and key.endswith("sm_90") and not mix.get("add_4"):
            bad.append(f"{key}: dQ is not added four numbers at a time: {mix}")
        if same_release and mix != want.get("mix"):
            bad.append(f"{key}: instructions {mix}, {want.get('mix')} budgeted")
    of = {tuple(key.split()[i] for i in (1, 3)) for key in found}
    bad += [f"{key}: in the budget, but not compiled" for key in budget
            if tuple(key.split()[i] for i in (1, 3)) in of and key not in found]
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
    parser.add_argument("--check", action="append", choices=["budgets", "instructions", "shapes"])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--arch", action="append", choices=ARCHS)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    file = here / "budgets.json"
    old = json.loads(file.read_text()) if file.is_file() else {"release": "", "kernels": {}}
    if args.table:
        return table(old["kernels"])
    nvcc = args.nvcc.resolve()
    version = run([nvcc, "--version"])
    release = re.search(r"release ([\d.]+), V([\d.]+)", version)[2]
    checks = args.check or ["budgets", "instructions"]
    disassembler = find_disassembler(nvcc) if "instructions" in checks or args.write else None
    if not disassembler and (args.write or "instructions" in checks):
        print("nvdisasm not found: the mix of instructions is not compared (pip: nvidia-cuda-nvdisasm)")
        if args.write or "budgets" not in checks:
            return 1 if args.write else 77
    found, shapes = {}, {}
    with tempfile.TemporaryDirectory() as temporary, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        folder = (args.work or pathlib.Path(temporary)) / sources_hash(version)
        for stale in folder.parent.glob("*") if args.work else []:
            if stale != folder:
                shutil.rmtree(stale)
        work = []
        for precision in args.precision or PRECISIONS:
            for card, of_card in CARDS.items():
                archs = [a for of_virtual in of_card.values() for a in of_virtual if a in (args.arch or ARCHS)]
                if archs and (args.write or set(checks) & {"budgets", "instructions"}):
                    work.append((found, pool.submit(measure, nvcc, disassembler, precision, card, archs, False, folder)))
                if archs and card == 80 and "shapes" in checks:
                    work += [(shapes, pool.submit(measure, nvcc, None, precision, card, archs, True, folder))]
        for into, w in work:
            into.update(w.result())
    bad = spills(shapes)
    if args.write:
        bad += problems(found, found, True, True)
        kernels = {**old["kernels"], **found} if args.precision or args.arch else found
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(kernels[k])}" for k in sorted(kernels))
        file.write_text(f'{{"release": "{release}", "kernels": {{\n{lines}\n}}}}\n')
    else:
        bad += problems(found, old["kernels"], old["release"] == release, bool(disassembler))
    total = len(found) + len(shapes)
    if not total:
        bad.append("no kernel was found")
    print("\n".join(bad))
    print(f"{total} kernels, {len(bad)} problems")
    print("ringattn-tests: " + json.dumps({"passed": total - min(len(bad), total), "failed": len(bad), "skipped": 0}))
    return 1 if bad else 0


sys.exit(main())
