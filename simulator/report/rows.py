"""The rows of the metrics table, for the terminal and for the HTML page."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan

from ..study.metrics import Metrics, Percentiles


@dataclass(frozen=True, slots=True)
class Row:
    """One metric as text."""

    title: str
    unit: str
    p50: str
    p90: str
    p99: str
    mean: str


def metric_rows(metrics: Metrics) -> list[Row]:
    """The metrics that have percentiles."""
    return [
        _row("TTFT", "ms", metrics.ttft_ms, milliseconds),
        _row("of it queueing", "ms", metrics.queue_ms, milliseconds),
        _row("TPOT", "ms", metrics.tpot_ms, milliseconds),
        _row("End to end", "ms", metrics.e2e_ms, milliseconds),
        _row("Tokens/s per user", "tokens/s", metrics.tokens_per_s_per_user, number),
        _row("Output per GPU", "tokens/min", metrics.output_tokens_per_min_per_gpu, number),
        _row("Prompt + output per GPU", "tokens/min", metrics.total_tokens_per_min_per_gpu, number),
        _row("Prefix hit rate", "of prompt", metrics.prefix_hit_rate, percent),
        _row("KV occupancy", "of blocks", metrics.kv_occupancy, percent),
        _row("Retractions", "per call", metrics.retractions_per_call, number),
    ]


def milliseconds(value: float) -> str:
    """A time given in milliseconds, in milliseconds."""
    return "-" if isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(milliseconds_: float) -> tuple[str, str]:
    """(number, unit) of a time given in milliseconds, in seconds where that reads better."""
    if milliseconds_ < 10_000 or isnan(milliseconds_):
        return milliseconds(milliseconds_), "ms"
    return number(milliseconds_ / 1000), "s"


def number(value: float) -> str:
    """A count or rate."""
    if isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{round(value, 4):.3g}"


def percent(value: float) -> str:
    """A share."""
    return "-" if isnan(value) else f"{100 * value:.1f} %"


def _row(title: str, unit: str, values: Percentiles, shown: Callable[[float], str]) -> Row:
    return Row(title, unit, shown(values.p50), shown(values.p90), shown(values.p99), shown(values.mean))
