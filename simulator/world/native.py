"""The replicas stepped by the native module: the same events in the same order, without a Python visit for each step.

It links the scheduler's objects, so decisions are those of the same source; times are those of the same roofline, to
the bit. Everything else (clients, routers, outages) stays in simpy and Python, which are asked when a call ends.
"""

from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...scheduler import CHECKED, SPEC_HASH
from ..cost.roofline import Roofline
from ..policies import WatchedPolicy
from ..recording.recorder import CallColumns, Recording
from ..recording.steps import joined
from ..workload.workload import Call
from .clock import FOREVER, Clock
from .cluster import Cluster

WRITTEN: Final = (
    "admitted_ns",
    "first_token_ns",
    "finish_ns",
    "hit_tokens",
    "host_hit_tokens",
    "output_tokens",
    "retractions",
)
"""Columns of the calls that the native module writes in place."""


def native_module() -> Any:
    """The module, or None where it cannot stand in for the scheduler that is loaded."""
    if CHECKED:
        return None
    try:
        module = import_module(".._native", __package__)
    except ModuleNotFoundError:
        return None
    return module if module.SPEC_HASH == SPEC_HASH else None


class NativeFleet:
    """Replicas of a cluster with a roofline. Between two events of clients they run on their own."""

    def __init__(
        self,
        module: Any,
        clock: Clock,
        cluster: Cluster,
        block_size: int,
        calls: CallColumns,
        on_finish: Callable[[int, int], None],
    ) -> None:
        """module: from `native_module`. on_finish: called with (call index, now)."""
        assert isinstance(cluster.cost, Roofline)
        self._clock = clock
        self._cluster = cluster
        self._calls = calls
        self._on_finish = on_finish
        self._watched = [WatchedPolicy(cluster.policy) for _ in range(cluster.replicas)]
        self._fleet = module.Fleet(
            cluster.scheduler_config(block_size),
            asdict(cluster.cost),
            cluster.host_step_ns,
            [watched.policy for watched in self._watched],
            {name: getattr(calls, name) for name in WRITTEN},
        )

    def submit(self, replica: int, call: Call, now: int) -> str | None:
        """Queue a call on a replica; why not, if its scheduler rejects it."""
        reason: str = self._fleet.submit(
            replica, call.index, call.prompt_tokens, call.page_hashes, call.output_tokens, now
        )
        return reason or None

    def fail(self, replica: int, now: int) -> list[int]:
        """The replica loses everything; returns the calls that it lost, in the order they were sent."""
        self._watched[replica] = WatchedPolicy(self._cluster.policy)
        lost: list[int] = self._fleet.fail(replica, now, self._watched[replica].policy)
        return lost

    def stored_pages(self, replica: int, pages: NDArray[np.uint64]) -> int:
        """How many of these pages, from the first on, its KV events say are on the device."""
        count: int = self._fleet.stored_pages(replica, pages)
        return count

    def run(self) -> None:
        """Until nothing is left to happen."""
        clock, advance, step = self._clock, self._fleet.advance, self._clock.environment.step
        watched = [each for each in self._watched if not isinstance(each.policy, str)]
        while True:
            until = clock.next_time()
            now, ended = advance(until)
            for policy in watched:
                policy.raise_errors()
            if ended:
                for call in ended:
                    self._on_finish(call, now)
            elif until == FOREVER:
                return
            else:
                step()

    def states(self) -> list[tuple[int, int]]:
        """(running, waiting) calls of each replica."""
        states = [self._fleet.state(replica) for replica in range(self._cluster.replicas)]
        return [(running, waiting) for running, waiting, _ in states]

    def freeze(self) -> Recording:
        """What happened."""
        steps = joined([self._fleet.steps(replica) for replica in range(self._cluster.replicas)])
        return self._calls.freeze(steps, self._cluster.num_blocks)
