"""Decode steps of fixed sizes: recorded once as CUDA graphs, then replayed with one launch each.

A decode step has one token a row. It is padded to the next size in the list, by rows whose KV goes to a block that no
request owns and whose result goes to a slot that nobody reads. Without a GPU the padded step is run as it is.
"""

from __future__ import annotations

import bisect
import gc
import time
from collections.abc import Callable, Sequence

import torch

from ...scheduler import StepPlan


def default_buckets(max_running: int) -> tuple[int, ...]:
    """1, 2, 4, then every multiple of 8 up to the first that holds `max_running` rows, at most 256."""
    sizes = (1, 2, 4, *range(8, 257, 8))
    return sizes[: bisect.bisect_left(sizes, max_running) + 1]


class DecodeGraphs:
    """The padded sizes, and what runs a step of each."""

    def __init__(self, buckets: Sequence[int], run: Callable[[int], None]) -> None:
        """`run`: execute the padded step of a size on inputs that are on the device already.

        Raises ValueError unless `buckets` are positive and increasing.
        """
        if list(buckets) != sorted({size for size in buckets if size > 0}):
            raise ValueError(f"decode_buckets={list(buckets)} is invalid: give increasing numbers of at least 1")
        self.buckets = tuple(buckets)
        self._run = run
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def bucket(self, plan: StepPlan) -> int | None:
        """The size that this step is padded to; None if it is no decode step or larger than all sizes."""
        if plan.tokens != plan.rows or not self.buckets or plan.rows > self.buckets[-1]:
            return None
        return self.buckets[bisect.bisect_left(self.buckets, plan.rows)]

    def replay(self, bucket: int) -> None:
        """Run the step whose inputs are on the device."""
        graph = self._graphs.get(bucket)
        if graph is None:
            self._run(bucket)
        else:
            graph.replay()

    def capture(self, stream: torch.cuda.Stream, progress: Callable[[int, int, float], None]) -> None:
        """Record all sizes on `stream`, the largest first: the others fit into the memory that it took.

        The inputs on the device must be those of rows that only pad. `progress` is told how many sizes are done, how
        many there are, and the seconds since the start.
        """
        start = time.monotonic()
        pool = torch.cuda.graph_pool_handle()
        gc.collect()  # a collection during a recording could free memory of the device, which ends it
        gc.disable()
        try:
            with torch.cuda.stream(stream):
                for done, bucket in enumerate(reversed(self.buckets), start=1):
                    self._run(bucket)  # compiles kernels and makes the libraries take their workspaces
                    stream.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                    try:
                        self._run(bucket)
                    finally:
                        graph.capture_end()
                    self._graphs[bucket] = graph
                    progress(done, len(self.buckets), time.monotonic() - start)
        finally:
            gc.enable()
