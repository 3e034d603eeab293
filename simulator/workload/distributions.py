"""Distributions of a generated workload, sampled by inverting their cumulative distribution.

One uniform number gives one sample, so a seed gives the same workload on every machine.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import Protocol

from ..errors import ConfigurationError


class Distribution(Protocol):
    """Anything that turns a uniform number into a sample."""

    def sample(self, uniform: float) -> float:
        """The quantile at `uniform`, 0 <= uniform < 1."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every value between `least` and `most` is equally likely; equal bounds make a constant."""

    least: float
    most: float

    def __post_init__(self) -> None:
        if not self.least <= self.most:
            raise ConfigurationError(f"least is {self.least} and most is {self.most}; least must not be larger")

    def sample(self, uniform: float) -> float:
        """The quantile at `uniform`."""
        return self.least + (self.most - self.least) * uniform


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A positive quantity given by quantiles (share, value), geometrically interpolated between them."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.points]
        values = [value for _, value in self.points]
        rising = all(a < b for a, b in pairwise(shares))
        if len(shares) < 2 or shares[0] != 0 or shares[-1] != 1 or not rising:
            raise ConfigurationError(f"points have shares {shares}; they must rise from 0 to 1")
        if values[0] <= 0 or values != sorted(values):
            raise ConfigurationError(f"points have values {values}; they must be above 0 and not fall")

    def sample(self, uniform: float) -> float:
        """The quantile at `uniform`."""
        upper = min(bisect_right(self.points, (uniform, float("inf"))), len(self.points) - 1)
        (share_a, value_a), (share_b, value_b) = self.points[upper - 1], self.points[upper]
        weight = (uniform - share_a) / (share_b - share_a)
        return exp(log(value_a) + weight * (log(value_b) - log(value_a)))
