"""Measured step times: a CSV file (or Parquet, with pyarrow installed) from `tokenspeed profile`, interpolated.

One line for each measured point, a step of `rows` equal rows. Columns:

| column    | holds                                                                                      |
|-----------|--------------------------------------------------------------------------------------------|
| device    | GPU by its name in `hardware/gpus.py`, like h200                                           |
| model     | model by its name in `hardware/model_shapes.py`, like llama-3.1-8b                         |
| dtype     | storage of the weights: bf16, fp8 or fp4                                                   |
| kv_dtype  | storage of the KV cache: bf16 or fp8                                                       |
| tp        | GPUs of the replica                                                                        |
| rows      | requests in the step                                                                       |
| tokens    | new tokens of each row: 1 for decoding, the length of the chunk for prompts                |
| context   | KV tokens visible to each row's last token, itself included; at least `tokens`             |
| ns        | median device time of the step, nanoseconds                                                |

Needed are decoding points (tokens = 1) over rows and contexts, and prompt points (rows = 1) over tokens and contexts,
each with one at context = tokens (decoding: at the smallest context). Other columns are ignored.

A step is priced as base(its tokens) + what attention of its decoding rows adds to that + what each chunk's prefix adds.
Steps of equal decoding rows, and single chunks of more tokens than there are decoding rows, get exactly what was
measured; between points everything is linear.
"""

import csv
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigurationError
from ..hardware.deployment import Deployment
from .protocol import StepRows

TEXT_COLUMNS: Final = ("device", "model", "dtype", "kv_dtype")
NUMBER_COLUMNS: Final = ("tp", "rows", "tokens", "context", "ns")
COLUMNS: Final = (*TEXT_COLUMNS, *NUMBER_COLUMNS)


