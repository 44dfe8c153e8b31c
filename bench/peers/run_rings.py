#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two other rings beside ours on a few shapes: lucidrains' ring-attention-pytorch over gloo, and the paper's JAX code
(`ringattention`) on host devices. fp32, head_dim 64, as many ranks as --ranks, one thread each.

    python3 bench/peers/run_rings.py --json peers.jsonl --table rings.md        (any Python; it calls the two others)

Each peer runs in its own process, which also checks it against fp64 and prints one line of JSON.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
HEAD_DIM = 64


def check(tensors, c):
    """Errors of gathered [1, seq, heads, dim] tensors, of the last head, against fp64."""
    import common
    shape = (1, c["seq"], c["heads"], HEAD_DIM)
    q, k, v, dout = (common.values(i, shape)[0, :, -1].astype("float64") for i in (1, 2, 3, 4))
    ref = common.dense(q[None], k, v, c["causal"], dout[None] if c["backward"] else None)
    return {n: common.norms(t[0, :, -1], ref[n][0] if n in ("out", "dq") else ref[n]) for n, t in tensors.items()}


def gloo_rank(rank, c, port, results):
    import common
    import numpy as np
    import torch
    import torch.distributed as dist
    from ring_attention_pytorch.ring_flash_attention import ring_flash_attn
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=c["ranks"])
    shape, n = (1, c["seq"], c["heads"], HEAD_DIM), c["seq"] // c["ranks"]
    mine = slice(rank * n, (rank + 1) * n)
    q, k, v, dout = (torch.from_numpy(np.ascontiguousarray(common.values(i, shape)[:, mine])) for i in (1, 2, 3, 4))
    for x in (q, k, v):
        x.requires_grad_(c["backward"])
    forward = lambda: ring_flash_attn(q, k, v, causal=c["causal"], bucket_size=min(512, n), ring_reduce_col=True,
                                      ring_size=c["ranks"])
    seconds, grads = [], None
    for _ in range(c["repetitions"] + 1):
        dist.barrier()
        start = time.perf_counter()
        out = forward()
        if c["backward"]:
            dist.barrier()
            start = time.perf_counter()
            grads = torch.autograd.grad(out, (q, k, v), dout)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    tensors = {"out": out} | (dict(zip(("dq", "dk", "dv"), grads)) if grads else {})
    whole = {}
    for name, t in tensors.items():
        parts = [torch.empty_like(t) for _ in range(c["ranks"])]
        dist.all_gather(parts, t.detach().contiguous())
        whole[name] = torch.cat(parts, dim=1).numpy()
    if rank == 0:
        results.put({"seconds": seconds[1:],  # the first makes connections
                      "error": check(whole, c)})
    dist.barrier()
    dist.destroy_process_group()


def gloo(c):
    import torch.multiprocessing as mp
    context = mp.get_context("spawn")
    results = context.Queue()
    ranks = mp.spawn(gloo_rank, args=(c, 29400 + os.getpid() % 500, results), nprocs=c["ranks"], join=False)
    answer = results.get(timeout=600)
    while not ranks.join():
        pass
    return answer


def jax_hosts(c):
    os.environ["XLA_FLAGS"] = f'--xla_force_host_platform_device_count={c["ranks"]}'
    os.environ["JAX_PLATFORMS"] = "cpu"
    from functools import partial

    import common
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    try:
        from jax import shard_map
    except ImportError:
        from jax.experimental.shard_map import shard_map
    from ringattention import ringattention_jax as ring  # the function: its Pallas kernels are for other devices
    shape, n = (1, c["seq"], c["heads"], HEAD_DIM), c["seq"] // c["ranks"]
    mesh = Mesh(np.array(jax.devices()), ("sp",))
    spec = PartitionSpec(None, "sp", None, None)
    q, k, v, dout = (jax.device_put(common.values(i, shape), NamedSharding(mesh, spec)) for i in (1, 2, 3, 4))
    chunk = min(512, n)
    # Full attention as one causal block of everything: without a mask this JAX does not compile the forward pass for
    # host devices ("PartitionId instruction is not supported").
    settings = dict(causal_block_size=1 if c["causal"] else c["seq"], deterministic=True, dropout_rng=None, attn_pdrop=0.0,
                    query_chunk_size=chunk, key_chunk_size=chunk, dtype=jax.numpy.float32,
                    policy=jax.checkpoint_policies.nothing_saveable, precision=None, prevent_cse=False)

    def local(q, k, v):
        return ring(q, k, v, None, None, None, "sp", True, settings)

    try:
        sharded = shard_map(local, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)
    except TypeError:
        sharded = shard_map(local, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_rep=False)
    if c["backward"]:
        out, pull = jax.vjp(sharded, q, k, v)
        call = jax.jit(lambda g, pull=pull: pull(g))
        run = lambda: jax.block_until_ready(call(dout))
    else:
        call = jax.jit(sharded)
        run = lambda: jax.block_until_ready(call(q, k, v))
    result = run()  # compiles
    seconds = []
    for _ in range(c["repetitions"]):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    tensors = {"out": out, "dq": result[0], "dk": result[1], "dv": result[2]} if c["backward"] else {"out": result}
    return {"seconds": seconds, "error": check({n: np.asarray(t) for n, t in tensors.items()}, c)}


