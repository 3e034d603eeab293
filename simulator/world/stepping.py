"""The replicas stepped one event at a time through simpy: any cost model, any build of the scheduler, traces."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...scheduler.trace_file import TraceFile
from ..recording.recorder import CallColumns, Recording
from ..recording.steps import recorded
from ..workload.workload import Call
from .clock import Clock
from .cluster import Cluster
from .replica import Replica


class SteppedFleet:
    """Replicas that live in simpy's queue like everything else."""

    def __init__(
        self,
        clock: Clock,
        cluster: Cluster,
        block_size: int,
        calls: CallColumns,
        on_finish: Callable[[int, int], None],
        trace_paths: Sequence[Path] = (),
    ) -> None:
        """on_finish: called with (call index, now). Raises OSError if a trace cannot be opened."""
        self._clock = clock
        self._cluster = cluster
        self._calls = calls
        config = cluster.scheduler_config(block_size, record_trace=bool(trace_paths))
        self.replicas = [
            Replica(clock, index, config, cluster.cost, cluster.host_step_ns, calls, on_finish, cluster.policy)
            for index in range(cluster.replicas)
        ]
        for replica, path in zip(self.replicas, trace_paths, strict=False):
            replica.trace = TraceFile(path, replica.scheduler)

    def submit(self, replica: int, call: Call, now: int) -> str | None:
        """Queue a call on a replica; why not, if its scheduler rejects it."""
        return self.replicas[replica].submit(call, now)

    def fail(self, replica: int, now: int) -> list[int]:
        """The replica loses everything; returns the calls that it lost, in the order they were sent."""
        return self.replicas[replica].fail(now)

    def stored_pages(self, replica: int, pages: NDArray[np.uint64]) -> int:
        """How many of these pages, from the first on, its KV events say are on the device."""
        stored = self.replicas[replica].stored
        signed = pages.view(np.int64)
        low, high = 0, len(signed)  # a block is evicted before those that it stands behind
        while low < high:
            middle = (low + high + 1) // 2
            if int(signed[middle - 1]) in stored:
                low = middle
            else:
                high = middle - 1
        return low

    def run(self) -> None:
        """Until nothing is left to happen. Raises OSError if a trace cannot be written."""
        self._clock.environment.run()
        for replica in self.replicas:
            replica.watched.raise_errors()
            if replica.trace is not None:
                replica.trace.close()

    def states(self) -> list[tuple[int, int]]:
        """(running, waiting) calls of each replica."""
        stats = [replica.scheduler.stats() for replica in self.replicas]
        return [(level.running, level.waiting) for level in stats]

    def freeze(self) -> Recording:
        """What happened."""
        return self._calls.freeze(recorded([replica.steps for replica in self.replicas]), self._cluster.num_blocks)
