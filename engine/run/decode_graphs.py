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

    def capture(
        self,
        stream: torch.cuda.Stream | None,
        prepare: Callable[[int], None],
        progress: Callable[[int, int, float], None],
    ) -> None:
        """Run a step of every size, and record it on `stream`, the largest first: the others fit into its memory.

        `prepare`: put inputs of a size on the device whose rows all pad. `progress` is told how many sizes are done,
        how many there are, and the seconds since the start. Without a stream nothing is recorded.
        """
        start = time.monotonic()
        pool = None if stream is None else torch.cuda.graph_pool_handle()
        gc.collect()  # a collection during a recording could free memory of the device, which ends it
        gc.disable()
        try:
            for done, bucket in enumerate(reversed(self.buckets), start=1):
                prepare(bucket)
                self._run(bucket)  # compiles kernels and makes the libraries take their workspaces
                if stream is not None:
                    stream.synchronize()
                    self._graphs[bucket] = self._record(bucket, pool)
                progress(done, len(self.buckets), time.monotonic() - start)
        finally:
            gc.enable()

    def _record(self, bucket: int, pool: tuple[int, int] | None) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            self._run(bucket)
        finally:
            graph.capture_end()
        return graph
