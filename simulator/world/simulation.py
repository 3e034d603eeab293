"""One simulation: clients, replicas and the clock between them."""

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from ..cost.roofline import Roofline
from ..errors import ConfigurationError, SimulationStalled
from ..recording.recorder import CallColumns, Recording
from ..routing import make_router
from ..workload.workload import Workload
from .clients import Clients
from .clock import Clock
from .cluster import Cluster
from .dispatcher import Dispatcher
from .native import NativeFleet, native_module
from .stepping import SteppedFleet


class Stepping(Enum):
    """Who steps the replicas."""

    FASTEST = "fastest"
    """The native module where it can, Python where it cannot."""
    NATIVE = "native"
    PYTHON = "python"


def _chosen_module(cluster: Cluster, trace_paths: Sequence[Path], stepping: Stepping) -> Any:
    """The native module, or None if Python steps the replicas."""
    why_not = None
    if type(cluster.cost) is not Roofline:
        why_not = "its cost model is not a roofline"
    elif trace_paths:
        why_not = "its transitions are recorded"
    module = native_module() if why_not is None and stepping is not Stepping.PYTHON else None
    if stepping is Stepping.NATIVE and module is None:
        raise ConfigurationError(f"this cluster cannot be stepped natively: {why_not or 'the module is not built'}")
    return module


def simulate(
    workload: Workload,
    cluster: Cluster,
    progress: Callable[[int], None] | None = None,
    trace_paths: Sequence[Path] = (),
    stepping: Stepping = Stepping.FASTEST,
) -> Recording:
    """Run `workload` on `cluster` until every call has ended. The same arguments give the same recording.

    progress: called with the number of calls ended so far, for each call. trace_paths: one file for each replica, or
    none; the schedulers' transitions are written there. stepping: who steps the replicas; the result is the same.

    Raises PolicyFailed if a policy does, SimulationStalled if calls are left but no event is, and ConfigurationError if
    a trace cannot be written or `stepping` is not possible.
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
        finished: Callable[[int, int], None] = lambda call, now: dispatcher.finished(call, now)  # noqa: E731
        module = _chosen_module(cluster, trace_paths, stepping)
        fleet: SteppedFleet | NativeFleet
        if module is None:
            fleet = SteppedFleet(clock, cluster, workload.block_size, calls, finished, trace_paths)
        else:
            fleet = NativeFleet(module, clock, cluster, workload.block_size, calls, finished)
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
