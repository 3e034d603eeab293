"""One self-contained HTML page: numbers, plots, every parameter and every definition. Opens without a network."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final

from plotly.offline import get_plotlyjs

from ..study.metrics import DEFINITIONS, GOOD_TOKENS_PER_S, Percentiles
from ..study.study import Study
from ..study.views import by_replica, by_session
from .figures import figures
from .parameters import parameters
from .rows import duration, metric_rows, number, percent
from .table import steady_line, steady_output

CAVEAT = (
    "Step times are an analytical roofline estimate from datasheets and model shapes, not a measurement. Scheduling "
    "decisions are not estimated: they are those of the compiled scheduler that also serves."
)


MOST_SESSIONS: Final = 40


def html_page(study: Study) -> str:
    """The report of a study."""
    plots = figures(study)
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    said = parameters(study)
    title = f"{study.workload.name}: {said['Model']} on {said['GPUs']}"
    drawings = [{"id": f"plot-{number}", **figure} for number, (_, _, figure) in enumerate(plots)]
    # "</" must not appear inside a script element.
    data = json.dumps(drawings, separators=(",", ":")).replace("</", "<\\/")
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(_run_line(study))}</p>',
        f'<p class="note">{escape(CAVEAT)}</p>',
        *(f'<p class="note">{escape(warning)}</p>' for warning in study.workload.warnings),
        f'<section class="cards">{"".join(_cards(study))}</section>',
        '<h2>Plots</h2><section class="plots">',
        *(_plot(number, name, hint) for number, (name, hint, _) in enumerate(plots)),
        "</section>",
        "<h2>Metrics</h2>",
        _metrics(study),
        f'<p class="sub">{escape(steady_line(study.metrics))}</p>',
        "<h2>Replicas</h2>",
        _rows(by_replica(study)),
        f"<h2>{_session_title(study)}</h2>",
        _rows(_longest_sessions(study)),
        "<h2>Assumptions and parameters</h2>",
        _pairs(("Parameter", "Value"), {**study.workload.assumptions, **said}),
        "<h2>Definitions</h2>",
        _pairs(("Term", "Meaning"), DEFINITIONS),
        "<h2>To run it again</h2>",
        _pairs(("What", "Value"), study.provenance),
    ]
    script = (
        f"const figures={data};"
        "for(const f of figures)Plotly.newPlot(f.id,f.data,f.layout,{responsive:true,displayModeBar:false});"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n<script>{get_plotlyjs()}</script></head>\n"
        f"<body><main>{''.join(body)}</main>\n<script>{script}</script></body></html>\n"
    )


def _longest_sessions(study: Study) -> list[dict[str, Any]]:
    rows = by_session(study)
    longest = sorted(rows, key=lambda row: -row["duration_s"])[:MOST_SESSIONS]
    return sorted(longest, key=lambda row: int(row["session"]))


def _session_title(study: Study) -> str:
    count = len(study.workload.sessions)
    return "Sessions" if count <= MOST_SESSIONS else f"The {MOST_SESSIONS} longest of {count:,} sessions"


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f'<th class="n">{escape(name)}</th>' for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f'<td class="n">{escape(_cell(value))}</td>' for value in row.values()) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else number(value) if isinstance(value, float) else str(value)


def _run_line(study: Study) -> str:
    metrics = study.metrics
    line = (
        f"{metrics.finished:,} of {metrics.calls:,} calls finished, {metrics.rejected:,} rejected; "
        f"{number(metrics.duration_s)} s simulated in {metrics.steps:,} steps; "
        f"devices busy {percent(metrics.device_busy)}"
    )
    if metrics.rejected:
        first = min(study.recording.rejected)
        line += f". First rejection: {study.recording.rejected[first]}"
    return line


def _cards(study: Study) -> Iterable[str]:
    metrics = study.metrics
    ttft, tpot, speed = metrics.ttft_ms, metrics.tpot_ms, metrics.tokens_per_s_per_user
    output, total = metrics.output_tokens_per_min_per_gpu, metrics.total_tokens_per_min_per_gpu
    hits = metrics.hit_tokens / max(metrics.prompt_tokens, 1)
    kv = metrics.kv_occupancy
    yield _card("TTFT, median and p90", *_two(ttft), f"{_tail(ttft)}; {percent(metrics.queue_share)} of it queueing")
    yield _card("TPOT, median and p90", *_two(tpot), _tail(tpot))
    yield _card("Speed per user, median", number(speed.p50), "tokens/s", f"9 of 10 calls reach {number(speed.p90)}")
    yield _card("Good calls", percent(metrics.good_share), "", f"reach {GOOD_TOKENS_PER_S:g} tokens/s per user")
    yield _card(
        "Output per GPU",
        number(output.mean),
        "tokens/min",
        f"with prompts {number(total.mean)}; {steady_output(metrics)}",
    )
    yield _card("Prefix hits", percent(hits), "", "of all prompt tokens")
    yield _card("KV occupancy, median", percent(kv.p50), "", f"p90 {percent(kv.p90)} · p99 {percent(kv.p99)}")
    yield _card("Retractions", f"{metrics.retractions:,}", "", f"in {metrics.calls:,} calls")


def _tail(times: Percentiles) -> str:
    return f"p99 {' '.join(duration(times.p99))}, mean {' '.join(duration(times.mean))}"


def _two(times: Percentiles) -> tuple[str, str]:
    """Median and p90 with the unit of the larger."""
    p50, p90 = duration(times.p50), duration(times.p90)
    if p50[1] == p90[1]:
        return f"{p50[0]} / {p90[0]}", p90[1]
    return f"{' '.join(p50)} / {p90[0]}", p90[1]


def _card(name: str, value: str, unit: str, more: str) -> str:
    small = f" <small>{escape(unit)}</small>" if unit else ""
    return (
        f'<div class="card"><div class="name">{escape(name)}</div><div class="value">{escape(value)}{small}</div>'
        f'<div class="more">{escape(more)}</div></div>'
    )


def _plot(number: int, title: str, hint: str) -> str:
    return f'<div class="plot"><h3>{escape(title)}</h3><p>{escape(hint)}</p><div id="plot-{number}"></div></div>'


def _metrics(study: Study) -> str:
    head = "".join(f'<th class="n">{name}</th>' for name in ("p50", "p90", "p99", "mean"))
    rows = "".join(
        f"<tr><td>{escape(row.title)}</td><td>{escape(row.unit)}</td>"
        + "".join(f'<td class="n">{escape(cell)}</td>' for cell in (row.p50, row.p90, row.p99, row.mean))
        + "</tr>"
        for row in metric_rows(study.metrics)
    )
    return f'<div class="scroll"><table><tr><th>Metric</th><th>Unit</th>{head}</tr>{rows}</table></div>'


def _pairs(head: tuple[str, str], pairs: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in pairs.items())
    return f'<div class="scroll"><table><tr><th>{head[0]}</th><th>{head[1]}</th></tr>{rows}</table></div>'
