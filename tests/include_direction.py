#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Includes run one way: prints every include under include/ringattn that goes against the order of the layers."""
import json
import pathlib
import re
import sys
import tempfile

BASE = ["config", "error", "float16", "tensor", "softmax", "rows", "concepts"]
POLICIES = BASE + ["policy/", "policy"]
RING = POLICIES + ["ring/", "ring_attention"]

# A header or folder -> the headers and folders it may include. Files of one folder may include each other.
MAY_INCLUDE = {
    "config": [],
    "error": ["config"],
    "float16": ["config"],
    "tensor": ["config"],
    "softmax": ["config"],
    "rows": ["config", "tensor"],
    "concepts": ["config", "error", "float16", "tensor", "rows"],
    "policy/": BASE,
    "policy": BASE + ["policy/"],
    "ring/": POLICIES,
    "ring_attention": POLICIES + ["ring/"],
    "comm/": POLICIES + ["cuda/error"],
    "cpu/": POLICIES,
    "cuda/": POLICIES + ["cuda/error"],
    "cuda/error": BASE,  # a layer of its own: transports check the runtime's errors, too
    "plan/": RING,
    "transformer/": RING + ["cpu/", "cuda/", "plan/"],
    "ringattn": RING + ["comm/", "cpu/", "cuda/", "plan/", "transformer/"],
}


def layer(path):
    """cpu/attention.hpp -> cpu/, tensor.hpp -> tensor; a header that is a layer of its own -> its path."""
    if str(path.with_suffix("")) in MAY_INCLUDE:
        return str(path.with_suffix(""))
    return path.parts[0] + "/" if len(path.parts) > 1 else path.stem


def offences(root):
    root = root.resolve()
    found = []
    for file in sorted(p for p in root.rglob("*") if p.suffix in (".hpp", ".cuh")):
        mine = layer(file.relative_to(root))
        if mine not in MAY_INCLUDE:
            found.append(f"{file.relative_to(root)}: belongs to no layer; add one to {pathlib.Path(__file__).name}")
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s*(?:"([^"]+)"|<ringattn/([^>]+)>)', line)
            if not match:
                continue
            at = f"{file.relative_to(root)}:{number}: {line.strip()}"
            if match[2]:
                found.append(f"{at}: inside the library write a relative path in quotes")
                continue
            target = (file.parent / match[1]).resolve()
            if not target.is_file():
                found.append(f"{at}: no such header")
                continue
            theirs = layer(target.relative_to(root))
            same_folder = theirs == mine and mine.endswith("/")
            if not same_folder and theirs not in MAY_INCLUDE[mine]:
                found.append(f"{at}: {mine} may not include {theirs}")
    return found


def catches(source, include):
    """Does a header `source` with that one include count as an offence?"""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in (source, include):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        (root / source).write_text('#include "' + "../" * (len(pathlib.Path(source).parts) - 1) + include + '"\n')
        return bool(offences(root))


def main():
    problems = offences(pathlib.Path(sys.argv[1]))
    for bad in [("comm/mpi.hpp", "cpu/backend.hpp"), ("cpu/backend.hpp", "comm/solo.hpp"), ("tensor.hpp", "rows.hpp"),
                ("cuda/launch.cuh", "comm/nccl.hpp"), ("comm/nccl.hpp", "cuda/backend.cuh"), ("ring/rotate.hpp", "cpu/backend.hpp"),
                ("policy/mask.hpp", "policy.hpp"), ("ring/plan.hpp", "plan/memory.hpp")]:
        if not catches(*bad):
            problems.append(f"the check itself fails: it does not see {bad[0]} including {bad[1]}")
    for good in [("cpu/backend.hpp", "concepts.hpp"), ("ring/forward.hpp", "ring/rotate.hpp"), ("comm/nccl.hpp", "cuda/error.hpp")]:
        if catches(*good):
            problems.append(f"the check itself fails: it forbids {good[0]} to include {good[1]}")
    print("\n".join(problems))
    print("ringattn-tests: " + json.dumps({"passed": int(not problems), "failed": int(bool(problems)), "skipped": 0}))
    return bool(problems)


sys.exit(main())
