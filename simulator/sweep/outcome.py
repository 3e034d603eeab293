"""What a study of many cells says: means with intervals, comparisons, the Pareto front, and who holds the floor."""

from collections.abc import Sequence
from typing import Any, Final

from .cells import Row
from .experiment import Experiment
from .intervals import Interval, interval, paired

SHOWN: Final = {
    "tokens_per_s_per_user_p50": "speed p50 (tokens/s per user)",
    "tokens_per_s_per_user_p90": "speed p90 (reached by 9 of 10)",
    "good_share": "calls at the speed target",
    "goodput_share": "calls at both targets",
    "ttft_ms_p50": "TTFT p50 (ms)",
    "ttft_ms_p90": "TTFT p90 (ms)",
    "ttft_ms_mean": "TTFT mean (ms)",
    "e2e_ms_p90": "end to end p90 (ms)",
    "queue_share": "queueing, of TTFT",
    "output_tokens_per_min_per_gpu_mean": "output (tokens/min per GPU)",
    "total_tokens_per_min_per_gpu_mean": "prompt + output (tokens/min per GPU)",
    "prefix_hit_rate_mean": "prefix hits, mean of calls",
    "retractions": "retractions",
    "rejected": "rejected calls",
}
"""Columns of a cell that reports show, with their titles."""

FLOOR: Final = "tokens_per_s_per_user_p90"
"""What must not fall below the speed target."""

PARETO: Final = ("tokens_per_s_per_user_p50", "output_tokens_per_min_per_gpu_mean")
"""What is traded against one another, both better when larger."""

Choices = tuple[str, ...]
"""Values of the axes, in their order."""


class Outcome:
    """The results of a study, by combination of what is swept."""

    def __init__(self, experiment: Experiment, rows: Sequence[Row]) -> None:
        """rows: from `run_cells`."""
        self.experiment = experiment
        self.rows = rows
        self.axes = list(experiment.axes())
        self.groups: dict[Choices, list[Row]] = {}
        for row in rows:
            self.groups.setdefault(tuple(str(row[axis]) for axis in self.axes), []).append(row)
        for group in self.groups.values():
            group.sort(key=lambda row: int(row["seed"]))

    def mean(self, choices: Choices, column: str) -> Interval | None:
        """Over seeds; seeds in which nothing is known are left out."""
        return interval([row[column] for row in self.groups[choices] if row[column] is not None])

    def baseline_of(self, choices: Choices) -> Choices | None:
        """What a combination is compared with: itself but for the baseline's axes; None if that is itself."""
        chosen = {name: self._text(name) for name in self.experiment.baseline}
        other = tuple(chosen.get(axis, value) for axis, value in zip(self.axes, choices, strict=True))
        return None if other == choices or not chosen else other

    def _text(self, axis: str) -> str:
        value = self.experiment.as_json()["baseline"][axis]
        return str(value)

    def difference(self, choices: Choices, column: str) -> Interval | None:
        """Paired by seed, from the baseline; None if there is none or a seed has no value."""
        other = self.baseline_of(choices)
        if other is None:
            return None
        here, there = ([row[column] for row in self.groups[which]] for which in (choices, other))
        if None in here or None in there:
            return None
        return paired(here, there)

    def summary(self) -> list[Row]:
        """One row for each combination: means and half widths."""
        rows = []
        for choices in self.groups:
            row: Row = {**dict(zip(self.axes, choices, strict=True)), "seeds": len(self.groups[choices])}
            for column in SHOWN:
                value = self.mean(choices, column)
                row[column] = None if value is None else value.mean
                row[f"{column}_ci95"] = None if value is None else value.half_width
            row["pareto"] = choices in self.pareto()
            rows.append(row)
        return rows

    def pairs(self) -> list[Row]:
        """One row for each combination that has a baseline, and column: the difference with its interval."""
        rows = []
        for choices in self.groups:
            for column in SHOWN:
                value = self.difference(choices, column)
                if value is not None:
                    named = dict(zip(self.axes, choices, strict=True))
                    rows.append(
                        {
                            **named,
                            "metric": column,
                            "difference": value.mean,
                            "ci95": value.half_width,
                            "significant": value.significant,
                        }
                    )
        return rows

    def identical(self) -> list[Choices]:
        """Combinations whose every metric in every seed is the baseline's: what was changed decided nothing."""
        same = []
        for choices, rows in self.groups.items():
            other = self.baseline_of(choices)
            if other is not None and [self._metrics(row) for row in rows] == list(
                map(self._metrics, self.groups[other])
            ):
                same.append(choices)
        return same

    def _metrics(self, row: Row) -> Row:
        return {name: value for name, value in row.items() if name not in self.axes}

    def pareto(self) -> set[Choices]:
        """Combinations that no other beats in both."""
        points = {}
        for choices in self.groups:
            values = [self.mean(choices, column) for column in PARETO]
            if all(value is not None for value in values):
                points[choices] = tuple(value.mean for value in values if value is not None)
        return {
            choices
            for choices, point in points.items()
            if not any(
                all(a >= b for a, b in zip(other, point, strict=True)) and other != point for other in points.values()
            )
        }

    def load_axis(self) -> str | None:
        """The axis that plots have along the bottom: the swept one with the most numbers."""
        numeric = {axis: values for axis, values in self.experiment.axes().items() if all(map(_is_number, values))}
        return max(numeric, key=lambda axis: len(numeric[axis]), default=None)

    def series(self) -> dict[Choices, list[Choices]]:
        """Combinations that differ in the load only, by what they have in common, in order of the load."""
        load = self.load_axis()
        at = None if load is None else self.axes.index(load)
        lines: dict[Choices, list[Choices]] = {}
        for choices in self.groups:
            common = choices if at is None else choices[:at] + choices[at + 1 :]
            lines.setdefault(common, []).append(choices)
        if at is not None:
            for line in lines.values():
                line.sort(key=lambda choices: float(choices[at]))
        return lines

    def floors(self) -> list[Row]:
        """For each series the highest load up to which speed p90 holds the target, by its mean and for sure (95 %)."""
        load, target = self.load_axis(), self.experiment.targets.tokens_per_s
        if load is None:
            return []
        at = self.axes.index(load)
        others = [axis for axis in self.axes if axis != load]
        rows = []
        for common, line in self.series().items():
            held: dict[str, str | None] = {"mean": None, "sure": None}
            open_ = {"mean", "sure"}
            for choices in line:
                value = self.mean(choices, FLOOR)
                ends = {"mean": value.mean if value else None, "sure": value.low if value else None}
                for kind in sorted(open_):
                    if ends[kind] is not None and float(ends[kind] or 0) >= target:
                        held[kind] = choices[at]
                    else:
                        open_.discard(kind)
            named: dict[str, Any] = dict(zip(others, common, strict=True))
            rows.append({**named, f"highest {load}": held["mean"], f"highest {load}, 95 %": held["sure"]})
        return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
