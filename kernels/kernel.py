"""What a kernel declares, what it is asked to run, and the verdict of a selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch

from .constraints import Constraint, Trait, shown
from .device import ANY_DEVICE, Capability, Platform


class Band(IntEnum):
    """Priority of a kernel among those that fit. Within a band the alphabetically first name wins."""

    REFERENCE = 0
    """The readable definition of the operation. Fits everything; runs only if nothing else fits, or on demand."""
    PORTABLE = 10
    """Runs on many devices at a reasonable speed."""
    OPTIMIZED = 20
    """Written for a family of devices."""
    SPECIALIZED = 30
    """Written for one device and a range of shapes."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a kernel is asked to run: the operation, the device's capability, the dtype of its first input, and the
    traits by name: sizes, and the layouts and dtypes of other tensors where they may differ."""

    operation: str
    capability: Capability
    dtype: torch.dtype
    traits: Mapping[str, Trait]

    def __str__(self) -> str:
        traits = "".join(f", {name}={shown(value)}" for name, value in self.traits.items())
        return f"{self.operation} on {self.capability}, {shown(self.dtype)}{traits}"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One implementation of an operation; `run` takes the arguments that the operation's public function documents.

    `dtypes` None means every dtype. A trait without a constraint may have any value. `only_by_name` says why selection
    passes over the kernel unless it is asked for by name ("never run on a device"); None means that it does not.
    """

    operation: str
    name: str
    run: Callable[..., Any]
    band: Band
    platforms: tuple[Platform, ...] = (ANY_DEVICE,)
    dtypes: frozenset[torch.dtype] | None = None
    traits: Mapping[str, Constraint] = field(default_factory=dict)
    only_by_name: str | None = None

    def objections(self, problem: Problem) -> tuple[str, ...]:
        """Why this kernel cannot run the problem; empty if it can."""
        found = []
        if not any(platform.accepts(problem.capability) for platform in self.platforms):
            found.append(f"runs on {' or '.join(map(str, self.platforms))}, not on {problem.capability}")
        if self.dtypes is not None and problem.dtype not in self.dtypes:
            accepted = ", ".join(sorted(map(shown, self.dtypes)))
            found.append(f"dtype {shown(problem.dtype)}, needs one of {accepted}")
        for trait, constraint in self.traits.items():
            value = problem.traits[trait]
            if not constraint.holds(value):
                found.append(f"{trait}={shown(value)}, needs {constraint.text}")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What selection thought of one kernel: `verdict` is "chosen", "fits", "rejected", "unavailable", or "only named"
    for one that fits but must be asked for by name."""

    name: str
    band: Band | None
    verdict: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        band = "" if self.band is None else f" [{self.band.name.lower()}]"
        return f"{self.verdict:11} {self.name}{band}: {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True)
class Selection:
    """The kernel that runs a problem, and the verdict on every candidate, best first. `str()` is made for people."""

    problem: Problem
    kernel: Kernel
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        return "\n".join([str(self.problem), *(f"  {candidate}" for candidate in self.candidates)])
