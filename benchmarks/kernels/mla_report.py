"""Tables and plots of the results of mla_decode.py and mla_prefill.py: Markdown on stdout, SVG files in a folder.

    python benchmarks/kernels/mla_report.py results/mla_decode_X.json results/mla_decode_fp8_X.json \\
        results/mla_prefill_X.json results

The second is from `mla_decode.py --kernels gluon_hopper gluon_hopper_fp8`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

LARGE = 400_000
Row = dict[str, Any]


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def regime(row: Row) -> str:
    """The regime that a decode row belongs to."""
    if isinstance(row["context"], list):
        return "imbalanced"
    queries = row["heads"] * row["q_len"]
    return (
        f"{'up to 64' if queries <= 64 else '128 to 512'} queries, {'from' if row['tokens'] >= LARGE else 'below'} 400k"
    )


def speedup(row: Row, kernel: str, peer: str) -> float:
    """Time of the peer over time of the kernel."""
    return float(row["kernels"][peer]["us"] / row["kernels"][kernel]["us"])


def summary(rows: list[Row], pairs: list[tuple[str, str]], read_bytes_per_s: float) -> str:
    """Ratios of each regime as a Markdown table, and the first kernel's part of the read bandwidth."""
    lines = ["| regime | batches | kernel | geometric mean | least | most |", "|---|---|---|---|---|---|"]
    for name in sorted({regime(row) for row in rows}):
        own = [row for row in rows if regime(row) == name]
        for kernel, peer in pairs:
            ratios = [speedup(row, kernel, peer) for row in own if kernel in row["kernels"] and peer in row["kernels"]]
            if ratios:
                shown = f"{geometric_mean(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
                lines.append(f"| {name} | {len(ratios)} | {kernel} / {peer} | {shown} |")
        kernel = pairs[0][0]
        shares = [row["kernels"][kernel]["gigabytes_per_s"] * 1e9 / read_bytes_per_s for row in own]
        shown = f"{geometric_mean(shares):.0%} | {min(shares):.0%} | {max(shares):.0%}"
        lines.append(f"| {name} | {len(shares)} | {kernel}, part of read bandwidth | {shown} |")
    return "\n".join(lines)


