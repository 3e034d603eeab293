"""The plots of the report as plotly figures: plain JSON with few points, whatever the size of the study."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..recording.recorder import NEVER
from ..recording.timeline import Timeline, timeline
from ..study.metrics import GOOD_TOKENS_PER_S, Percentiles
from ..study.study import Study
from .rows import milliseconds

Figure = dict[str, Any]

BLUE: Final = "#2563eb"
TEAL: Final = "#0d9488"
AMBER: Final = "#d97706"
ROSE: Final = "#be123c"
SKY: Final = "#bfdbfe"
INK: Final = "#334155"
GRID: Final = "#e2e8f0"

INTERVALS: Final = 240
CDF_POINTS: Final = 300
SCATTER_POINTS: Final = 1500
MOST_TURNS: Final = 60


def figures(study: Study) -> list[tuple[str, str, Figure]]:
    """(title, what to look for, figure) in the order of the report."""
    line = timeline(study.recording, study.replicas, INTERVALS)
    times, metrics = study.times, study.metrics
    share, unit = _time_unit(float(line.middles_s[-1]))
    x = _rounded(line.middles_s / share)
    ttft_unit, ttft = ("s", times.ttft_ms / 1000) if metrics.ttft_ms.p50 >= 10_000 else ("ms", times.ttft_ms)
    time = f"simulated time ({unit})"
    good_ms = 1000 / GOOD_TOKENS_PER_S
    return [
        (
            "Time to first token",
            "Share of calls that had their first token within this time.",
            _cdf(ttft, "TTFT", ttft_unit, BLUE, log=True),
        ),
        (
            "Time per output token",
            f"Share of calls answered at this pace or faster; {GOOD_TOKENS_PER_S:g} tokens/s are {good_ms:.1f} ms.",
            _cdf(times.tpot_ms, "TPOT without the first token", "ms", TEAL, mark=good_ms),
        ),
        (
            "Calls running and waiting",
            "Waiting calls that do not go away mean overload.",
            _calls(x, line, time),
        ),
        (
            "KV cache",
            "Held blocks belong to requests; cached ones are kept for reuse and evicted on demand.",
            _kv(x, line, time),
        ),
        (
            "Throughput",
            "Tokens that the devices computed; prompt tokens from the prefix cache are not among them.",
            _throughput(x, line, time),
        ),
        (
            "Speed per user",
            f"How fast answers appear. Right of the line: good, at least {GOOD_TOKENS_PER_S:g} tokens/s.",
            _speeds(times.tokens_per_s),
        ),
        _prefix_hits(study),
        (
            "TTFT and work",
            "Calls high above the others at the same work have waited.",
            _scatter(study, ttft, ttft_unit),
        ),
    ]


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 600:
        return 1.0, "s"
    return (60.0, "min") if seconds < 3 * 3600 else (3600.0, "h")


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": GRID,
        "zeroline": False,
        "automargin": True,
        "linecolor": "#94a3b8",
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "#94a3b8",
        **more,
    }


def _log_axis(title: str, values: NDArray[np.float64]) -> dict[str, Any]:
    """Powers of ten, with 2 and 5 between them where there is room."""
    decades = float(np.log10(values.max() / values.min())) if len(values) and values.min() > 0 else 3.0
    return _axis(f"{title}, logarithmic", type="log", dtick="D2" if decades < 2.5 else 1, tickformat=",~r")


def _figure(data: list[Any], x: dict[str, Any], y: dict[str, Any], **layout: Any) -> Figure:
    return {
        "data": data,
        "layout": {
            "xaxis": x,
            "yaxis": y,
            "margin": {"l": 10, "r": 18, "t": 14, "b": 10},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": INK},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "hoverlabel": {"font": {"size": 12}},
            "height": 330,
            **layout,
        },
    }


def _line(x: Sequence[float], y: Sequence[float], name: str, color: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "name": name,
        "line": {"color": color, "width": 2},
        **more,
    }


def _marker_line(
    value: float, text: str, log: bool, color: str, height: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dotted vertical line and its label."""
    dotted = {"color": color, "width": 1, "dash": "dot"}
    shape = {"type": "line", "xref": "x", "yref": "paper", "x0": value, "x1": value, "y0": 0, "y1": 1, "line": dotted}
    label = {
        "x": float(np.log10(value)) if log else value,
        "xref": "x",
        "y": height,
        "yref": "paper",
        "text": text,
        "showarrow": False,
        "xanchor": "left",
        "xshift": 3,
        "font": {"size": 11, "color": color},
        "bgcolor": "rgba(255,255,255,0.85)",
    }
    return shape, label


