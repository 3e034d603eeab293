"""What a study reports about a recording."""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..recording.recorder import NEVER, Recording
from ..recording.timeline import span_ns, spread
from ..timebase import NS_PER_MINUTE, NS_PER_MS, NS_PER_S
from ..workload.workload import Workload

GOOD_TOKENS_PER_S: Final = 70.0
"""Decoding speed per user from which a call counts as good."""

DEFINITIONS: Final = {
    "TTFT": "time to first token: from the client sending the call until its first output token has left the device, "
    "queueing included; no network, no tokenisation",
    "queueing": "the part of TTFT from the client sending the call until the scheduler admits it",
    "end to end": "from the client sending the call until its last token has left the device",
    "steady window": "the time in which the load is whole: with a limit on the sessions alive, while all places are "
    "taken; without, from the first to the last arrival of a session. Rates in it leave out warm-up and drain",
    "TPOT": "time per output token without the first: (last token - first token) / (output tokens - 1); calls with one "
    "output token have none",
    "tokens/s per user": "1 / TPOT: the speed at which an answer appears once it has begun",
    "good calls": f"share of calls with a TPOT that reach {GOOD_TOKENS_PER_S:g} tokens/s per user",
    "tokens/min per GPU": "over all GPUs of all replicas, from the first arrival to the last token; percentiles over "
    "windows of one minute. Prompt tokens include those found in the prefix cache",
    "prefix hit rate": "prompt tokens found in the prefix cache at a call's first admission / its prompt tokens",
    "retractions": "how often a call lost its KV blocks to others and was recomputed",
    "KV occupancy": "share of KV blocks held by requests, weighted by the time of steps; blocks only kept for reuse "
    "left out",
    "percentiles": "of times and levels: p90 is not exceeded in 90 % of cases; of rates and hits, where more is "
    "better: p90 is reached in 90 % of cases",
}
"""Definitions printed in every report."""


@dataclass(frozen=True, slots=True)
class CallTimes:
    """What follows for each call. Arrays are [calls] float64, NaN where undefined."""

    ttft_ms: NDArray[np.float64]
    tpot_ms: NDArray[np.float64]
    tokens_per_s: NDArray[np.float64]
    queue_ms: NDArray[np.float64]
    e2e_ms: NDArray[np.float64]
    hit_rate: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Percentiles:
    """p50, p90 and p99 of a quantity, and its mean; NaN if it was never observed."""

    p50: float
    p90: float
    p99: float
    mean: float

    @classmethod
    def of(
        cls, values: NDArray[np.float64], weights: NDArray[np.float64] | None = None, more_is_better: bool = False
    ) -> "Percentiles":
        """Percentiles of the values that are not NaN, each an observed value, with optional weights."""
        if weights is None:
            values = values[~np.isnan(values)]
            weights = np.ones(len(values))
        if len(values) == 0 or weights.sum() <= 0:
            return cls(*[float("nan")] * 4)
        order = np.argsort(-values if more_is_better else values, kind="stable")
        reached = np.cumsum(weights[order])
        at = np.searchsorted(reached, np.array([0.5, 0.9, 0.99]) * reached[-1] * (1 - 1e-12))
        p50, p90, p99 = (float(value) for value in values[order][np.minimum(at, len(values) - 1)])
        return cls(p50, p90, p99, float(np.average(values, weights=weights)))


@dataclass(frozen=True, slots=True)
class Metrics:
    """The numbers of a study."""

    calls: int
    finished: int
    rejected: int
    duration_s: float
    steps: int
    gpus: int
    prompt_tokens: int
    output_tokens: int
    """Of finished calls, like `prompt_tokens`."""
    hit_tokens: int
    host_hit_tokens: int
    """Of `hit_tokens`, those that were copied back from the host."""
    ttft_ms: Percentiles
    queue_ms: Percentiles
    e2e_ms: Percentiles
    tpot_ms: Percentiles
    tokens_per_s_per_user: Percentiles
    output_tokens_per_min_per_gpu: Percentiles
    total_tokens_per_min_per_gpu: Percentiles
    prefix_hit_rate: Percentiles
    kv_occupancy: Percentiles
    retractions_per_call: Percentiles
    retractions: int
    good_share: float
    device_busy: float
    """Share of the duration in which devices run steps."""
    queue_share: float
    """Of the time to first token of all calls together, the part spent queueing."""
    restarts: int
    """Calls sent again because a replica failed."""
    steady_s: float
    """Length of the steady window, seconds; 0 if there is none."""
    steady_output_tokens_per_min_per_gpu: float
    steady_total_tokens_per_min_per_gpu: float
    steady_good_share: float
    """Of the calls whose first token falls into it."""


def call_times(workload: Workload, recording: Recording) -> CallTimes:
    """Per-call times and rates."""
    prompt = np.array([call.prompt_tokens for call in workload.calls], dtype=np.float64)
    done = recording.finish_ns != NEVER
    ttft = np.where(done, (recording.first_token_ns - recording.arrival_ns) / NS_PER_MS, np.nan)
    intervals = recording.output_tokens - 1
    decoding_ms = (recording.finish_ns - recording.first_token_ns) / NS_PER_MS
    tpot = np.where(done & (intervals > 0), decoding_ms / np.maximum(intervals, 1), np.nan)
    with np.errstate(divide="ignore"):
        speed = 1000 / tpot
    queue = np.where(done, (recording.admitted_ns - recording.arrival_ns) / NS_PER_MS, np.nan)
    e2e = np.where(done, (recording.finish_ns - recording.arrival_ns) / NS_PER_MS, np.nan)
    return CallTimes(ttft, tpot, speed, queue, e2e, np.where(done, recording.hit_tokens / prompt, np.nan))


