"""One simulation: clients, replicas and the clock between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import simpy

from ...scheduler import Policy, SchedulerConfig
from ...scheduler.trace_file import TraceFile
from ..cost.roofline import HOST_STEP_S, CostModel, PrefillFigures
from ..errors import ConfigurationError, SimulationStalled
from ..recording.recorder import Recorder, Recording
from ..timebase import seconds_to_ns
from ..workload.workload import Call, Workload
from .clients import Clients
from .replica import Replica

PREFILL = PrefillFigures(tokens_per_s=2e4, doubling_tokens=0)
"""What a cluster assumes if it is not told."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal replicas behind a router."""

    replicas: int
    cost: CostModel
    num_blocks: int
    """KV blocks of each replica."""
    max_running: int
    max_step_tokens: int
    overlap_depth: int
    host_step_ns: int = seconds_to_ns(HOST_STEP_S)
    num_host_blocks: int = 0
    """Host pages of each replica; 0: no host tier."""
    host_copy_tokens_per_s: float = 1e6
    """KV that crosses the link between device and host in one direction."""
    prefill: PrefillFigures = PREFILL
    """What the scheduler weighs copies against."""
    policy: str | Policy = "default"
    """A built-in one by name, or one of your own, which all replicas share."""

    def scheduler_config(self, block_size: int, record_trace: bool = False) -> SchedulerConfig:
        """The scheduler's view. Raises ConfigurationError naming the setting that cannot work."""
        try:
            return SchedulerConfig(
                num_blocks=self.num_blocks,
                block_size=block_size,
                max_running=self.max_running,
                max_step_tokens=self.max_step_tokens,
                overlap_depth=self.overlap_depth,
                num_host_blocks=self.num_host_blocks,
                host_copy_tokens_per_s=self.host_copy_tokens_per_s,
                prefill_tokens_per_s=self.prefill.tokens_per_s,
                prefill_doubling_tokens=self.prefill.doubling_tokens,
                record_trace=record_trace,
            )
        except ValueError as error:
            raise ConfigurationError(f"the scheduler cannot work with these settings: {error}") from error


def simulate(
    workload: Workload,
    cluster: Cluster,
    progress: Callable[[int], None] | None = None,
    trace_paths: Sequence[Path] = (),
) -> Recording:
    """Run `workload` on `cluster` until every call has ended. The same arguments give the same recording.

    progress: called with the number of calls ended so far, for each call. trace_paths: one file for each replica, or
    none; the schedulers' transitions are written there. Raises SimulationStalled if calls are left but no event is, and
    ConfigurationError if a trace cannot be written.
    """
    environment = simpy.Environment()
    recorder = Recorder(len(workload.calls))
    config = cluster.scheduler_config(workload.block_size, record_trace=bool(trace_paths))
    ended = 0

    def on_end(_: int) -> None:
        nonlocal ended
        ended += 1
        if progress is not None:
            progress(ended)

    replicas = [
        Replica(
            environment,
            index,
            config,
            cluster.cost,
            cluster.host_step_ns,
            recorder,
            lambda *end: clients.completed(*end),
            cluster.policy,
        )
        for index in range(cluster.replicas)
    ]
    router = Router(replicas)
    clients = Clients(environment, workload, lambda call, now: router.choose(call).submit(call, now), on_end)
    try:
        for replica, path in zip(replicas, trace_paths, strict=False):
            replica.trace = TraceFile(path, replica.scheduler)
        environment.run()
        for replica in replicas:
            if replica.trace is not None:
                replica.trace.close()
    except OSError as error:
        raise ConfigurationError(f"the trace {error.filename or ''} cannot be written: {error.strerror}") from error
    left = len(workload.calls) - ended
    if left:
        states = ", ".join(_state(replica) for replica in replicas)
        raise SimulationStalled(f"{left} calls never ended although nothing is left to happen; {states}")
    return recorder.freeze(cluster.num_blocks)


class Router:
    """Sends the calls of a session to one replica, chosen as the least loaded when the session starts."""

    def __init__(self, replicas: list[Replica]) -> None:
        self._replicas = replicas
        self._replica_of: dict[int, Replica] = {}

    def choose(self, call: Call) -> Replica:
        """The replica of the call's session; for a new session the first of those with the fewest live calls."""
        replica = self._replica_of.get(call.session)
        if replica is None:
            replica = min(self._replicas, key=lambda candidate: candidate.live_calls)
            self._replica_of[call.session] = replica
        return replica


def _state(replica: Replica) -> str:
    stats = replica.scheduler.stats()
    return f"replica {replica.index} has {stats.running} running and {stats.waiting} waiting calls"
