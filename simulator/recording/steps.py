"""Steps as runs of equal ones, so that memory grows with what happens and not with how long it lasts.

A run is a series of steps of one replica that differ only in time and in contexts that grow by one token a row.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

STEP_FIELDS: Final = (
    "replica",
    "start_ns",
    "end_ns",
    "rows",
    "tokens",
    "decode_rows",
    "sampled",
    "context_tokens",
    "attention_pairs",
    "held_blocks",
    "cached_blocks",
    "running",
    "waiting",
)
"""Columns of the step table; the last four are levels right after the step was planned."""

RUN_FIELDS: Final = (*STEP_FIELDS, "steps", "gap_ns", "busy_ns")
"""Columns of the table of runs: of the first step, but for end_ns, which is the last step's; how many steps; the time
between the end of one and the start of the next; and the time of all of them together."""

LEVELS: Final = ("rows", "tokens", "decode_rows", "sampled", "held_blocks", "cached_blocks", "running", "waiting")
"""What is equal for all steps of a run."""


@dataclass(frozen=True, slots=True)
class StepRuns:
    """The steps of a simulation, by replica and in time. Columns are int64."""

    runs: dict[str, NDArray[np.int64]]
    """[runs] each; see RUN_FIELDS."""
    durations_ns: NDArray[np.int64]
    """[steps] of each step, in the order of the runs."""

    def __len__(self) -> int:
        return len(self.durations_ns)

    def table(self, first: int = 0, last: int | None = None) -> dict[str, NDArray[np.int64]]:
        """[steps] columns of the steps from run `first` to before run `last`, see STEP_FIELDS: 104 bytes a step."""
        every = self.runs["steps"]
        last = len(every) if last is None else last
        runs = {name: column[first:last] for name, column in self.runs.items()}
        counts = runs["steps"]
        begin = int(every[:first].sum())
        durations = self.durations_ns[begin : begin + int(counts.sum())]
        run_of = np.repeat(np.arange(len(counts)), counts)
        ends = np.cumsum(counts)
        number = np.arange(len(durations)) - np.repeat(ends - counts, counts)  # within its run
        total = np.cumsum(durations)
        before = total - durations  # time of all earlier steps, of other runs too
        before -= np.repeat(before[ends - counts] if len(counts) else before, counts)
        start = runs["start_ns"][run_of] + before + number * runs["gap_ns"][run_of]
        table = {name: runs[name][run_of] for name in STEP_FIELDS}
        table["start_ns"], table["end_ns"] = start, start + durations
        table["context_tokens"] = table["context_tokens"] + number * table["rows"]
        table["attention_pairs"] = table["attention_pairs"] + number * table["rows"]
        return table


class StepRecorder:
    """Takes down the steps of one replica in their order."""

    def __init__(self, replica: int) -> None:
        self._replica = replica
        self.runs: array[int] = array("q")
        self.durations: array[int] = array("q")
        self._levels: tuple[int, ...] = ()
        self._steps = self._start = self._end = self._gap = self._busy = 0
        self._context = self._pairs = 0  # of the first step

    def add(self, start: int, end: int, context: int, pairs: int, levels: tuple[int, ...]) -> None:
        """A step. `levels`: see LEVELS."""
        steps = self._steps
        if (
            levels == self._levels
            and context == self._context + steps * levels[0]
            and pairs == self._pairs + steps * levels[0]
            and (start - self._end == self._gap or steps == 1)
        ):
            self._gap = start - self._end
            self._steps = steps + 1
            self._busy += end - start
        else:
            self.close()
            self._levels, self._start, self._context, self._pairs = levels, start, context, pairs
            self._steps, self._gap, self._busy = 1, 0, end - start
        self._end = end
        self.durations.append(end - start)

    def close(self) -> None:
        """Nothing joins the last run any more."""
        if self._steps:
            rows, tokens, decode_rows, sampled, held, cached, running, waiting = self._levels
            self.runs.extend(
                (self._replica, self._start, self._end, rows, tokens, decode_rows, sampled, self._context, self._pairs)
            )
            self.runs.extend((held, cached, running, waiting, self._steps, self._gap, self._busy))
        self._steps = 0
        self._levels = ()


def recorded(replicas: Sequence[StepRecorder]) -> StepRuns:
    """The steps of all replicas."""
    for replica in replicas:
        replica.close()
    return joined([(as_columns(replica.runs), as_columns(replica.durations)) for replica in replicas])


def joined(replicas: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> StepRuns:
    """The steps of all replicas, from (flat runs, durations) of each."""
    table = np.concatenate([runs for runs, _ in replicas]).reshape(-1, len(RUN_FIELDS))
    runs = {name: table[:, number] for number, name in enumerate(RUN_FIELDS)}
    return StepRuns(runs, np.concatenate([durations for _, durations in replicas]))


def as_columns(values: "array[int]") -> NDArray[np.int64]:
    """A view of the values."""
    return np.frombuffer(values, dtype=np.int64) if values else np.empty(0, dtype=np.int64)
