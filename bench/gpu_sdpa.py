#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's scaled_dot_product_attention on the GPU, back end by back end, for the shapes of gpu_attention: JSON lines."""
import json
import sys

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    sys.exit(f"skipped: {error}")
if not torch.cuda.is_available():
    sys.exit("skipped: PyTorch sees no GPU")


def milliseconds(call, rounds=7, repeat=3):
    call()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeat):
            call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / repeat)
    return sorted(times)[rounds // 2]


def deterministic_milliseconds(call):
    """Without atomics for dQ, as ours are by default; None where PyTorch has no such algorithm."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # not what is timed
    try:
        return milliseconds(call)
    except RuntimeError as error:
        print(f"not deterministic: {error}", file=sys.stderr)
    finally:
        torch.use_deterministic_algorithms(False)


def gemm():
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2e-9 * 8192**3 / milliseconds(lambda: a @ a, repeat=10)


def main():
    peak = gemm()
    print(json.dumps({"engine": "torch", "pass": "gemm 8192^3 bf16", "tflops": peak, "torch": torch.__version__}), flush=True)
    shapes = [(1, 16384, 16, 16, 128, False), (1, 16384, 16, 16, 128, True), (8, 2048, 16, 16, 128, False),
              (2, 8192, 16, 16, 128, True), (1, 16384, 32, 4, 128, True), (1, 16384, 16, 16, 64, False),
              (1, 16384, 16, 16, 64, True), (2, 8192, 16, 16, 256, True)]
    for batch, seq, heads, kv_heads, dim, causal in shapes:
        def tensor(h):
            return torch.randn(batch, h, seq, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        q, k, v = tensor(heads), tensor(kv_heads), tensor(kv_heads)
        flop = 4 * batch * heads * seq * seq * dim * (0.5 if causal else 1)
        for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
            try:
                with sdpa_kernel(backend):
                    def forward():
                        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal,
                                                                                enable_gqa=heads != kv_heads)
                    out = forward()
                    grad = torch.randn_like(out)
                    with torch.no_grad():
                        fwd = milliseconds(forward)
                    def backward():
                        torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)
                    bwd = milliseconds(backward)
                    ordered = deterministic_milliseconds(backward) if name == "flash" else None
            except RuntimeError as error:
                print(json.dumps({"engine": "torch " + name, "seq": seq, "head_dim": dim, "skipped": str(error)[:200]}))
                continue
            for which, ms, factor in (("forward", fwd, 1), ("backward", bwd, 2.5), ("backward, deterministic", ordered, 2.5)):
                if ms is None:
                    continue
                tflops = factor * flop / ms * 1e-9
                print(json.dumps({"engine": "torch " + name, "pass": which, "precision": "bf16",
                                  "mask": "causal" if causal else "full", "head_dim": dim, "batch": batch, "seq": seq,
                                  "heads": heads, "kv_heads": kv_heads, "ranks": 1, "ms": ms, "tflops": tflops,
                                  "of_gemm": tflops / peak}), flush=True)


main()
