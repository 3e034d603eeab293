"""The verb `profile`: measures a model's steps on the device at hand and writes the table that the simulator reads."""

from __future__ import annotations

import csv
import subprocess
import time
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.progress import Progress

from ...kernels.workbench.hardware import machine
from ..checkpoints.loader import load_checkpoint
from ..run.decode_graphs import default_buckets
from ..run.memory import explained, memory_for_blocks
from ..run.runner import ModelRunner
from .steps import StepTimer, grid

CPU_KV_MEMORY: Final = 2**30
"""Bytes of the cache on a CPU."""
COLUMNS: Final = ("device", "model", "dtype", "kv_dtype", "tp", "rows", "tokens", "context", "ns")
"""What the simulator reads; `simulator/cost/table.py` says what they hold."""


def run_profile(
    *,
    model: str,
    load_format: str,
    out: Path,
    device_name: str | None,
    model_name: str | None,
    max_running: int,
    max_step_tokens: int,
    max_context: int,
    block_size: int,
) -> int:
    """Measure and write a CSV file; returns the exit status.

    `device_name`, `model_name`: how the simulator calls them; None takes the last word of the device's own name, and
    the checkpoint's name. Raises ValueError, with what to change, if the model or a limit cannot work.
    """
    console = Console(highlight=False)
    checkpoint = load_checkpoint(model, load_format)
    on_gpu = torch.cuda.is_available()
    with explained("the weights", "take a smaller model"):
        built = checkpoint.build(torch.bfloat16, "cuda" if on_gpu else "cpu")
    buckets = default_buckets(max_running) if on_gpu else ()
    sizes = {"block_size": block_size, "max_running": max_running, "max_step_tokens": max_step_tokens}
    memory = CPU_KV_MEMORY
    if on_gpu:
        memory = memory_for_blocks(
            built,
            block_size=block_size,
            max_running=max_running,
            max_step_tokens=max_step_tokens,
            decode_buckets=buckets,
        )
    longest = min(max_context, built.max_positions)
    blocks = min(memory // built.cache_layout.bytes_per_block(block_size), max_running * -(-longest // block_size))
    runner = ModelRunner(built, num_blocks=blocks, decode_buckets=buckets, **sizes)
    runner.capture()
    timer = StepTimer(runner)
    points = [point for point in grid(max_running, max_step_tokens, longest) if timer.fits(point)]
    hardware = machine(built.device)
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        **{name: str(value) for name, value in hardware.items() if name != "device"},
        "hardware": hardware["device"],
    }
    own = {
        "device": device_name or hardware["device"].split()[-1].lower(),
        "model": model_name or checkpoint.name,
        "dtype": "bf16",
        "kv_dtype": "bf16",
        "tp": "1",
    }
    with out.open("w", newline="", encoding="utf-8") as file, Progress(console=console, transient=True) as progress:
        writer = csv.DictWriter(file, [*COLUMNS, *about])
        writer.writeheader()
        task = progress.add_task("measuring", total=len(points))
        for point in points:
            found = timer.measure(point)
            numbers = {"rows": found.rows, "tokens": found.tokens, "context": found.context, "ns": found.ns}
            writer.writerow({**own, **numbers, **about})
            progress.update(task, advance=1, description=f"{point.rows} x {point.tokens} of {point.context}")
    console.print(f"{len(points)} points in {out}; use them with: tokenspeed simulate --cost {out}")
    return 0


def _commit() -> str:
    """Of the source tree, if it is one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
