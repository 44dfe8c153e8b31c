#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A tile product keeps its sums in registers and loads each factor once, whatever the instruction set and compiler.

    run.py COMPILER

Compiles products.cpp to assembly, whether or not this machine could run it, and looks at the inner loop of every
product: for each `rows` x `vectors` multiplications it may read memory rows + vectors times, and write none. A compiler
that fails here still gives the right numbers, at a third of the speed.
"""
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
INCLUDE = HERE.parent.parent.parent / "include"
# name: flags, rows of a register tile, products in products.cpp
SETS = {"AVX2": (["-mavx2", "-mfma", "-mf16c"], 4, 7),
        "AVX-512": (["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma", "-mf16c"], 8, 12)}
MULTIPLY = re.compile(r"v(fmadd...p[sd]|dpbf16ps)\b")


def loops(assembly):
    """(function, instructions) of every block that a jump leads back to."""
    function = block = None
    for line in assembly.splitlines():
        text = line.split("#")[0].strip()
        if match := re.match(r"([A-Za-z_][\w.]*):", text):
            function, block = match[1], None
        elif match := re.match(r"(\.L\w+):", text):
            block = (match[1], [])
        elif block and text and text[0] not in ".":
            block[1].append(text)
            if text[0] == "j":
                if text.split()[-1] == block[0] and "tile_product" in function:
                    yield function, block[1]
                if text.startswith("jmp") or text.split()[-1] == block[0]:
                    block = None


def complaints(assembly, rows, products):
    """What is wrong, one line each; empty if all is well."""
    seen, wrong = set(), []
    for function, body in loops(assembly):
        sums = sum(bool(MULTIPLY.match(i)) for i in body)
        if sums < 2 * rows:
            continue
        vectors = int(re.search(r"IntoE\dELi(\d+)E", function)[1])
        seen.add(function)
        memory = [i for i in body if "(" in i and not i.startswith(("lea", "prefetch", "nop"))]
        writes = [i for i in memory if i.endswith(")") and i.startswith(("v", "mov"))]
        reads = len(memory) - len(writes)
        times = sums / (rows * vectors)
        if writes or reads > times * (rows + vectors):
            wrong.append(f"{function}: {sums} multiplications, {reads} reads (at most {times * (rows + vectors):g}), "
                         f"{len(writes)} writes")
    if len(seen) != products:
        wrong.append(f"inner loops of {len(seen)} products were found, not of {products}: {sorted(seen)}")
    return wrong


def main():
    failed = 0
    for name, (flags, rows, products) in SETS.items():
        for level in ("-O2", "-O3"):
            command = [sys.argv[1], "-std=c++20", level, *flags, "-I", INCLUDE, "-S", "-o", "-", HERE / "products.cpp"]
            assembly = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            wrong = complaints(assembly, rows, products)
            print(f"{name} {level}: {'ok' if not wrong else ''}", *wrong, sep="\n  " if wrong else "", flush=True)
            failed += bool(wrong)
    return 1 if failed else 0


sys.exit(main())
