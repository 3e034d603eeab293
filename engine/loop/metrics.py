"""Prometheus metrics: what clients experience, measured here, and what the scheduler counts, read when scraped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .control_loop import Snapshot
from .events import Admitted, Ended, Failed, Rejected, RequestEvent, Text

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of what `ServingMetrics.render` returns."""

FINISHED_REASONS: Final = ("stop", "length", "abort", "error")
"""How a request can end: those of `Ended`, and error for `Failed`."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, read by nobody

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class RequestTimes:
    """Moments in the life of one request, in seconds on the `time.monotonic` clock."""

    prompt_tokens: int
    submitted: float = field(default_factory=time.monotonic)
    newest_token: float | None = None


class SchedulerCollector(Collector):
    """The scheduler's counters and levels as metrics, from the newest snapshot."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None

    def collect(self) -> Iterator[Metric]:
        """Called by the registry on each scrape."""
        if self.snapshot is None:
            return
        stats = self.snapshot.stats
        usage = stats.held_blocks / stats.num_blocks
        levels = (
            ("num_requests_running", "Requests that hold a slot.", stats.running),
            ("num_requests_waiting", "Requests that wait for a slot or for memory.", stats.waiting),
            ("num_requests_live", "Requests whose record is not recycled yet.", stats.live_requests),
            ("num_steps_in_flight", "Steps handed to the device that have not landed.", stats.steps_in_flight),
            ("kv_cache_usage_ratio", "Share of the KV blocks that requests hold (0 to 1).", usage),
        )
        for name, text, level in levels:
            yield GaugeMetricFamily(f"tokenspeed_{name}", text, value=level)
        blocks = GaugeMetricFamily("tokenspeed_kv_cache_blocks", "KV blocks by state.", labels=["state"])
        blocks.add_metric(["free"], stats.free_blocks)
        blocks.add_metric(["cached"], stats.cached_blocks)
        blocks.add_metric(["held"], stats.held_blocks)
        yield blocks
        host = GaugeMetricFamily("tokenspeed_host_kv_blocks", "KV blocks of the host tier by state.", labels=["state"])
        host.add_metric(["empty"], stats.num_host_blocks - stats.host_used_blocks)
        host.add_metric(["used"], stats.host_used_blocks)
        yield host
        counters = (
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_query_tokens),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_hit_tokens),
            ("prefix_cache_evictions", "Cached KV blocks given up to make room.", stats.evictions),
            ("host_cache_hits", "Prompt tokens copied back from the host.", stats.host_hit_tokens),
            ("kv_blocks_spilled", "KV blocks copied to the host.", stats.spills),
            ("kv_blocks_fetched", "KV blocks copied back from the host.", stats.fetches),
            ("num_retractions", "Running requests preempted for memory.", stats.retractions),
            ("scheduler_steps", "Steps planned.", stats.steps),
            ("scheduled_tokens", "Tokens of all steps planned.", stats.scheduled_tokens),
        )
        for name, text, count in counters:
            yield CounterMetricFamily(f"tokenspeed_{name}", text, value=count)
        transitions = CounterMetricFamily(
            "tokenspeed_scheduler_transitions", "Transitions of the specification taken.", labels=["transition"]
        )
        for name, count in self.snapshot.transitions.items():
            transitions.add_metric([name], count)
        yield transitions


class ServingMetrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.scheduler = SchedulerCollector()
        self.registry.register(self.scheduler)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tokenspeed_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"tokenspeed_{name}", text, buckets=_LATENCY, registry=self.registry)

        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of admitted requests.")
        self._generation_tokens = counter("generation_tokens", "Tokens generated.")
        self._finished = counter("request_success", "Requests that ended, by reason.", "finished_reason")
        for reason in FINISHED_REASONS:
            self._finished.labels(reason)  # a series that starts at 0, so that its first increase is seen
        self._rejections = counter("admission_rejections", "Requests refused before they were queued.", "reason")
        for reason in ("overloaded", "scheduler"):
            self._rejections.labels(reason)
        self._queue_time = histogram("request_queue_time_seconds", "From submission to admission.")
        self._first_token = histogram("time_to_first_token_seconds", "From submission to the first token.")
        self._inter_token = histogram("inter_token_latency_seconds", "Between one token of a request and the next.")
        self._latency = histogram("e2e_request_latency_seconds", "From submission to the last token.")

    def record(self, times: RequestTimes, event: RequestEvent) -> None:
        """Take the news of a request into account."""
        match event:
            case Admitted():
                self._prompt_tokens.inc(times.prompt_tokens)
                self._queue_time.observe(event.time - times.submitted)
            case Text(tokens=tokens) if tokens:
                self._generation_tokens.inc(tokens)
                if times.newest_token is None:
                    self._first_token.observe(event.time - times.submitted)
                else:
                    self._inter_token.observe(event.time - times.newest_token)
                times.newest_token = event.time
            case Rejected():
                self.reject("scheduler")
            case Ended() | Failed():
                self._finished.labels(event.reason if isinstance(event, Ended) else "error").inc()
                self._latency.observe(event.time - times.submitted)

    def reject(self, reason: str) -> None:
        """Count a request that was refused before it was queued."""
        self._rejections.labels(reason).inc()

    def render(self, snapshot: Snapshot | None) -> bytes:
        """The exposition text, with the scheduler's numbers from `snapshot` (or the newest one there was)."""
        if snapshot is not None:
            self.scheduler.snapshot = snapshot
        return generate_latest(self.registry)
