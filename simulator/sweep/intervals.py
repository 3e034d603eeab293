"""Confidence intervals of means over seeds, alone and paired. Few seeds, so Student's t."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Final

T_975: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""0.975 quantiles of Student's t with 1, 2, ... 30 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with half the width of its 95 % confidence interval; None if there are too few values."""

    mean: float
    half_width: float | None
    count: int

    @property
    def low(self) -> float | None:
        """The lower end."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """The upper end."""
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def significant(self) -> bool:
        """Whether 0 is outside."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def interval(values: Sequence[float]) -> Interval | None:
    """The interval of the mean of `values`, one for each seed; None if there are none."""
    if not values:
        return None
    if len(values) == 1:
        return Interval(values[0], None, 1)
    freedom = len(values) - 1
    quantile = T_975[freedom - 1] if freedom <= len(T_975) else 1.96
    return Interval(mean(values), quantile * stdev(values) / sqrt(len(values)), len(values))


def paired(values: Sequence[float], baseline: Sequence[float]) -> Interval | None:
    """The interval of the mean of the differences, seed by seed: what both have in common drops out."""
    return interval([a - b for a, b in zip(values, baseline, strict=True)])
