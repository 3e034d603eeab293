"""Levels and rates over time, exactly averaged over equal intervals of a recording."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..timebase import NS_PER_S
from .recorder import Recording


@dataclass(frozen=True, slots=True)
class Timeline:
    """Averages over intervals of equal length. Arrays are [replicas, intervals] float64."""

    edges_ns: NDArray[np.float64]
    """[intervals + 1]"""
    steps: NDArray[np.float64]
    busy: NDArray[np.float64]
    """Share of the time in which the device runs a step."""
    running: NDArray[np.float64]
    waiting: NDArray[np.float64]
    held: NDArray[np.float64]
    """Share of the KV blocks held by requests."""
    cached: NDArray[np.float64]
    """Share of the KV blocks that only the prefix cache keeps."""
    output_per_s: NDArray[np.float64]
    """Sampled tokens per second."""
    prefill_per_s: NDArray[np.float64]
    """Prompt tokens computed per second (cached ones are not)."""

    @property
    def middles_s(self) -> NDArray[np.float64]:
        """[intervals] the middle of each interval, seconds."""
        middles: NDArray[np.float64] = (self.edges_ns[1:] + self.edges_ns[:-1]) / 2 / NS_PER_S
        return middles


def span_ns(recording: Recording) -> tuple[int, int]:
    """From the first arrival to the last landing, nanoseconds; of no length if nothing ran."""
    first = int(recording.arrival_ns.min())
    ends = recording.step_runs.runs["end_ns"]
    return first, max(int(ends.max()), first + 1) if len(ends) else first + 1


def timeline(recording: Recording, replicas: int, intervals: int) -> Timeline:
    """The recording in `intervals` equal intervals from the first arrival to the last landing."""
    first, last = span_ns(recording)
    edges = np.linspace(first, last, intervals + 1)
    width_s = (last - first) / intervals / NS_PER_S
    runs = recording.step_runs.runs
    rows: dict[str, list[NDArray[np.float64]]] = {}
    for replica in range(replicas):
        mine = runs["replica"] == replica
        start, end, steps = runs["start_ns"][mine], runs["end_ns"][mine], runs["steps"][mine]
        seconds = runs["busy_ns"][mine] / NS_PER_S
        amounts = {
            "steps": steps * width_s,
            "busy": seconds,
            "running": runs["running"][mine] * seconds,
            "waiting": runs["waiting"][mine] * seconds,
            "held": runs["held_blocks"][mine] * seconds / recording.num_blocks,
            "output_per_s": (runs["sampled"][mine] * steps).astype(np.float64),
            "prefill_per_s": ((runs["tokens"] - runs["decode_rows"])[mine] * steps).astype(np.float64),
        }
        for name, amount in amounts.items():
            rows.setdefault(name, []).append(spread(start, end, amount, edges) / width_s)
        cached, held = runs["cached_blocks"][mine], runs["held_blocks"][mine]
        rows.setdefault("cached", []).append(
            _cached(start, end, cached, held, edges) / (width_s * recording.num_blocks * NS_PER_S)
        )
    return Timeline(edges, **{name: np.stack(values) for name, values in rows.items()})


def _cached(
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    cached: NDArray[np.int64],
    held: NDArray[np.int64],
    edges: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[intervals] cached blocks x nanoseconds. While a replica idles, what its last step held stays cached as well."""
    starts = np.stack([start, end], axis=1).reshape(-1)
    ends = np.append(starts[1:], max(int(edges[-1]), int(end[-1]) if len(end) else 0)) if len(starts) else starts
    blocks = np.stack([cached, cached + held], axis=1).reshape(-1)
    return spread(starts, ends, blocks * (ends - starts).astype(np.float64), edges)


def spread(
    start: NDArray[np.int64], end: NDArray[np.int64], amount: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[intervals] amounts between the edges, when each amount is spread evenly from its start to its end.

    start, end, amount: [steps or runs of steps], one after the other in time.
    """
    if len(start) == 0:
        return np.zeros(len(edges) - 1)
    total = np.cumsum(amount)
    knots = np.stack([start, end], axis=1).reshape(-1).astype(np.float64)
    reached = np.stack([total - amount, total], axis=1).reshape(-1)
    return np.diff(np.interp(edges, knots, reached))
