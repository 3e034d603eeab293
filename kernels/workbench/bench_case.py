"""What a problem to measure is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from ..constraints import Trait


@dataclass(frozen=True, slots=True)
class Inputs:
    """One copy of a problem's inputs: how to run a kernel of a given name on it, and peers that are not registered."""

    run: Callable[[str], object]
    peers: Mapping[str, Callable[[], object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BenchCase:
    """A problem to measure.

    bytes_moved, operations: what an ideal kernel reads and writes, and its floating-point operations
    reference_reads_values: whether the reference makes the host wait, and so cannot be captured in a graph
    """

    operation: str
    description: str
    dtype: torch.dtype
    traits: tuple[Trait, ...]
    bytes_moved: int
    operations: int
    make: Callable[[torch.device], Inputs]
    reference_reads_values: bool = False
