"""What the device does in one decode step: a table of its kernels and a picture of the time line."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from decode import Engine
from torch.profiler import ProfilerActivity, profile

KINDS = (
    ("matrix products", r"gemm|nvjet|cutlass|gemv|splitKreduce|cublas"),
    ("attention", r"attend|merge|mla|flash|fmha|fill_plan"),
    ("KV cache", r"scatter_token"),
    ("experts", r"grouped|route|moe|gather|sort"),
    ("norms", r"normalise_row"),
    ("rotary", r"turn|rotary|rotate"),
    ("activation", r"silu|activate|gate"),
    ("sampling", r"sample_row"),
    ("copies", r"Memcpy|Memset"),
)
COLOURS = ("#4878d0", "#ee854a", "#2a9d8f", "#6acc64", "#d65f5f", "#956cb4", "#8c613c", "#dc7ec0", "#797979", "#d5bb67")


def kind_of(name: str) -> str:
    """What a kernel is for."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")


def profile_step(engine: Engine, batch: int, context: int, folder: Path) -> dict[str, Any]:
    """Profile a short run, keep one step from its middle, write its picture and return its table."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        engine.decode(batch, context, 40)
    trace = folder / "trace.json"
    recorded.export_chrome_trace(str(trace))
    events = [
        event
        for event in json.loads(trace.read_text())["traceEvents"]
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    trace.unlink()
    events.sort(key=lambda event: event["ts"])
    # A step begins with the copy of its inputs.
    begins = [i for i, event in enumerate(events) if "HtoD" in event["name"]]
    wanted = begins[len(begins) // 2 : len(begins) // 2 + 2]
    own = events[wanted[0] : wanted[1]]
    start, length = own[0]["ts"], events[wanted[1]]["ts"] - own[0]["ts"]
    time_us: dict[str, float] = defaultdict(float)
    number: dict[str, int] = defaultdict(int)
    for event in own:
        time_us[kind_of(event["name"])] += event["dur"]
        number[kind_of(event["name"])] += 1
    busy = sum(time_us.values())
    name = f"step_{engine.shape}_{batch}x{context}"
    draw(own, start, length, folder / f"{name}.png", f"one decode step, {batch} x {context}: {length / 1e3:.2f} ms")
    slowest: dict[str, float] = defaultdict(float)
    for event in own:
        slowest[event["name"][:90]] += event["dur"]
    return {
        "batch": batch,
        "context": context,
        "step_ms": length / 1e3,
        "busy_ms": busy / 1e3,
        "idle_percent": 100 * (1 - busy / length),
        "kernels": len(own),
        "by_kind_ms": {kind: round(us / 1e3, 4) for kind, us in sorted(time_us.items(), key=lambda x: -x[1])},
        "kernels_by_kind": dict(number),
        "slowest_ms": {n: round(us / 1e3, 4) for n, us in sorted(slowest.items(), key=lambda x: -x[1])[:12]},
    }


def draw(events: list[dict[str, Any]], start: float, length: float, target: Path, title: str) -> None:
    """A bar for each kernel over the whole step, and below it the step's third layer, enlarged."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    kinds = [*(kind for kind, _ in KINDS), "other"]
    norms = [event["ts"] for event in events if kind_of(event["name"]) == "norms"]
    window = (norms[6], norms[8]) if len(norms) > 8 else (start, start + length)
    figure, (whole, layer) = pyplot.subplots(2, 1, figsize=(12, 5))
    for axes, (first, last) in ((whole, (start, start + length)), (layer, window)):
        for kind, colour in zip(kinds, COLOURS, strict=True):
            bars = [
                (event["ts"] - first, event["dur"])
                for event in events
                if kind_of(event["name"]) == kind and first <= event["ts"] < last
            ]
            axes.broken_barh(bars, (kinds.index(kind) - 0.4, 0.8), facecolors=colour)
        axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
        axes.set_xlim(0, last - first)
        axes.set_xlabel("microseconds")
    whole.set_title(title)
    layer.set_title("one of its layers", fontsize=10)
    figure.legend(
        handles=[Patch(color=c, label=k) for k, c in zip(kinds, COLOURS, strict=True)],
        ncols=9,
        fontsize=7,
        loc="lower center",
    )
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
    torch.cuda.synchronize()