def measure(workload: Workload, recording: Recording, times: CallTimes, replicas: int, gpus: int) -> Metrics:
    """The metrics of a recording on `replicas` replicas with `gpus` GPUs in all."""
    done = recording.finish_ns != NEVER
    first, last = span_ns(recording)
    prompt = np.array([call.prompt_tokens for call in workload.calls], dtype=np.int64)
    runs = recording.step_runs.runs
    busy_ns = runs["busy_ns"].astype(np.float64)
    width = min(NS_PER_MINUTE, last - first)
    edges = first + np.arange(max((last - first) // NS_PER_MINUTE, 1) + 1, dtype=np.float64) * width
    output, total = _tokens_per_minute(recording, prompt, edges, replicas)
    begin, end = steady_window(workload, recording)
    steady = np.array([np.nan]), np.array([np.nan])
    if end > begin:
        steady = _tokens_per_minute(recording, prompt, np.array([begin, end], dtype=np.float64), replicas)
    inside = (recording.first_token_ns >= begin) & (recording.first_token_ns < end) & ~np.isnan(times.tokens_per_s)
    gpu_minutes = gpus * (last - first) / NS_PER_MINUTE
    prompt_tokens, output_tokens = int(prompt[done].sum()), int(recording.output_tokens[done].sum())
    speeds = times.tokens_per_s[~np.isnan(times.tokens_per_s)]
    return Metrics(
        calls=len(workload.calls),
        finished=int(done.sum()),
        rejected=len(recording.rejected),
        duration_s=(last - first) / NS_PER_S,
        steps=len(recording.step_runs),
        gpus=gpus,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        hit_tokens=int(recording.hit_tokens[done].sum()),
        host_hit_tokens=int(recording.host_hit_tokens[done].sum()),
        ttft_ms=Percentiles.of(times.ttft_ms),
        queue_ms=Percentiles.of(times.queue_ms),
        e2e_ms=Percentiles.of(times.e2e_ms),
        tpot_ms=Percentiles.of(times.tpot_ms),
        tokens_per_s_per_user=Percentiles.of(times.tokens_per_s, more_is_better=True),
        output_tokens_per_min_per_gpu=_rates(output / gpus, output_tokens / gpu_minutes),
        total_tokens_per_min_per_gpu=_rates(total / gpus, (prompt_tokens + output_tokens) / gpu_minutes),
        prefix_hit_rate=Percentiles.of(times.hit_rate, more_is_better=True),
        kv_occupancy=Percentiles.of(runs["held_blocks"] / recording.num_blocks, busy_ns),
        retractions_per_call=Percentiles.of(recording.retractions[done].astype(np.float64)),
        retractions=int(recording.retractions.sum()),
        good_share=_good(speeds),
        device_busy=float(busy_ns.sum() / (last - first) / replicas),
        queue_share=float(np.nansum(times.queue_ms) / np.nansum(times.ttft_ms)) if done.any() else float("nan"),
        restarts=int(recording.restarts.sum()),
        steady_s=(end - begin) / NS_PER_S,
        steady_output_tokens_per_min_per_gpu=float(steady[0][0]) / gpus,
        steady_total_tokens_per_min_per_gpu=float(steady[1][0]) / gpus,
        steady_good_share=_good(times.tokens_per_s[inside]),
    )


def _good(speeds: NDArray[np.float64]) -> float:
    return float((speeds >= GOOD_TOKENS_PER_S).mean()) if len(speeds) else float("nan")


def steady_window(workload: Workload, recording: Recording) -> tuple[int, int]:
    """Start and end of the time in which the load is whole, nanoseconds; equal if there is no such time."""
    starts = np.array([int(recording.arrival_ns[s.calls.start : s.calls.stop].min()) for s in workload.sessions])
    if workload.concurrency is None:
        return int(starts.min()), int(starts.max())
    last = np.maximum(recording.finish_ns, recording.arrival_ns)  # a rejected call ends when it arrives
    ends = np.sort([int(last[s.calls.start : s.calls.stop].max()) for s in workload.sessions])
    places = min(workload.concurrency, len(starts))
    begin, end = int(np.sort(starts)[places - 1]), int(ends[len(ends) - places])
    return begin, max(begin, end)


def _rates(windows: NDArray[np.float64], overall: float) -> Percentiles:
    """Percentiles over windows; the mean is that of the whole run, its last part of a minute included."""
    return replace(Percentiles.of(windows, more_is_better=True), mean=overall)


def _tokens_per_minute(
    recording: Recording, prompt: NDArray[np.int64], edges: NDArray[np.float64], replicas: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[windows] output and total tokens per minute between the edges, which are equally far apart.

    Output counts when it is sampled; a prompt counts as a whole when its first token appears.
    """
    done = recording.finish_ns != NEVER
    served, _ = np.histogram(recording.first_token_ns[done], bins=edges, weights=prompt[done].astype(np.float64))
    output = np.zeros(len(edges) - 1)
    runs = recording.step_runs.runs
    for replica in range(replicas):
        mine = runs["replica"] == replica
        sampled = (runs["sampled"] * runs["steps"])[mine].astype(np.float64)
        output += spread(runs["start_ns"][mine], runs["end_ns"][mine], sampled, edges)
    per_minute = NS_PER_MINUTE / (edges[1] - edges[0])
    return output * per_minute, (output + served) * per_minute


def as_json(metrics: Metrics) -> dict[str, Any]:
    """The metrics as JSON values; None for NaN."""

    def value(item: Any) -> Any:
        if isinstance(item, Percentiles):
            return {name: value(getattr(item, name)) for name in ("p50", "p90", "p99", "mean")}
        if isinstance(item, float):
            return None if np.isnan(item) else item
        return item

    return {name: value(getattr(metrics, name)) for name in Metrics.__slots__}