def _cdf(
    values: NDArray[np.float64], name: str, unit: str, color: str, log: bool = False, mark: float | None = None
) -> Figure:
    title, marks = f"{name} ({unit})", Percentiles.of(values)
    known = np.sort(values[~np.isnan(values)])
    if len(known) == 0:
        return _empty(title)
    shares = np.linspace(0, 1, min(len(known), CDF_POINTS))
    at = np.minimum((shares * len(known)).astype(int), len(known) - 1)
    levels = [("p50", marks.p50, 0.08), ("p90", marks.p90, 0.2), ("p99", marks.p99, 0.32)]
    lines = [
        _marker_line(value, f"{level} {milliseconds(value)} {unit}", log, INK, y)
        for level, value, y in levels
        if value > 0
    ]
    if mark is not None and known[0] < mark < known[-1]:
        lines.append(_marker_line(mark, f"{GOOD_TOKENS_PER_S:g} tokens/s", log, ROSE, 0.46))
    return _figure(
        [_line(_rounded(known[at]), _rounded(100 * shares), "calls", color, fill="tozeroy", fillcolor=_faint(color))],
        _log_axis(title, known) if log else _axis(title, range=[0, float(f"{max(1.2 * marks.p99, mark or 0):.4g}")]),
        _axis("share of calls (%)", range=[0, 101]),
        showlegend=False,
        shapes=[shape for shape, _ in lines],
        annotations=[label for _, label in lines],
    )


def _faint(color: str) -> str:
    red, green, blue = (int(color[n : n + 2], 16) for n in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.10)"


def _calls(x: list[float], line: Timeline, time: str) -> Figure:
    return _figure(
        [
            _line(x, _rounded(line.running.sum(axis=0)), "running", BLUE),
            _line(x, _rounded(line.waiting.sum(axis=0)), "waiting", AMBER),
        ],
        _axis(time, rangemode="tozero"),
        _axis("calls, all replicas", rangemode="tozero"),
    )


def _kv(x: list[float], line: Timeline, time: str) -> Figure:
    held, cached = line.held.mean(axis=0) * 100, line.cached.mean(axis=0) * 100
    return _figure(
        [
            _line(x, _rounded(held), "held", BLUE, stackgroup="kv", fillcolor="rgba(37,99,235,0.55)"),
            _line(x, _rounded(cached), "cached", "#60a5fa", stackgroup="kv", fillcolor=SKY),
        ],
        _axis(time, rangemode="tozero"),
        _axis("KV blocks (%)", range=[0, 101]),
    )


def _throughput(x: list[float], line: Timeline, time: str) -> Figure:
    prefill = _line(x, _rounded(line.prefill_per_s.sum(axis=0)), "computed prompt tokens", AMBER, yaxis="y2")
    return _figure(
        [_line(x, _rounded(line.output_per_s.sum(axis=0)), "output tokens", BLUE), prefill],
        _axis(time, anchor="y2", rangemode="tozero"),
        _axis("output tokens/s", domain=[0.56, 1], rangemode="tozero"),
        yaxis2=_axis("prompt tokens/s", domain=[0, 0.44], rangemode="tozero", anchor="x"),
    )


