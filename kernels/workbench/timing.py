"""Timing of kernel launches in one process: variants in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

import torch

Launches = Sequence[Callable[[], object]]
"""Calls of one variant, each on its own copy of the data: together they read more than a cache holds."""

ROTATED_BYTES = 512 * 2**20
"""Bytes that a timed round on an accelerator should touch before it touches the same again: L2 caches hold less."""


def rotations(bytes_per_call: int, device: torch.device) -> int:
    """How many copies of the data to rotate over: at least 1, at most 64; on a CPU 2."""
    if device.type != "cuda":
        return 2
    return max(1, min(64, -(-ROTATED_BYTES // max(bytes_per_call, 1))))


def measure(
    variants: Mapping[str, Launches], device: torch.device, *, rounds: int = 7, eager: Collection[str] = ()
) -> dict[str, list[float]]:
    """Microseconds of one call of each variant, one figure for each round.

    On CUDA the launches of a variant are captured into one graph and replayed between events; those named in `eager`
    (they read values on the host, say) are launched as they are, and their figure includes the host's time. Elsewhere a
    clock runs around the launches. What a launch raises is raised.
    """
    if device.type != "cuda":
        for launches in variants.values():
            launches[0]()
        return _in_turns({name: _clock(launches) for name, launches in variants.items()}, rounds)
    timers = {}
    for name, launches in variants.items():
        if name in eager:
            launches[0]()
        timers[name] = _events(launches) if name in eager else _events([captured(launches).replay], len(launches))
    return _in_turns(timers, rounds)


def captured(launches: Launches) -> torch.cuda.CUDAGraph:
    """The launches in one CUDA graph, after one that compiles. Keep alive what they write to."""
    launches[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    return graph


def elapsed_us(*launches: Callable[[], object]) -> float:
    """Microseconds on the device between events around the launches."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for launch in launches:
        launch()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e3


def _in_turns(timers: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    for timer in timers.values():
        timer()
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer())
    return times


def _clock(launches: Launches) -> Callable[[], float]:
    def timer() -> float:
        begin = time.perf_counter()
        for launch in launches:
            launch()
        return (time.perf_counter() - begin) * 1e6 / len(launches)

    return timer


def _events(launches: Launches, calls: int | None = None) -> Callable[[], float]:
    def timer() -> float:
        launches[0]()  # untimed: the variant before may have left the device idle between launches, its clock lowered
        return elapsed_us(*launches) / (calls or len(launches))

    return timer
