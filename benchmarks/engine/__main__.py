"""Measures whole steps of the engine on a GPU: scheduler, control loop, runner and model, without HTTP.

    python benchmarks/engine --out FILE.json [--shape llama-3-8b] [--profile FOLDER]

For each batch and context: the time of a step as the loop sees it, the time of the step's kernels alone (its graph
replayed back to back), how long the device had nothing to do between two steps, and the least time that the memory
allows (weights and KV once, at 3.0 TB/s). The prompts' KV is made up, for only decode is measured here; then prefill
chunks, and decode steps that carry one, are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from decode import Engine, measure_decode, measure_prefill
from shapes import SHAPES, build
from step_profile import profile_step

from tokenspeed.kernels.workbench.hardware import machine

KV_BYTES = 100e9
"""Of the device's memory, for the cache."""
BATCHES = (1, 8, 32, 128)
CONTEXTS = (1024, 8192, 50_000)
PREFILLS = ((8192, 0, 0), (8192, 32768, 0), (2048, 0, 0), (2048, 0, 32), (0, 0, 32))
"""Tokens of the chunk, cached tokens before it, rows that decode beside it."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-3-8b")
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--overlap", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--no-prefill", action="store_true")
    parser.add_argument("--commit", help="of the tree, where git cannot tell")
    parser.add_argument("--profile", type=Path, help="folder for a trace and a table of one step")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: this measurement needs a CUDA device, and torch sees none")
    device = torch.device("cuda", torch.cuda.current_device())
    begin = time.perf_counter()
    model = build(options.shape, device)
    torch.cuda.synchronize()
    loaded = time.perf_counter() - begin
    tokens = int(min(KV_BYTES / model.cache_layout.bytes_per_token, 4e6))
    begin = time.perf_counter()
    engine = Engine(
        options.shape,
        model,
        num_blocks=tokens // options.block_size,
        block_size=options.block_size,
        overlap_depth=options.overlap,
    )
    report: dict[str, Any] = {
        "machine": machine(device) | {"torch": torch.__version__, "cuda": torch.version.cuda},
        "command": " ".join(sys.argv[1:]),
        "commit": options.commit or commit(),
        "shape": options.shape,
        "block_size": options.block_size,
        "overlap_depth": options.overlap,
        "load_s": round(loaded, 2),
        "capture_s": round(engine.capture_seconds, 2),
        "graph_bytes": engine.graph_bytes,
        "decode": [],
        "prefill": [],
    }
    print(
        f"loaded in {loaded:.1f} s, {len(engine.buckets)} sizes recorded in {engine.capture_seconds:.1f} s, "
        f"{engine.graph_bytes / 2**20:.0f} MiB of graphs, {tokens:,} tokens of KV",
        flush=True,
    )
    for context in options.contexts:
        for batch in options.batches:
            if context + options.steps + 64 > model.max_positions:
                continue
            if batch * (context + options.steps + 160 + options.block_size) > tokens:
                continue
            row = measure_decode(engine, batch, context, options.steps)
            report["decode"].append(row)
            print(
                f"{batch:4} x {context:6}: step {row['step_ms']:7.3f} ms, kernels {row['kernels_ms']:7.3f}, "
                f"idle {row['idle_percent']:5.2f} %, roofline {row['roofline_ms']:6.3f}, "
                f"{row['tokens_per_s']:8.0f} tokens/s, host {row['host_ms']:.3f} ms",
                flush=True,
            )
            options.out.write_text(json.dumps(report, indent=1) + "\n")
    for chunk, prefix, decoding in () if options.no_prefill else PREFILLS:
        if prefix + chunk > model.max_positions:
            continue
        row = measure_prefill(engine, chunk, prefix, decoding)
        report["prefill"].append(row)
        print(
            f"chunk {chunk} behind {prefix} with {decoding} decoding: {row['step_ms']:.2f} ms, launched in "
            f"{row['launch_ms']:.2f} ms, {row['tflops']:.0f} TFLOP/s",
            flush=True,
        )
    if options.profile:
        options.profile.mkdir(parents=True, exist_ok=True)
        report["profiles"] = [profile_step(engine, batch, 1024, options.profile) for batch in (1, 32)]
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def commit() -> str:
    """The commit of the tree, or unknown where there is no repository."""
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