def _speeds(speeds: NDArray[np.float64]) -> Figure:
    known = speeds[np.isfinite(speeds)]
    if len(known) == 0:
        return _empty("tokens/s per user")
    counts, edges = np.histogram(known, bins=40, range=(0, float(np.quantile(known, 0.999)) * 1.02))
    middles = (edges[1:] + edges[:-1]) / 2
    colors = [TEAL if middle >= GOOD_TOKENS_PER_S else AMBER for middle in middles.tolist()]
    bars = {
        "type": "bar",
        "x": _rounded(middles),
        "y": _rounded(100 * counts / len(known)),
        "marker": {"color": colors},
        "name": "calls",
    }
    shape, label = _marker_line(GOOD_TOKENS_PER_S, f"{GOOD_TOKENS_PER_S:g} tokens/s", False, ROSE, 0.97)
    return _figure(
        [bars],
        _axis("tokens/s per user (1 / TPOT)", rangemode="tozero"),
        _axis("share of calls (%)"),
        bargap=0.06,
        showlegend=False,
        shapes=[shape],
        annotations=[label],
    )


def _prefix_hits(study: Study) -> tuple[str, str, Figure]:
    recording, calls = study.recording, study.workload.calls
    done = recording.finish_ns != NEVER
    turns = np.array([call.turn for call in calls])
    prompt = np.array([call.prompt_tokens for call in calls], dtype=np.float64)
    if not study.workload.has_turns:
        counts, edges = np.histogram(100 * study.times.hit_rate[done], bins=20, range=(0, 100))
        bars = {
            "type": "bar",
            "x": _rounded((edges[1:] + edges[:-1]) / 2),
            "y": _rounded(100 * counts / max(int(done.sum()), 1)),
            "marker": {"color": TEAL},
        }
        figure = _figure(
            [bars], _axis("prompt found in the prefix cache (%)"), _axis("share of calls (%)"), bargap=0.06
        )
        return "Prefix hits", "How much of its prompt a call found in the cache.", figure
    last = min(int(turns.max()), MOST_TURNS - 1)
    known = [turn for turn in range(last + 1) if (done & (turns == turn)).any()]
    rates = [
        100 * recording.hit_tokens[done & (turns == turn)].sum() / prompt[done & (turns == turn)].sum()
        for turn in known
    ]
    count = [int((done & (turns == turn)).sum()) for turn in known]
    line = _line(
        [turn + 1 for turn in known],
        _rounded(np.array(rates)),
        "hit rate",
        TEAL,
        mode="lines+markers",
        text=[f"{n:,} calls" for n in count],
        hovertemplate="turn %{x}: %{y:.1f} % of %{text}<extra></extra>",
    )
    figure = _figure(
        [line], _axis("turn of the agent"), _axis("prompt tokens hit (%)", range=[0, 102]), showlegend=False
    )
    return "Prefix hits by turn", f"Share of prompt tokens found in the cache, turns 1 to {last + 1}.", figure


def _scatter(study: Study, ttft: NDArray[np.float64], unit: str) -> Figure:
    recording = study.recording
    done = np.flatnonzero(recording.finish_ns != NEVER)
    if len(done) == 0:
        return _empty("prompt tokens not in the cache")
    shown = done[np.linspace(0, len(done) - 1, min(len(done), SCATTER_POINTS)).astype(int)]
    prompt = np.array([study.workload.calls[index].prompt_tokens for index in shown.tolist()])
    work = (prompt - recording.hit_tokens[shown]).astype(np.float64)
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": work.tolist(),
        "y": _rounded(ttft[shown]),
        "marker": {"color": BLUE, "size": 5, "opacity": 0.45},
        "hovertemplate": f"%{{x:,}} tokens, %{{y:,}} {unit}<extra></extra>",
    }
    title = "prompt tokens to compute"
    if len(shown) < len(done):
        title += f" ({len(shown):,} of {len(done):,} calls)"
    return _figure([points], _log_axis(title, work), _log_axis(f"TTFT ({unit})", ttft[shown]))


def _empty(title: str) -> Figure:
    note = {"text": "no finished calls", "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    return _figure([], _axis(title), _axis(""), annotations=[note])
