#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the benchmarks' JSON lines as SVG. Needs Python 3 and nothing else.

    plot.py roofline attention.jsonl roofline.svg     GFLOP/s against the peak and the memory bandwidth
    plot.py bars     attention.jsonl bars.svg         percent of the peak, median and spread, per case
    plot.py timeline ring.jsonl timeline.svg [NAME]   what every rank did, one lane each
    plot.py peers    peers.jsonl peers.svg [REGEX]    ours beside the peers
    plot.py gpu      gpu.json gpu.svg                 TFLOP/s beside PyTorch's back ends, from bench/gpu.sh
    plot.py training attention.csv loss.svg zeroed.csv  the example's losses, with attention and without
"""
import csv
import json
import math
import re
import sys
from html import escape

INK, PALE, GRID = "#222222", "#8a8a8a", "#dddddd"
BLUE, ORANGE, GREEN, RED, VIOLET = "#2b6cb0", "#dd7a1f", "#2f855a", "#c53030", "#6b46c1"
COLOUR = {"fp32": BLUE, "bf16": ORANGE, "fp16": GREEN, "fp64": VIOLET}


def read(path, bench=None):
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [r for r in rows if bench is None or r.get("bench") == bench]


def latest(rows):
    """The last line of every name (and peer): files are appended to."""
    return list({(r["name"], r.get("peer")): r for r in rows}.values())


class Svg:
    def __init__(self, width, height, title):
        self.width, self.height = width, height
        self.parts = []
        self.text(width / 2, 24, title, size=16, anchor="middle", weight="bold")

    def line(self, x1, y1, x2, y2, colour=GRID, width=1.0, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
                          f'stroke-width="{width}"{dashes}/>')

    def rect(self, x, y, w, h, colour, tip="", opacity=1.0):
        self.parts.append(f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(w, 0.4):.2f}" height="{h:.2f}" fill="{colour}" '
                          f'fill-opacity="{opacity}"><title>{escape(tip)}</title></rect>')

    def dot(self, x, y, r, colour, hollow, tip):
        fill = "white" if hollow else colour
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{fill}" stroke="{colour}" '
                          f'stroke-width="1.5"><title>{escape(tip)}</title></circle>')

    def path(self, points, colour, width=1.5, dash=""):
        d = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{d}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>')

    def text(self, x, y, s, size=12, anchor="start", colour=INK, weight="normal", turn=0):
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
                          f'font-weight="{weight}"{turned}>{escape(s)}</text>')

    def write(self, path):
        with open(path, "w", encoding="utf-8") as out:
            out.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
                      f'viewBox="0 0 {self.width} {self.height}" font-family="Helvetica, Arial, sans-serif">\n'
                      f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def machine_line(row):
    m = row.get("machine", {})
    return f'{m.get("cpu", "?")}, {m.get("cores", "?")} cores, {m.get("isa", "?")}, {m.get("compiler", "?")}'


def intensity(row):
    """FLOP per byte that must be moved at least: q k v out once (and their gradients backward)."""
    size = {"fp64": 8, "fp32": 4}.get(row["precision"], 2)
    q = row["batch"] * row.get("queries", row["seq"]) * row["heads"] * row["head_dim"]
    kv = row["batch"] * row["seq"] * row["kv_heads"] * row["head_dim"]
    tensors = 4 * q + 4 * kv if row["pass"] == "backward" else 2 * q + 2 * kv
    return row["flops"] / (tensors * size)


def roofline(source, target):
    rows = [r for r in latest(read(source, "attention")) if r["threads"] == 1]
    if not rows:
        sys.exit("no attention lines with one thread in " + source)
    svg = Svg(900, 560, "Attention on one thread: roofline")
    left, right, top, bottom = 80, 640, 60, 480
    xs = [intensity(r) for r in rows]
    x_low, x_high = min(0.0, math.floor(math.log2(min(xs)))), math.log2(max(xs)) + 0.5
    peaks = {}
    for r in rows:
        peaks.setdefault(r["precision"], []).append(r["peak"]["median"])
    peaks = {p: sorted(v)[len(v) // 2] for p, v in peaks.items()}
    y_high = math.log2(max(peaks.values())) + 0.5
    y_low = min(math.log2(min(r["gflops"]["median"] for r in rows)) - 0.5, y_high - 3)

    def place(x, y):
        return (left + (math.log2(x) - x_low) / (x_high - x_low) * (right - left),
                bottom - (math.log2(y) - y_low) / (y_high - y_low) * (bottom - top))

    for e in range(math.ceil(x_low), math.floor(x_high) + 1):
        x, _ = place(2.0 ** e, 1)
        svg.line(x, top, x, bottom)
        svg.text(x, bottom + 16, f"{2 ** e}", 11, "middle", PALE)
    for e in range(math.ceil(y_low), math.floor(y_high) + 1):
        _, y = place(1, 2.0 ** e)
        svg.line(left, y, right, y)
        svg.text(left - 6, y + 4, f"{2.0 ** e:g}", 11, "end", PALE)
    svg.text((left + right) / 2, bottom + 36, "FLOP per byte of q, k, v, out and their gradients", 12, "middle")
    svg.text(24, (top + bottom) / 2, "GFLOP/s", 12, "middle", turn=-90)
    bandwidth = max(r.get("machine", {}).get("read_gb_per_s", 0) for r in rows)
    if bandwidth:
        # From the left edge, or where the slope enters from below, to the highest peak.
        x1, x2 = max(2 ** x_low, 2 ** y_low / bandwidth), max(peaks.values()) / bandwidth
        if x2 > x1:
            svg.path([place(x1, x1 * bandwidth), place(x2, x2 * bandwidth)], PALE, 2)
        x, y = place(max(x1, x2 / 4), max(x1, x2 / 4) * bandwidth)
        svg.text(x + 14, y, f"memory: {bandwidth:.0f} GB/s", 12, "start", PALE)
    roofs = {}
    for precision, peak in peaks.items():
        roofs.setdefault(round(peak), []).append(precision)
    for peak, precisions in roofs.items():
        _, y = place(1, peak)
        svg.line(left, y, right, y, COLOUR[precisions[0]], 2)
        svg.text(right + 8, y + 4, f"peak {'/'.join(sorted(precisions))}: {peak} GFLOP/s", 12, "start",
                 COLOUR[precisions[0]])
    for r in rows:
        x, y = place(intensity(r), r["gflops"]["median"])
        svg.dot(x, y, 4, COLOUR[r["precision"]], r["pass"] == "backward",
                f'{r["name"]}: {r["gflops"]["median"]:.1f} GFLOP/s, {r["percent"]["median"]:.1f} % of peak')
    # Below the axis: beside the chart stand the peaks, wherever they are.
    keys = [(p, COLOUR[p], False) for p in sorted(peaks)] + [("forward", INK, False), ("backward", INK, True)]
    for i, (name, colour, hollow) in enumerate(keys):
        svg.dot(right + 16, 474 + 14 * i, 4, colour, hollow, "")
        svg.text(right + 28, 478 + 14 * i, name, 11)
    svg.text(left, 544, machine_line(rows[0]), 11, "start", PALE)
    svg.write(target)


def bars(source, target):
    rows = latest(read(source, "attention"))
    if not rows:
        sys.exit("no attention lines in " + source)
    svg = Svg(900, 110 + 20 * len(rows), "Percent of the multipliers' peak: median, and smallest to largest")
    left, right, top = 330, 860, 60
    bottom = top + 20 * len(rows)

    def place(percent):
        return left + percent / 100 * (right - left)

    for percent in range(0, 101, 10):
        svg.line(place(percent), top - 4, place(percent), bottom)
        svg.text(place(percent), top - 8, str(percent), 11, "middle", PALE)
    for i, r in enumerate(rows):
        y, p = top + 20 * i, r["percent"]
        svg.text(left - 8, y + 14, r["name"], 11, "end")
        svg.rect(left, y + 3, place(p["median"]) - left, 14, COLOUR[r["precision"]],
                 f'{r["gflops"]["median"]:.1f} GFLOP/s of {r["peak"]["median"]:.0f}', 0.5 if r["pass"] == "backward" else 1)
        svg.line(place(p["min"]), y + 10, place(p["max"]), y + 10, INK, 1.2)
        svg.text(place(max(p["max"], p["median"])) + 5, y + 14, f'{p["median"]:.1f}', 11)
    svg.text(left, bottom + 28, machine_line(rows[0]), 11, "start", PALE)
    svg.write(target)


def timeline(source, target, name=None):
    rows = [r for r in latest(read(source, "ring")) if name in (None, r["name"])]
    if not rows:
        sys.exit("no ring line of that name in " + source)
    colours = {"compute": BLUE, "post": GREEN, "copy": GREEN, "wait": RED, "vote": VIOLET}
    panel = [36 + 44 * len(r["ranks"]) + 40 for r in rows]
    svg = Svg(1000, 80 + sum(panel), "What every rank did in one call")
    for i, (kind, label) in enumerate([("compute", "compute"), ("copy", "post an exchange, copy a piece of a block"),
                                       ("wait", "wait, and copy"), ("vote", "vote")]):
        x = [80, 180, 520, 680][i]
        svg.rect(x, 40, 14, 12, colours[kind])
        svg.text(x + 20, 50, label)
    svg.line(760, 46, 790, 46, GREEN, 3)
    svg.text(796, 50, "block under way")
    y = 70
    left, right = 80, 970
    for r, height in zip(rows, panel):
        end = max(s["end"] for rank in r["ranks"] for s in rank["spans_ms"])

        def place(ms):
            return left + ms / end * (right - left)

        cost = 100 * (r["ring_over_one"]["median"] - 1)
        svg.text(left, y + 20, f'{r["name"]}: {end:.1f} ms, {r["threads_per_rank"]} thread(s) per rank; median cost over '
                 f'one rank {cost:.1f} %; {r["messages"]["sent"]:.0f} messages, {r["bytes"]["sent"] / 2 ** 20:.1f} MiB', 12,
                 weight="bold")
        y0 = y + 30
        step = 10 ** math.floor(math.log10(end / 4)) if end > 0 else 1
        step *= next(f for f in (1, 2, 5, 10) if end / (f * step) <= 10)
        for i in range(int(end / step) + 1):
            x = place(i * step)
            svg.line(x, y0, x, y0 + 44 * len(r["ranks"]))
            svg.text(x, y0 + 44 * len(r["ranks"]) + 14, f"{i * step:g} ms", 10, "middle", PALE)
        for i, rank in enumerate(r["ranks"]):
            lane = y0 + 44 * i + 6
            svg.text(left - 8, lane + 19, f"rank {i}", 12, "end")
            svg.rect(left, lane, right - left, 26, "#f3f3f3")
            for s in sorted(rank["spans_ms"], key=lambda s: s["kind"] == "copy"):  # copies lie within steps
                tip = f'{s["kind"]} {s["begin"]:.3f} to {s["end"]:.3f} ms' + (f', {s["bytes"] / 1024:.0f} KiB' if s["bytes"] else "")
                x, w = place(s["begin"]), place(s["end"]) - place(s["begin"])
                if s["kind"] == "flight":
                    svg.rect(x, lane + 28, w, 4, GREEN, tip, 0.55)
                else:
                    svg.rect(x, lane, w, 26, colours[s["kind"]], tip)
        y += height
    svg.write(target)


def peers(source, target, only=""):
    rows = [r for r in latest(read(source, "peers"))
            if r.get("ours") and r.get("peer_gflops") and re.search(only, r["name"])]
    if not rows:
        sys.exit("no peers lines in " + source)
    svg = Svg(990, 110 + 32 * len(rows), "GFLOP/s, ours beside the peer in one run")
    left, right, top = 400, 860, 60
    high = max(max(r["ours"]["median"], r["peer_gflops"]["median"]) for r in rows) * 1.05
    svg.rect(left, 36, 12, 12, BLUE)
    svg.text(left + 18, 46, "ringattn")
    svg.rect(left + 100, 36, 12, 12, ORANGE)
    svg.text(left + 118, 46, "peer")
    for i, r in enumerate(rows):
        y = top + 32 * i
        svg.text(left - 8, y + 19, f'{r["name"]} / {r["peer"]}', 11, "end")
        wrong = any(e["max"] > 0.01 for e in (r.get("error_peer") or {}).values() if "-fp32-" in r["name"])
        for j, (key, colour) in enumerate([("ours", BLUE), ("peer_gflops", ORANGE)]):
            w = r[key]["median"] / high * (right - left)
            svg.rect(left, y + 3 + 12 * j, w, 11, colour, f'{r[key]["median"]:.1f} GFLOP/s')
        svg.text(left + max(r["ours"]["median"], r["peer_gflops"]["median"]) / high * (right - left) + 6, y + 19,
                 f'x {r["ratio"]["median"]:.2f}' + (", wrong" if wrong else ""), 11)
    svg.text(left, top + 32 * len(rows) + 26, machine_line(rows[0]), 11, "start", PALE)
    svg.write(target)


def gpu(source, target):
    with open(source, encoding="utf-8") as file:
        run = json.load(file)
    cases = {}
    for r in run["measured"]:
        if "head_dim" not in r or "skipped" in r or r.get("precision") != "bf16" or r["ranks"] != 1:
            continue
        where = (r["pass"].split(",")[0], r["head_dim"], r["mask"], r["batch"], r["seq"], r["heads"], r["kv_heads"])
        engine = r["engine"].split()[-1] + "".join(f" {kind}" for kind in ("atomic", "deterministic") if kind in r["pass"])
        cases.setdefault(where, {})[engine] = r["tflops"]
    cases = {k: v for k, v in sorted(cases.items(), key=lambda c: (c[0][0] == "backward", c[0][1:])) if len(v) > 1}
    engines = [("ringattn", BLUE, "ours, sm80 kernels"), ("ringattn atomic", VIOLET, "ours, atomic dQ"),
               ("flash", ORANGE, "FlashAttention-2"), ("flash deterministic", INK, "FA2, deterministic"),
               ("cudnn", PALE, "cuDNN (Hopper kernels)")]
    engines = [e for e in engines if any(e[0] in c for c in cases.values())]
    left, right, top, height = 250, 860, 76, 10 + 12 * max(4, len(engines))
    high = max(max(c.values()) for c in cases.values()) * 1.05
    svg = Svg(900, top + height * len(cases) + 40, f'Attention on one {run["card"]}, bf16, TFLOP/s')
    for i, (_, colour, label) in enumerate(engines):
        svg.rect(20 + 160 * i, 40, 12, 12, colour)
        svg.text(38 + 160 * i, 50, label, 11)
    for i, (where, values) in enumerate(cases.items()):
        kind, dim, mask, batch, seq, heads, kv_heads = where
        y = top + height * i
        svg.text(left - 8, y + 20, f"{kind}, D{dim}, {mask}", 12, "end")
        svg.text(left - 8, y + 36, f"batch {batch}, {seq} rows, {heads}/{kv_heads} heads", 10, "end", PALE)
        for j, (engine, colour, _) in enumerate(e for e in engines if e[0] in values):
            width = values[engine] / high * (right - left)
            svg.rect(left, y + 4 + 12 * j, width, 11, colour, f"{engine}: {values[engine]:.0f} TFLOP/s")
            svg.text(left + width + 5, y + 13 + 12 * j, f"{values[engine]:.0f}", 10)
    svg.write(target)


def training(source, target, zeroed):
    def losses(path, column):
        with open(path, encoding="utf-8", newline="") as file:
            return [(int(r["step"]), float(r[column])) for r in csv.DictReader(file) if r[column]]

    runs = [("attention", BLUE, source), ("attention zeroed", ORANGE, zeroed)]
    train, held_out = ([losses(path, f"{what}_bits_per_byte") for _, _, path in runs] for what in ("train", "held_out"))
    steps = max(x for curve in train for x, _ in curve)
    high = math.ceil(max(y for curve in train + held_out for _, y in curve))
    svg = Svg(900, 420, "Training on a ring")
    left, right, top, bottom = 70, 860, 44, 370

    def place(x, y):
        return left + x / steps * (right - left), bottom - y / high * (bottom - top)

    for y in range(high + 1):
        svg.line(left, place(0, y)[1], right, place(0, y)[1])
        svg.text(left - 8, place(0, y)[1] + 4, str(y), 11, "end", PALE)
    for i in range(6):
        svg.text(place(steps * i / 5, 0)[0], bottom + 16, f"{steps * i / 5:.0f}", 11, "middle", PALE)
    svg.text((left + right) / 2, bottom + 38, "step", 12, "middle")
    svg.text(24, (top + bottom) / 2, "bits per byte", 12, "middle", turn=-90)
    for i, (name, colour, _) in enumerate(runs):
        svg.path([place(*at) for at in train[i]], colour, 0.7)
        svg.path([place(*at) for at in held_out[i]], colour, 2)
        for at in held_out[i]:
            svg.dot(*place(*at), 3, colour, False, f"step {at[0]}: {at[1]:.3f} bits per byte, held out")
        svg.dot(right - 250, top + 18 + 18 * i, 4, colour, False, "")
        svg.text(right - 238, top + 22 + 18 * i, f"{name}: {held_out[i][-1][1]:.3f} held out", 12)
    svg.text(right - 238, top + 22 + 18 * len(runs), "thin: the windows trained on", 11, "start", PALE)
    svg.write(target)


if __name__ == "__main__":
    kinds = {"roofline": roofline, "bars": bars, "timeline": timeline, "peers": peers, "gpu": gpu, "training": training}
    if len(sys.argv) < 4 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    sys.exit(kinds[sys.argv[1]](*sys.argv[2:]))
