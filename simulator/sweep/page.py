"""One self-contained HTML page of a study of many cells: plots with intervals, comparisons and tables."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final

from plotly.offline import get_plotlyjs

from ..report.rows import number, percent
from ..study.metrics import DEFINITIONS
from .cells import Row
from .outcome import FLOOR, PARETO, SHOWN, Outcome

COLORS: Final = ("#2563eb", "#d97706", "#0d9488", "#be123c", "#7c3aed", "#475569", "#65a30d", "#db2777")
PLOTTED: Final = (FLOOR, "goodput_share", "ttft_ms_p90", "output_tokens_per_min_per_gpu_mean", "prefix_hit_rate_mean")

CAVEAT = (
    "Times are those of the cost model named below, not measurements, unless it is a table of them. Decisions are "
    "those of the compiled scheduler. Intervals are 95 % confidence intervals over seeds; differences are paired "
    "by seed."
)


def study_page(outcome: Outcome, provenance: Mapping[str, str]) -> str:
    """The page. `provenance`: what ran, by title."""
    experiment = outcome.experiment
    plots = list(_plots(outcome))
    drawings = [{"id": f"plot-{n}", **figure} for n, (_, figure) in enumerate(plots)]
    data = json.dumps(drawings, separators=(",", ":")).replace("</", "<\\/")
    style = files("tokenspeed.simulator.report").joinpath("page.css").read_text(encoding="utf-8")
    cells = (
        f"{len(outcome.rows):,} simulations: {len(outcome.groups):,} combinations, {len(experiment.seeds)} seeds each"
    )
    body = [
        f"<h1>{escape(experiment.name)}</h1>",
        f'<p class="sub">{escape(cells)}</p>',
        f'<p class="note">{escape(CAVEAT)}</p>',
        *_floors(outcome),
        '<h2>Plots</h2><section class="plots">',
        *(
            f'<div class="plot"><h3>{escape(title)}</h3><div id="plot-{n}"></div></div>'
            for n, (title, _) in enumerate(plots)
        ),
        "</section>",
        *_pairs(outcome),
        "<h2>Means over seeds</h2>",
        _means(outcome),
        "<h2>The study</h2>",
        f"<pre class=scroll>{escape(json.dumps(experiment.as_json(), indent=1, ensure_ascii=False))}</pre>",
        "<h2>To run it again</h2>",
        _table([{"what": name, "value": value} for name, value in provenance.items()]),
        "<h2>Definitions</h2>",
        _table([{"term": name, "meaning": meaning} for name, meaning in DEFINITIONS.items()]),
    ]
    script = (
        f"const figures={data};"
        "for(const f of figures)Plotly.newPlot(f.id,f.data,f.layout,{responsive:true,displayModeBar:false});"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(experiment.name)}</title>\n<style>{style}</style>\n<script>{get_plotlyjs()}</script></head>\n"
        f"<body><main>{''.join(body)}</main>\n<script>{script}</script></body></html>\n"
    )


def _plots(outcome: Outcome) -> Iterable[tuple[str, dict[str, Any]]]:
    load = outcome.load_axis()
    if load is not None:
        at = outcome.axes.index(load)
        for column in PLOTTED:
            lines = []
            for color, (common, line) in zip(_colors(), outcome.series().items(), strict=False):
                known = [(float(c[at]), outcome.mean(c, column)) for c in line]
                points = [(x, value) for x, value in known if value is not None]
                lines.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "name": ", ".join(common) or "all",
                        "x": [x for x, _ in points],
                        "y": [value.mean for _, value in points],
                        "error_y": {"type": "data", "array": [value.half_width or 0 for _, value in points]},
                        "line": {"color": color, "width": 2},
                    }
                )
            shapes = []
            if column == FLOOR:
                target = outcome.experiment.targets.tokens_per_s
                shapes = [
                    {
                        "type": "line",
                        "xref": "paper",
                        "x0": 0,
                        "x1": 1,
                        "y0": target,
                        "y1": target,
                        "line": {"dash": "dot", "color": "#be123c"},
                    }
                ]
            yield SHOWN[column], _figure(lines, load, SHOWN[column], shapes)
    front = outcome.pareto()
    dots = []
    for color, (common, line) in zip(_colors(), outcome.series().items(), strict=False):
        means = [(c, outcome.mean(c, PARETO[0]), outcome.mean(c, PARETO[1])) for c in line]
        good = [(choices, x.mean, y.mean) for choices, x, y in means if x is not None and y is not None]
        dots.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": ", ".join(common) or "all",
                "x": [x for _, x, _ in good],
                "y": [y for _, _, y in good],
                "text": [", ".join(choices) for choices, _, _ in good],
                "marker": {"size": 9, "symbol": ["star" if choices in front else "circle" for choices, _, _ in good]},
                "line": {"color": color, "width": 1},
            }
        )
    yield (
        "Pareto front (stars): speed of one user against output of a GPU",
        _figure(dots, SHOWN[PARETO[0]], SHOWN[PARETO[1]], []),
    )


def _colors() -> list[str]:
    return list(COLORS) * 20


def _figure(data: list[Any], x: str, y: str, shapes: list[Any]) -> dict[str, Any]:
    axis = {"gridcolor": "#e2e8f0", "automargin": True, "rangemode": "tozero"}
    return {
        "data": data,
        "layout": {
            "xaxis": {"title": {"text": x}, **axis},
            "yaxis": {"title": {"text": y}, **axis},
            "height": 360,
            "margin": {"l": 10, "r": 18, "t": 14, "b": 10},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
            "shapes": shapes,
            "plot_bgcolor": "rgba(0,0,0,0)",
            "paper_bgcolor": "rgba(0,0,0,0)",
        },
    }


def _floors(outcome: Outcome) -> list[str]:
    floors = outcome.floors()
    if not floors:
        return []
    target = outcome.experiment.targets.tokens_per_s
    return [f"<h2>Highest load at which 9 of 10 calls reach {target:g} tokens/s</h2>", _table(floors)]


def _pairs(outcome: Outcome) -> list[str]:
    pairs = outcome.pairs()
    if not pairs:
        return []
    shown = [
        {**{axis: row[axis] for axis in outcome.axes}, "metric": SHOWN[row["metric"]], "difference": _interval(row)}
        for row in pairs
        if row["significant"]
    ]
    said = f"{len(shown):,} of {len(pairs):,} differences have an interval without 0, one in twenty by chance alone"
    return [
        "<h2>Differences from the baseline, paired by seed</h2>",
        f'<p class="sub">{escape(said)}; all are in pairs.csv.</p>',
        *(f'<p class="note">Exactly as the baseline: {escape(", ".join(same))}</p>' for same in outcome.identical()),
        *([_table(shown)] if shown else []),
    ]


def _interval(row: Row) -> str:
    return f"{row['difference']:+.4g} ± {row['ci95']:.3g}"


def _means(outcome: Outcome) -> str:
    rows = []
    for choices in outcome.groups:
        row: Row = dict(zip(outcome.axes, choices, strict=True))
        for column, title in SHOWN.items():
            value = outcome.mean(choices, column)
            row[title] = "-" if value is None else _mean(column, value.mean, value.half_width)
        rows.append(row)
    return _table(rows)


def _mean(column: str, value: float, half_width: float | None) -> str:
    share = column.endswith(("share", "rate_mean"))
    shown = percent if share else number
    return shown(value) + ("" if half_width is None else f" ± {shown(half_width)}")


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row.values())}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
