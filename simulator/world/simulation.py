"""One simulation: clients, replicas and the clock between them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ConfigurationError, SimulationStalled
from ..recording.recorder import CallColumns, Recording
from ..routing import make_router
from ..workload.workload import Workload
from .clients import Clients
from .clock import Clock
from .cluster import Cluster
from .dispatcher import Dispatcher
from .stepping import SteppedFleet


def simulate(
    workload: Workload,
    cluster: Cluster,
    progress: Callable[[int], None] | None = None,
    trace_paths: Sequence[Path] = (),
) -> Recording:
    """Run `workload` on `cluster` until every call has ended. The same arguments give the same recording.

    progress: called with the number of calls ended so far, for each call. trace_paths: one file for each replica, or
    none; the schedulers' transitions are written there. Raises PolicyFailed if a policy does, SimulationStalled if
    calls are left but no event is, and ConfigurationError if a trace cannot be written.
    """
    clock = Clock(cluster.replicas)
    calls = CallColumns.of(len(workload.calls))
    ended = 0

    def on_end(_: int) -> None:
        nonlocal ended
        ended += 1
        if progress is not None:
            progress(ended)

    try:
        fleet = SteppedFleet(
            clock, cluster, workload.block_size, calls, lambda call, now: dispatcher.finished(call, now), trace_paths
        )
        dispatcher = Dispatcher(
            clock,
            workload,
            fleet,
            make_router(cluster.router),
            cluster.replicas,
            cluster.max_context,
            calls,
            lambda call, now: clients.completed(call, now),
        )
        for outage in cluster.outages:
            dispatcher.plan_outage(outage)
        clients = Clients(clock, workload, dispatcher.send, on_end, dispatcher.session_ended)
        fleet.run()
    except OSError as error:
        raise ConfigurationError(f"the trace {error.filename or ''} cannot be written: {error.strerror}") from error
    left = len(workload.calls) - ended
    if left:
        states = ", ".join(
            f"replica {index} has {running} running and {waiting} waiting calls"
            for index, (running, waiting) in enumerate(fleet.states())
        )
        raise SimulationStalled(f"{left} calls never ended although nothing is left to happen; {states}")
    return fleet.freeze()