@dataclass(frozen=True, slots=True)
class Curve:
    """A piecewise linear function through points of rising x; beyond them its first and last slopes go on."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]

    @classmethod
    def through(cls, points: Mapping[float, float]) -> "Curve":
        """Through {x: y}."""
        xs = sorted(points)
        return cls(tuple(xs), tuple(points[x] for x in xs))

    def __call__(self, x: float) -> float:
        """The value at `x`."""
        xs, ys = self.xs, self.ys
        if len(xs) == 1:
            return ys[0]
        upper = min(max(bisect_left(xs, x), 1), len(xs) - 1)
        x0, x1, y0, y1 = xs[upper - 1], xs[upper], ys[upper - 1], ys[upper]
        return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class Surface:
    """A function of (u, x): a curve over x for each measured u, linear between them, constant beyond the first u."""

    us: tuple[float, ...]
    curves: tuple[Curve, ...]

    @classmethod
    def through(cls, points: Mapping[float, Mapping[float, float]]) -> "Surface":
        """Through {u: {x: y}}."""
        us = sorted(points)
        return cls(tuple(us), tuple(Curve.through(points[u]) for u in us))

    def growth(self, u: float, x: float) -> float:
        """What y at (u, x) is more than at the smallest measured x of the same u."""
        at = bisect_left(self.us, u)
        if at == 0 or at == len(self.us):
            curve = self.curves[min(at, len(self.us) - 1)]
            return curve(x) - curve.ys[0]
        weight = (u - self.us[at - 1]) / (self.us[at] - self.us[at - 1])
        low, high = self.curves[at - 1], self.curves[at]
        return (1 - weight) * (low(x) - low.ys[0]) + weight * (high(x) - high.ys[0])


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """Step times of one deployment, interpolated between measured points."""

    base: Curve
    """Nanoseconds by tokens of the step, with the shortest contexts."""
    decode: Surface
    """Nanoseconds by (rows, context)."""
    prefill: Surface
    """Nanoseconds by (tokens of a chunk, its start)."""
    source: str
    points: int

    def step_ns(self, step: StepRows, /) -> int:
        """Device time of one step, nanoseconds."""
        return max(int(sum(self._terms(step))), 1)

    def _terms(self, step: StepRows) -> tuple[float, float, float]:
        tokens, rows, context, chunks = step.tokens, step.rows, step.context_tokens, 0.0
        if tokens != rows:
            for start, count in zip(step.start.tolist(), step.num_tokens.tolist(), strict=True):
                if count > 1:
                    chunks += self.prefill.growth(count, start)
                    context -= start + count
                    rows -= 1
        return self.base(tokens), self.decode.growth(rows, context / rows) if rows else 0.0, chunks

    def step_parts(self, step: StepRows, /) -> dict[str, float]:
        """Where that time goes, as far as the table can tell."""
        base, decode, chunks = self._terms(step)
        return {"all tokens at short contexts": base, "context of decoding": decode, "context of prompts": chunks}

    def describe(self) -> dict[str, Any]:
        """What a report tells about the model."""
        contexts = [x for surface in (self.decode, self.prefill) for curve in surface.curves for x in curve.xs]
        return {
            "kind": "measured table",
            "source": self.source,
            "points": self.points,
            "most_decode_rows": self.decode.us[-1],
            "most_chunk_tokens": self.prefill.us[-1],
            "longest_context": max(contexts),
        }

    def check_range(self, max_running: int, max_step_tokens: int) -> None:
        """Raise ConfigurationError if steps may have more rows or tokens than were measured."""
        if max_running > self.decode.us[-1]:
            raise ConfigurationError(
                f"max_running is {max_running}, but {self.source} has at most {self.decode.us[-1]:g} decoding rows; "
                "measure more or lower it"
            )
        if max_step_tokens > self.base.xs[-1]:
            raise ConfigurationError(
                f"max_step_tokens is {max_step_tokens}, but {self.source} has chunks of at most {self.base.xs[-1]:g} "
                "tokens; measure more or lower it"
            )


def read_table(path: Path, placed: Deployment) -> MeasuredTable:
    """The table of a deployment in a file. Raises ConfigurationError naming the line and column, or what is missing."""
    wanted = (placed.gpu.name, placed.model.name, placed.weights.value, placed.kv.value, placed.tp)
    decode: dict[float, dict[float, float]] = defaultdict(dict)
    prefill: dict[float, dict[float, float]] = defaultdict(dict)
    others: set[tuple[str, str, str, str, int]] = set()
    points = 0
    for where, row in _rows(path):
        tp, rows, tokens, context, ns = (_number(row, column, where) for column in NUMBER_COLUMNS)
        found = (*(str(row.get(column)) for column in TEXT_COLUMNS), int(tp))
        if found != wanted:
            others.add(found)  # type: ignore[arg-type]
            continue
        if context < tokens:
            raise ConfigurationError(f"{where}: context is {context:g}, less than the {tokens:g} tokens of the row")
        if tokens == 1:
            target, u, x = decode, rows, context
        elif rows == 1:
            target, u, x = prefill, tokens, context - tokens
        else:
            raise ConfigurationError(f"{where}: rows is {rows:g} and tokens {tokens:g}; one of them must be 1")
        if x in target[u]:
            raise ConfigurationError(f"{where}: rows {rows:g}, tokens {tokens:g}, context {context:g} a second time")
        target[u][x] = ns
        points += 1
    if not decode or not prefill:
        there = "; ".join(" ".join(map(str, other)) for other in sorted(others)) or "nothing else"
        kind = "prompt points (rows = 1)" if decode else "decoding points (tokens = 1)"
        raise ConfigurationError(f"{path.name} has no {kind} for {' '.join(map(str, wanted))}; it has {there}")
    without = next((tokens for tokens, curve in prefill.items() if 0 not in curve), None)
    if without is not None:
        raise ConfigurationError(f"{path.name} has no point with tokens {without:g} and context {without:g}")
    base = {rows: curve[min(curve)] for rows, curve in decode.items()}
    base |= {tokens: curve[0] for tokens, curve in prefill.items() if tokens > max(decode)}
    return MeasuredTable(Curve.through(base), Surface.through(decode), Surface.through(prefill), path.name, points)


def _rows(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """(place, row) of a CSV or Parquet file."""
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"cost is {path.name!r}; Parquet needs pyarrow: pip install pyarrow") from error
        for number, row in enumerate(parquet.read_table(path).to_pylist(), 1):
            yield f"{path.name}, row {number}", row
        return
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise ConfigurationError(
                f"{path.name}, line 1: column {missing[0]!r} is missing; needed: {', '.join(COLUMNS)}"
            )
        for row in rows:
            yield f"{path.name}, line {rows.line_num}", row


def _number(row: Mapping[str, Any], column: str, where: str) -> float:
    try:
        value = float(row[column])
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(f"{where}: column {column!r} is {row.get(column)!r}; it must be a number") from None
    if not 0 < value < 1e18 or (column != "ns" and not value.is_integer()):
        raise ConfigurationError(
            f"{where}: column {column!r} is {row[column]!r}; it must be a whole number, at least 1"
        )
    return value
