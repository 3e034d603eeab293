"""Where the time of a whole simulation goes, by part of its steps."""

from collections import defaultdict

import numpy as np

from ..recording.steps import StepRuns
from .protocol import Rows, StepCost


def explain(steps: StepRuns, cost: StepCost) -> dict[str, float]:
    """Nanoseconds by part, over all steps.

    A run of equal steps counts as so many of its middle one; prompt chunks of one step count as equally long, because a
    recording has sums over rows. What that leaves unexplained of the recorded time is a part of its own.
    """
    parts: dict[str, float] = defaultdict(float)
    columns = [steps.runs[name].tolist() for name in ("rows", "tokens", "context_tokens", "attention_pairs", "steps")]
    for rows, tokens, context, pairs, count in zip(*columns, strict=True):
        middle = context + rows * ((count - 1) // 2)
        for name, ns in cost.step_parts(_typical(rows, tokens, middle, pairs)).items():
            parts[name] += ns * count
    rest = float(np.sum(steps.runs["busy_ns"])) - sum(parts.values())
    return {**dict(sorted(parts.items(), key=lambda part: -part[1])), "not explained": rest}


def _typical(rows: int, tokens: int, context: int, pairs: int) -> Rows:
    """Rows with these sums: decoding rows alike, and one chunk with what is left."""
    if tokens == rows:
        return Rows.of(decode=[context // rows] * rows)
    chunk = tokens - (rows - 1)
    start = min(max((pairs - context) // max(chunk - 1, 1) - chunk // 2, 0), context - tokens)
    others = [max((context - start - chunk) // (rows - 1), 1)] * (rows - 1) if rows > 1 else []
    return Rows.of(decode=others, prefill=[(start, chunk)])
