"""Models on two GPUs against one: the same tokens, the time of a decode step, and the share of it in collectives.

    PYTHONPATH=benchmarks python benchmarks/ranks --out FILE.json        (needs two GPUs, NCCL, torch and triton)

Equality is judged in float32 on a few layers with one set of weights for all worlds; times are of whole decode steps in
bfloat16 with random weights, recorded as CUDA graphs and replayed, the slower rank counting. A collective's time
includes waiting for the other rank. Kimi-K2's layers are timed by leaving layers out: the time of a kind of layer is
the difference of two models.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing
from measurements import Job, jobs, rank_main
from record import write


def run(job: Job, port: int) -> dict[str, object]:
    """One job on as many processes as its world has ranks; what rank 0 found."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    multiprocessing.spawn(rank_main, (job, port, answers), nprocs=job.world)
    found: dict[str, object] = answers.get()
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="measure what has this in its name")
    options = parser.parse_args()
    if torch.cuda.device_count() < 2:
        sys.exit(f"error: this measurement needs two GPUs, and torch sees {torch.cuda.device_count()}")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    results: dict[str, object] = {}
    for number, job in enumerate(jobs()):
        if options.only not in job.name:
            continue
        try:
            results[job.name] = run(job, 29500 + number)
        except Exception as error:  # one that fails must not cost what the others found
            results[job.name] = {"failed": f"{type(error).__name__}: {str(error)[-800:]}"}
        print(f"{job.name}: {results[job.name]}", flush=True)
        write(options.out, {"results": results})


if __name__ == "__main__":
    main()
