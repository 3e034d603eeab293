"""One self-contained HTML page: numbers, plots, every parameter and every definition. Opens without a network."""

import json
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files

from plotly.offline import get_plotlyjs

from ..study.metrics import DEFINITIONS, GOOD_TOKENS_PER_S, Percentiles
from ..study.study import Study
from .figures import figures
from .rows import duration, metric_rows, number, percent

CAVEAT = (
    "Step times are an analytical roofline estimate from datasheets and model shapes, not a measurement. Scheduling "
    "decisions are not estimated: they are those of the compiled scheduler that also serves."
)


def html_page(study: Study) -> str:
    """The report of a study."""
    plots = figures(study)
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    title = f"{study.workload.name}: {study.parameters['Model']} on {study.parameters['GPUs']}"
    drawings = [{"id": f"plot-{number}", **figure} for number, (_, _, figure) in enumerate(plots)]
    # "</" must not appear inside a script element.
    data = json.dumps(drawings, separators=(",", ":")).replace("</", "<\\/")
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(_run_line(study))}</p>',
        f'<p class="note">{escape(CAVEAT)}</p>',
        f'<section class="cards">{"".join(_cards(study))}</section>',
        '<h2>Plots</h2><section class="plots">',
        *(_plot(number, name, hint) for number, (name, hint, _) in enumerate(plots)),
        "</section>",
        "<h2>Metrics</h2>",
        _metrics(study),
        "<h2>Assumptions and parameters</h2>",
        _pairs(("Parameter", "Value"), {**study.workload.assumptions, **study.parameters}),
        "<h2>Definitions</h2>",
        _pairs(("Term", "Meaning"), DEFINITIONS),
        f"<footer>{escape(' · '.join(f'{name}: {value}' for name, value in study.scheduler.items()))}</footer>",
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
    yield _card("TTFT, median", *duration(ttft.p50), _tail(ttft))
    yield _card("TPOT, median", *duration(tpot.p50), _tail(tpot))
    yield _card("Speed per user, median", number(speed.p50), "tokens/s", f"9 of 10 calls reach {number(speed.p90)}")
    yield _card("Good calls", percent(metrics.good_share), "", f"reach {GOOD_TOKENS_PER_S:g} tokens/s per user")
    yield _card("Output per GPU", number(output.mean), "tokens/min", f"with prompts {number(total.mean)}")
    yield _card("Prefix hits", percent(hits), "", "of all prompt tokens")
    yield _card("KV occupancy, median", percent(kv.p50), "", f"p90 {percent(kv.p90)} · p99 {percent(kv.p99)}")
    yield _card("Retractions", f"{metrics.retractions:,}", "", f"in {metrics.calls:,} calls")


def _tail(times: Percentiles) -> str:
    return f"p90 {' '.join(duration(times.p90))} · p99 {' '.join(duration(times.p99))}"


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
