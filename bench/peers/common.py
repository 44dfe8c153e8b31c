# SPDX-License-Identifier: Apache-2.0
"""The same inputs and the same error norms as bench/measure.hpp and bench/accuracy.hpp, in numpy."""
import json
import os
import subprocess

import numpy as np


def blas_environment():
    """The environment without what pins numpy's BLAS to another machine's kernels and cache: both or neither."""
    return {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}


def values(seed, shape):
    """Elements of a dense tensor in bench order [batch, seq, heads, dim], float32."""
    with np.errstate(over="ignore"):
        z = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64((seed << 40) + 0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    parts = sum(((z >> np.uint64(s)) & np.uint64(0xFFFF)).astype(np.int32) for s in (0, 16, 32, 48))
    return ((parts - 131070).astype(np.float32) * np.float32(np.float32(1.7320508) / 65536)).reshape(shape)


def norms(x, reference):
    e = np.asarray(x, np.float64) - reference
    return {"max": float(np.abs(e).max() / np.abs(reference).max()),
            "rms": float(np.sqrt((e * e).sum() / (reference * reference).sum()))}


def dense(q, k, v, causal, dout=None):
    """fp64 attention of query heads [heads, n, dim] that share one key/value head [n, dim]; gradients if dout is given."""
    scale, n = 1 / np.sqrt(q.shape[-1]), q.shape[1]
    hidden = np.triu(np.ones((n, n), bool), 1) if causal else None
    out, dq = np.empty_like(q), np.empty_like(q)
    dk, dv = np.zeros_like(k), np.zeros_like(v)
    for h in range(q.shape[0]):
        p = q[h] @ k.T * scale
        if causal:
            p[hidden] = -np.inf
        p = np.exp(p - p.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        out[h] = p @ v
        if dout is None:
            continue
        dv += p.T @ dout[h]
        ds = p * (dout[h] @ v.T - (dout[h] * out[h]).sum(axis=1, keepdims=True)) * scale
        dq[h] = ds @ k
        dk += ds.T @ q[h]
    return {"out": out} if dout is None else {"out": out, "dq": dq, "dk": dk, "dv": dv}


def flops(batch, heads, queries, keys, head_dim, causal, backward):
    return batch * heads * queries * keys * head_dim * (10 if backward else 4) * (0.5 if causal else 1)


def spread(samples):
    return {"median": float(np.median(samples)), "min": float(min(samples)), "max": float(max(samples))}


def run_ours(program, *arguments):
    done = subprocess.run([program, *arguments, "--json", "-"], check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def append(row, json_path):
    """As soon as it is measured, so that a run that is ended keeps what it has."""
    if json_path:
        with open(json_path, "a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


def table(rows, table_path):
    lines = ["| case | peer | ringattn GFLOP/s | peer GFLOP/s | ratio | ratio min..max | error ours (max/rms) | error peer |",
             "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        def worst(e):
            if not e:
                return "-"
            return f'{max(x["max"] for x in e.values()):.0e} / {max(x["rms"] for x in e.values()):.0e}'
        if r.get("failed"):
            lines.append(f'| {r["name"]} | {r["peer"]} | | | | | | {r["failed"]} |')
            continue
        lines.append(f'| {r["name"]} | {r["peer"]} | {r["ours"]["median"]:.1f} | {r["peer_gflops"]["median"]:.1f} | '
                     f'{r["ratio"]["median"]:.2f} | {r["ratio"]["min"]:.2f}..{r["ratio"]["max"]:.2f} | '
                     f'{worst(r.get("error_ours"))} | {worst(r.get("error_peer"))} |')
    text = "\n".join(lines) + "\n"
    print(text)
    if table_path:
        with open(table_path, "w", encoding="utf-8") as out:
            out.write(text)