def child(python, peer, c, timeout=900):
    import common
    done = subprocess.run([python, os.path.abspath(__file__), "--child", peer, json.dumps(c)], capture_output=True,
                          text=True, timeout=timeout, env=common.blas_environment(), check=False)
    lines = [s for s in done.stdout.splitlines() if s.startswith("{")]
    if done.returncode != 0 or not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1][:160])
    return json.loads(lines[-1])


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "--child":
        print(json.dumps({"gloo": gloo, "jax": jax_hosts}[sys.argv[2]](json.loads(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    build = os.path.join(HERE, "..", "..", "build")
    parser.add_argument("--ours", default=os.path.join(build, "bench", "ring"), help="our bench/ring")
    parser.add_argument("--environments", default=os.path.join(build, "peers"), help="what setup.sh made")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", default="1024,4096", help="rows per rank")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--only", default="", help="a regular expression over the names")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", help="append JSON lines")
    parser.add_argument("--table", help="write a markdown table")
    a = parser.parse_args()

    peers = [("lucidrains ring-attention-pytorch, gloo", "gloo", os.path.join(a.environments, "torch", "bin", "python")),
             ("ringattention (JAX), host devices", "jax", os.path.join(a.environments, "jax", "bin", "python"))]
    if not all(os.path.exists(p[2]) for p in peers):
        sys.exit("run bench/peers/setup.sh first: no " + " or ".join(p[2] for p in peers))
    if importable("numpy") is False:
        os.execv(peers[0][2], [peers[0][2], *sys.argv])
    import common

    rows = []
    for n in map(int, a.rows.split(",")):
        for mask in ("full", "causal"):
            for direction in ("forward", "backward"):
                name = f"{direction}-fp32-{mask}-d{HEAD_DIM}-n{n}-p{a.ranks}"
                if not re.search(a.only, name):
                    continue
                c = {"seq": n * a.ranks, "heads": a.heads, "ranks": a.ranks, "causal": mask == "causal",
                     "backward": direction == "backward", "repetitions": a.repetitions}
                work = common.flops(1, a.heads, c["seq"], c["seq"], HEAD_DIM, c["causal"], c["backward"]) * 1e-9
                for peer, kind, python in peers:
                    mine = common.run_ours(a.ours, "--ranks", str(a.ranks), "--threads", str(a.ranks), "--rows", str(n),
                                           "--heads", str(a.heads), "--mask", mask, "--pass", direction, "--repetitions",
                                           str(a.repetitions))[0]
                    ours = {k: work / mine["ring_s"][o] for k, o in (("median", "median"), ("min", "max"), ("max", "min"))}
                    row = {"bench": "peers", "name": name, "peer": peer, "ours": ours, "machine": mine["machine"]}
                    try:
                        got = child(python, kind, c)
                        row["error_peer"] = got["error"]
                        row["peer_gflops"] = common.spread([work / s for s in got["seconds"]])
                        row["ratio"] = common.spread([ours["median"] * s / work for s in got["seconds"]])
                        # A gradient that is wrong by more than rounding is no match, however fast.
                        wrong = [t for t, e in got["error"].items() if not e["max"] < 1e-2]
                        row["wrong"] = wrong
                        print(f'{name:38} {peer:42} {ours["median"]:7.1f} {row["peer_gflops"]["median"]:7.1f}  '
                              f'x {row["ratio"]["median"]:.1f}' + (f'  WRONG: {", ".join(wrong)}' if wrong else ""), flush=True)
                    except Exception as e:  # what a peer cannot do is a result, not the end
                        row["failed"] = f"{type(e).__name__}: {e}"[:200]
                        print(f"{name:38} {peer:42} {row['failed']}", flush=True)
                    rows.append(row)
                    common.append(row, a.json)
    common.table(rows, a.table)


def importable(module):
    try:
        __import__(module)
        return True
    except ImportError:
        return False


if __name__ == "__main__":
    main()
