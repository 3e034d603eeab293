"""What a runner needs of a GPU's memory besides weights and KV blocks: counted before the blocks are allocated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

from ...scheduler import Scheduler, SchedulerConfig
from ..models.model import Model
from .runner import ModelRunner

RESERVE: Final = 0.03
"""Part of what is left that nobody gets: allocators and libraries take memory that no count sees."""


_GRAPH_BYTES: Final = 16 * 2**20
"""Of one recorded step; 13 MiB were measured for 443 kernels on an H200."""


class OutOfDeviceMemory(ValueError):
    """The device's memory does not suffice; the message says what to lower."""


@contextlib.contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Turn the device's out-of-memory error into one that says what was being done and what to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info()
        raise OutOfDeviceMemory(
            f"the GPU has no memory for {what}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free; {advice}"
        ) from error


def memory_for_blocks(
    model: Model, *, block_size: int, max_running: int, max_step_tokens: int, decode_buckets: Sequence[int]
) -> int:
    """Bytes of the model's GPU that KV blocks may take.

    Runs the largest prefill step and records the largest decode step on a small cache, and leaves what they took.
    Raises OutOfDeviceMemory if not even that fits.
    """
    advice = "lower --max-step-tokens or --max-running, or take a smaller model"
    tokens = min(max_step_tokens, model.max_positions - 1)
    blocks = -(-tokens // block_size) + 2
    with explained("the largest step", advice):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_reserved(model.device)
        runner = ModelRunner(
            model,
            num_blocks=blocks,
            block_size=block_size,
            max_running=max_running,
            max_step_tokens=max_step_tokens,
            decode_buckets=decode_buckets[-1:],
        )
        runner.capture()
        limits = SchedulerConfig(
            num_blocks=blocks, block_size=block_size, max_running=min(max_running, tokens), max_step_tokens=tokens
        )
        scheduler = Scheduler(limits)
        scheduler.submit(0, np.zeros(tokens, dtype=np.int32), 1)
        plan = scheduler.plan()
        assert plan is not None
        runner.execute(plan, {})
        taken = torch.cuda.max_memory_reserved(model.device) - before
        taken -= sum(pool.nbytes for pool in runner.cache.pools)
        del runner
        torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(model.device)
    # Graphs share their memory, but each keeps the parameters of its launches.
    left = int((free - taken) * (1 - RESERVE)) - _GRAPH_BYTES * len(decode_buckets)
    if left <= 0:
        raise OutOfDeviceMemory(
            f"the GPU has {free / 2**30:.1f} GiB beside the weights, and steps take {taken / 2**30:.1f}: {advice}"
        )
    return left
