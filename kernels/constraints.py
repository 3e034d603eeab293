"""Predicates on the traits of a problem (heads, head_dim, q_len, ...) that can say what they ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Trait = int | str | torch.dtype
"""The value of a trait: a size (head_dim), a name (layout) or another tensor's dtype (cache_dtype)."""


def shown(trait: Trait) -> str:
    """A trait's value as people write it."""
    return str(trait).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Constraint:
    """A predicate on one trait, and the words that complete "head_dim=96, needs ..." when it fails."""

    text: str
    holds: Callable[[Any], bool]


def exactly(value: Trait) -> Constraint:
    """The trait equals `value`."""
    return Constraint(f"exactly {shown(value)}", lambda trait: trait == value)


def one_of(*values: Trait) -> Constraint:
    """The trait is one of `values`."""
    return Constraint(f"one of {', '.join(map(shown, values))}", lambda trait: trait in values)


def at_least(value: int) -> Constraint:
    """The trait is `value` or more."""
    return Constraint(f"at least {value}", lambda trait: trait >= value)


def at_most(value: int) -> Constraint:
    """The trait is `value` or less."""
    return Constraint(f"at most {value}", lambda trait: trait <= value)


def multiple_of(value: int) -> Constraint:
    """The trait is a multiple of `value`."""
    return Constraint(f"a multiple of {value}", lambda trait: trait % value == 0)


def power_of_two() -> Constraint:
    """The trait is 1, 2, 4, 8, ..."""
    return Constraint("a power of two", lambda trait: trait > 0 and trait & (trait - 1) == 0)