def prefill_table(rows: list[Row]) -> str:
    """Prefill as a Markdown table."""
    lines = [
        "| shape | heads | " + " | ".join(f"{name}, ms (TFLOP/s)" for name in rows[0]["kernels"]) + " | Gluon / FA3 |"
    ]
    lines.append("|" + "---|" * (3 + len(rows[0]["kernels"])))
    for row in rows:
        cells = [f"{own['us'] * 1e-3:.2f} ({own['tflop_per_s']:.0f})" for own in row["kernels"].values()]
        ratio = f"{speedup(row, 'gluon_hopper', 'fa3'):.2f}" if "fa3" in row["kernels"] else ""
        shape = f"{row['name']}: {row['rows']} x {row['new']} / {row['keys']}"
        lines.append(f"| {shape} | {row['heads']} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def text(x: float, y: float, content: str, anchor: str = "middle", size: int = 11) -> str:
    """An SVG text element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(content)}</text>'


def document(width: float, height: float, parts: list[str]) -> str:
    """An SVG document on white."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" font-family="sans-serif">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def colour(ratio: float) -> str:
    """Red below 1, green above, white at 1."""
    strength = min(1.0, abs(math.log(ratio)) / math.log(1.5))
    faded = round(255 * (1 - 0.75 * strength))
    return f"rgb({faded},255,{faded})" if ratio >= 1 else f"rgb(255,{faded},{faded})"


def heat_map(rows: list[Row], title: str, ratio: Callable[[Row], float | None]) -> str:
    """Ratios over batch and context (across) and heads x new tokens (down)."""
    uniform = [row for row in rows if not isinstance(row["context"], list)]
    across = sorted({(row["context"], row["batch"]) for row in uniform})
    down = sorted({(row["heads"], row["q_len"]) for row in uniform})
    parts, cell = [text(12, 18, title, "start", 14)], 38
    for column, (context, batch) in enumerate(across):
        parts.append(text(110 + (column + 0.5) * cell, 40, f"{context // 1024}k"))
        parts.append(text(110 + (column + 0.5) * cell, 54, f"x {batch}"))
    for line, (heads, q_len) in enumerate(down):
        parts.append(text(104, 60 + (line + 0.65) * 24, f"{heads} heads, {q_len} new", "end"))
        for column, shape in enumerate(across):
            for row in uniform:
                if (row["context"], row["batch"]) == shape and (row["heads"], row["q_len"]) == (heads, q_len):
                    value = ratio(row)
                    if value is not None:
                        x, y = 110 + column * cell, 60 + line * 24
                        parts.append(f'<rect x="{x}" y="{y}" width="{cell}" height="24" fill="{colour(value)}"/>')
                        parts.append(text(x + cell / 2, y + 16, f"{value:.2f}"))
    return document(120 + cell * len(across), 70 + 24 * len(down), parts)


def roofline(rows: list[Row], ceilings: dict[str, float], title: str) -> str:
    """TFLOP/s over operations per cached byte, both logarithmic, with the measured ceilings."""
    left, top, width, height = 60.0, 30.0, 640.0, 380.0
    span_x, span_y = (8.0, 2048.0), (0.2, 1000.0)

    def place(intensity: float, tflops: float) -> tuple[float, float]:
        x = math.log(intensity / span_x[0]) / math.log(span_x[1] / span_x[0])
        y = math.log(tflops / span_y[0]) / math.log(span_y[1] / span_y[0])
        return left + x * width, top + (1 - max(y, 0.0)) * height

    parts = [text(12, 18, title, "start", 14)]
    for tick in (8, 16, 32, 64, 128, 256, 512, 1024, 2048):
        parts.append(text(place(tick, span_y[0])[0], top + height + 16, str(tick)))
    for level in (0.2, 1, 10, 100, 1000):
        x, y = place(span_x[0], level)
        parts.append(text(x - 6, y + 4, f"{level:g}", "end"))
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x + width}" y2="{y:.1f}" stroke="#ddd"/>')
    ridge = ceilings["bf16_flop_per_s"] / ceilings["read_bytes_per_s"]
    roof = [(span_x[0], span_x[0] * ceilings["read_bytes_per_s"] * 1e-12)]
    roof += [(x, ceilings["bf16_flop_per_s"] * 1e-12) for x in (ridge, span_x[1])]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in roof))
    parts.append(f'<polyline points="{path}" fill="none" stroke="black"/>')
    for kernel, shade in (("flash_mla", "#d62728"), ("gluon_hopper", "#1f77b4")):
        for row in rows:
            if kernel in row["kernels"]:
                intensity = row["heads"] * row["q_len"] * 1088 / 576
                x, y = place(
                    intensity * (1.0 if kernel == "flash_mla" else 1.06), row["kernels"][kernel]["tflop_per_s"]
                )
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{shade}" fill-opacity="0.6"/>')
    parts.append(
        text(left + width / 2, top + height + 34, "operations per cached byte (gluon_hopper moved right a little)")
    )
    parts.append(text(left + 10, top + 14, "TFLOP/s; red: flash_mla, blue: gluon_hopper", "start"))
    return document(left + width + 20, top + height + 46, parts)


def main() -> None:
    """Write the report."""
    decode, fp8, prefill = (json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:4])
    folder = Path(sys.argv[4])
    for result, pairs in (
        (decode, [("gluon_hopper", "flash_mla"), ("triton_split_kv", "flash_mla")]),
        (fp8, [("gluon_hopper_fp8", "gluon_hopper")]),
    ):
        ceilings = result["ceilings"]
        print(json.dumps({"machine": result["machine"], "ceilings": ceilings}), end="\n\n")
        print(summary(result["rows"], pairs, ceilings["read_bytes_per_s"]), end="\n\n")
    print(prefill_table(prefill["rows"]))

    def ratio(kernel: str, peer: str) -> Callable[[Row], float | None]:
        return lambda row: speedup(row, kernel, peer) if {kernel, peer} <= row["kernels"].keys() else None

    maps = {
        "mla_decode_heatmap": (
            decode["rows"],
            "Time of flash_mla over time of gluon_hopper",
            ratio("gluon_hopper", "flash_mla"),
        ),
        "mla_decode_fp8_heatmap": (
            fp8["rows"],
            "Time of gluon_hopper (bfloat16) over time of gluon_hopper_fp8",
            ratio("gluon_hopper_fp8", "gluon_hopper"),
        ),
    }
    for name, (rows, title, value) in maps.items():
        (folder / f"{name}.svg").write_text(heat_map(rows, title, value), encoding="utf-8")
    title = f"MLA decode, bfloat16, {decode['machine']['device']}"
    (folder / "mla_decode_roofline.svg").write_text(
        roofline(decode["rows"], decode["ceilings"], title), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
