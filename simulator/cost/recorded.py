"""Replay of recorded step times: the steps of a run, each as long as it was, and refused where they differ.

A CSV file with a line for each step in order and the columns rows, tokens, context (sum over rows of the KV tokens
visible to the row's last token) and ns. What a server or another simulation has recorded is played with the same
scheduler: if it decides otherwise anywhere, the step is named. For one replica.
"""

import csv
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigurationError
from .protocol import StepRows

COLUMNS: Final = ("rows", "tokens", "context", "ns")


class RecordedTimes:
    """Step times in their order. One object serves one run."""

    def __init__(self, steps: list[tuple[int, int, int, int]], source: str) -> None:
        """steps: (rows, tokens, context, ns) of each."""
        self._steps = steps
        self._source = source
        self._next = 0

    def step_ns(self, step: StepRows, /) -> int:
        """The time of the next step. Raises ConfigurationError if the recording has another step there, or none."""
        if self._next == len(self._steps):
            raise ConfigurationError(f"{self._source} has {len(self._steps)} steps, but the simulation has more")
        rows, tokens, context, ns = self._steps[self._next]
        if (rows, tokens, context) != (step.rows, step.tokens, step.context_tokens):
            raise ConfigurationError(
                f"{self._source}: step {self._next} has {rows} rows, {tokens} tokens and context {context}, but the "
                f"simulation's has {step.rows} rows, {step.tokens} tokens and context {step.context_tokens}"
            )
        self._next += 1
        return ns

    def step_parts(self, step: StepRows, /) -> dict[str, float]:
        """A recording does not tell where the time of a step went."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What a report tells about the model."""
        return {"kind": "recorded times", "source": self._source, "steps": len(self._steps)}


def read_recorded(path: Path) -> RecordedTimes:
    """The step times in a file. Raises ConfigurationError naming line and column."""
    steps = []
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise ConfigurationError(
                f"{path.name}, line 1: column {missing[0]!r} is missing; needed: {', '.join(COLUMNS)}"
            )
        for row in rows:
            try:
                count, tokens, context, ns = (int(row[column]) for column in COLUMNS)
            except (TypeError, ValueError):
                raise ConfigurationError(
                    f"{path.name}, line {rows.line_num}: {dict(row)}; whole numbers are needed"
                ) from None
            if min(count, tokens, context, ns) < 1:
                raise ConfigurationError(f"{path.name}, line {rows.line_num}: {dict(row)}; all must be at least 1")
            steps.append((count, tokens, context, ns))
    return RecordedTimes(steps, path.name)
