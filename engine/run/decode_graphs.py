"""Decode steps of fixed sizes: recorded once as CUDA graphs, then replayed with one launch each.

A decode step has one token a row, or a few if drafts follow it. It is padded to the next size in the list, by rows
whose KV goes to a block that no request owns and whose result goes to a slot that nobody reads. Rows with fewer tokens
than the step is wide have such tokens in front. Without a GPU the padded step is run as it is.
"""

from __future__ import annotations

import bisect
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...scheduler import StepPlan
from .drafts import MOST_DRAFTING_ROWS
from .step_arrays import StepShape


def default_buckets(max_running: int) -> tuple[int, ...]:
    """1, 2, 4, then every multiple of 8 up to the first that holds `max_running` rows, at most 256."""
    sizes = (1, 2, 4, *range(8, 257, 8))
    return sizes[: bisect.bisect_left(sizes, max_running) + 1]


@dataclass(frozen=True, slots=True)
class StepSize:
    """A padded step: so many rows of so many tokens each."""

    rows: int
    tokens: int

    @property
    def shape(self) -> StepShape:
        """Of its inputs. Every token has a result."""
        count = self.rows * self.tokens
        return StepShape(count, self.rows, count)


class DecodeGraphs:
    """The padded sizes, and what runs a step of each."""

    def __init__(self, buckets: Sequence[int], draft_tokens: int, run: Callable[[StepSize], None]) -> None:
        """`buckets`: numbers of rows. `draft_tokens`: with that many drafts, steps of few rows are as much wider.
        `run`: execute the padded step of a size on inputs that are on the device already.

        Raises ValueError unless `buckets` are positive and increasing.
        """
        if list(buckets) != sorted({size for size in buckets if size > 0}):
            raise ValueError(f"decode_buckets={list(buckets)} is invalid: give increasing numbers of at least 1")
        self._width = 1 + draft_tokens
        self._rows = {1: tuple(buckets)}
        if draft_tokens:
            self._rows[self._width] = tuple(size for size in buckets if size <= MOST_DRAFTING_ROWS)
        self._run = run
        self._graphs: dict[StepSize, torch.cuda.CUDAGraph] = {}

    @property
    def sizes(self) -> list[StepSize]:
        """All of them, the one with the most tokens first."""
        sizes = [StepSize(rows, width) for width, buckets in self._rows.items() for rows in buckets]
        return sorted(sizes, key=lambda size: -size.shape.tokens)

    def size_for(self, plan: StepPlan) -> StepSize | None:
        """The size that this step is padded to; None if it is no decode step, or larger than all sizes."""
        width = 1
        if plan.tokens != plan.rows:
            width = self._width
            decodes = plan.num_tokens <= np.maximum(plan.outputs, 1)
            # Padding in front of a row's tokens stands where its earlier ones are.
            if not (decodes.all() and plan.num_tokens.max() <= width <= (plan.start + plan.num_tokens).min()):
                return None
        buckets = self._rows.get(width, ())
        if not buckets or plan.rows > buckets[-1]:
            return None
        return StepSize(buckets[bisect.bisect_left(buckets, plan.rows)], width)

    def replay(self, size: StepSize) -> None:
        """Run the step whose inputs are on the device."""
        graph = self._graphs.get(size)
        if graph is None:
            self._run(size)
        else:
            graph.replay()

    def capture(
        self,
        stream: torch.cuda.Stream | None,
        prepare: Callable[[StepSize], None],
        progress: Callable[[int, int, float], None],
    ) -> None:
        """Run a step of every size, and record it on `stream`, the largest first: the others fit into its memory.

        `prepare`: put inputs of a size on the device whose rows all pad. `progress` is told how many sizes are done,
        how many there are, and the seconds since the start. Without a stream nothing is recorded.
        """
        start = time.monotonic()
        pool: Any = None if stream is None else torch.cuda.graph_pool_handle()
        gc.collect()  # a collection during a recording could free memory of the device, which ends it
        gc.disable()
        try:
            sizes = self.sizes
            for done, size in enumerate(sizes, start=1):
                prepare(size)
                self._run(size)  # compiles kernels and makes the libraries take their workspaces
                if stream is not None:
                    stream.synchronize()
                    self._graphs[size] = self._record(size, pool)
                progress(done, len(sizes), time.monotonic() - start)
        finally:
            gc.enable()

    def _record(self, size: StepSize, pool: Any) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            self._run(size)
        finally:
            graph.capture_end()
        return graph
