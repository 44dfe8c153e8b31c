#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's CPU scaled_dot_product_attention beside ours, shape by shape and round by round in one run.

    build/peers/torch/bin/python bench/peers/run_torch.py --json peers.jsonl --table peers.md
    ... --only 'forward-fp32.*-t1' --rounds 5

Both get the same numbers; both are compared with fp64. A round is: ours, then torch, so that a slow moment of the
machine meets both; the ratio is taken round by round.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import common

if "OPENBLAS_CORETYPE" in os.environ or "OPENBLAS_L2_SIZE" in os.environ:
    os.execve(sys.executable, [sys.executable, *sys.argv], common.blas_environment())

import numpy as np
import torch
import torch.nn.functional as F

PEER = f"torch {torch.__version__.split('+')[0]} SDPA"
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def gemm_isa():
    """What torch's matrix products ran on, in their own words."""
    probe = ("import torch\nfor d in (torch.float32, torch.bfloat16):\n"
             " a = torch.ones(256, 256, dtype=d); torch.mm(a, a)\n")
    env = dict(os.environ, MKL_VERBOSE="1", DNNL_VERBOSE="1", ONEDNN_VERBOSE="1")
    done = subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True, text=True, check=False)
    lines = [s for s in (done.stdout + done.stderr).splitlines() if "isa:" in s or "oneMKL" in s or "mul" in s or "GEMM" in s]
    torch.set_num_threads(1)
    a = torch.ones(1024, 1024)
    best = min(_timed(lambda: torch.mm(a, a)) for _ in range(8))
    return {"sgemm_1024_gflops_one_thread": 2 * 1024 ** 3 / best * 1e-9, "capability": torch.backends.cpu.get_cpu_capability(), "verbose": [s[:200] for s in lines[:6]]}


def _timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


class Torch:
    """One shape in the layout torch likes best, [batch, heads, seq, dim] dense, with gradients when asked for."""

    def __init__(self, c):
        self.c, self.causal, self.backward = c, c["mask"] == "causal", c["pass"] == "backward"
        q_shape = (c["batch"], c["queries"], c["heads"], c["head_dim"])
        kv_shape = (c["batch"], c["seq"], c["kv_heads"], c["head_dim"])
        self.q, self.k, self.v, self.dout = (
            torch.from_numpy(common.values(i + 1, s)).to(DTYPE[c["precision"]]).transpose(1, 2).contiguous()
            for i, s in enumerate((q_shape, kv_shape, kv_shape, q_shape)))
        self.inputs = (self.q, self.k, self.v)
        for x in self.inputs:
            x.requires_grad_(self.backward)
        self.gqa = {"enable_gqa": True} if c["heads"] != c["kv_heads"] else {}
        self.out = self.forward()

    def forward(self):
        return F.scaled_dot_product_attention(*self.inputs, is_causal=self.causal, **self.gqa)

    def call(self):
        if self.backward:
            return torch.autograd.grad(self.out, self.inputs, self.dout, retain_graph=True)
        return self.forward()

    def seconds(self, least=0.02, repetitions=3):
        best = []
        start = time.perf_counter()
        self.call()
        calls = max(1, int(least / (time.perf_counter() - start)))
        for _ in range(repetitions):
            start = time.perf_counter()
            for _ in range(calls):
                self.call()
            best.append((time.perf_counter() - start) / calls)
        return float(np.median(best))

    def error(self, limit=4096):
        """Of the last batch entry and key/value head, as our bench checks; not above `limit` rows."""
        c = self.c
        if c["seq"] > limit:
            return None
        group = c["heads"] // c["kv_heads"]
        as64 = lambda t, h: t.detach()[-1, h].to(torch.float64).numpy()
        heads = slice(c["heads"] - group, c["heads"])
        reference = common.dense(as64(self.q, heads), as64(self.k, -1), as64(self.v, -1), self.causal,
                                 as64(self.dout, heads) if self.backward else None)
        got = {"out": as64(self.out, heads)}
        if self.backward:
            dq, dk, dv = self.call()
            got |= {"dq": as64(dq, heads), "dk": as64(dk, -1), "dv": as64(dv, -1)}
        return {name: common.norms(got[name], reference[name]) for name in got}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    build = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build")
    parser.add_argument("--ours", default=os.path.join(build, "bench", "attention"), help="our bench/attention")
    parser.add_argument("--only", default="", help="a regular expression over the names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="append JSON lines")
    parser.add_argument("--table", help="write a markdown table")
    a = parser.parse_args()

    isa = gemm_isa()
    print(json.dumps(isa, indent=1))
    listed = subprocess.run([a.ours, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = []
    for c in map(json.loads, listed.splitlines()):
        if not re.search(a.only, c["name"]):
            continue
        torch.set_num_threads(int(c["threads"]))
        row = {"bench": "peers", "name": c["name"], "peer": PEER, "isa": isa}
        try:
            peer = Torch(c)
            work = common.flops(c["batch"], c["heads"], c["queries"], c["seq"], c["head_dim"], peer.causal, peer.backward)
            ours, theirs = [], []
            for i in range(a.rounds):
                mine = common.run_ours(a.ours, "--only", f'^{re.escape(c["name"])}$', "--threads", str(c["threads"]),
                                       "--repetitions", "3", "--rows", "32" if i == 0 else "0")[0]
                ours.append(mine["gflops"]["median"])
                theirs.append(work / peer.seconds() * 1e-9)
                if i == 0:
                    row["machine"] = mine["machine"]
                    row["error_ours"] = mine["error"]
                    row["error_peer"] = peer.error()
            row |= {"ours": common.spread(ours), "peer_gflops": common.spread(theirs),
                    "ratio": common.spread([x / y for x, y in zip(ours, theirs)])}
            print(f'{row["name"]:44} {row["ours"]["median"]:8.1f} {row["peer_gflops"]["median"]:8.1f}  '
                  f'x {row["ratio"]["median"]:.2f}', flush=True)
        except Exception as e:  # a shape that a peer cannot do is a result, not the end
            row["failed"] = f"{type(e).__name__}: {e}".splitlines()[0][:160]
            print(f'{row["name"]:44} {row["failed"]}', flush=True)
        rows.append(row)
        common.append(row, a.json)
    common.table(rows, a.table)


if __name__ == "__main__":
    main()
