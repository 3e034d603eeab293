"""Drives one build of the scheduler's extension: reads how many steps to make, and answers their times.

drive.py MODULE BATCH CONTEXT STEPS       (numbers on stdin; one line of nanoseconds for each)
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import time

import numpy as np

PAGE = 64
BUDGET = 65_536


def main(path: str, batch: int, context: int, steps: int) -> None:
    """Bring `batch` requests of `context` tokens to decoding, with room for `steps` more tokens each."""
    spec = importlib.util.spec_from_file_location("_core", path)
    assert spec is not None and spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    output = steps + 400
    blocks = batch * ((context + output) // PAGE + 2)
    config = core.SchedulerConfig(
        num_blocks=blocks, block_size=PAGE, max_running=batch, max_step_tokens=BUDGET, overlap_depth=0
    )
    scheduler = core.Scheduler(config)
    rng = np.random.default_rng(0)
    for request in range(batch):
        scheduler.submit(request, rng.integers(0, 100_000, context, dtype=np.int32), output)
    results = np.full(batch, 7, dtype=np.int32)

    def step() -> int:
        start = time.perf_counter_ns()
        plan = scheduler.plan()
        scheduler.land(plan.step, results[: plan.sampling_rows])
        return time.perf_counter_ns() - start

    while scheduler.stats().scheduled_tokens < batch * context:
        step()
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        print(*[step() for _ in range(int(line))], flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
