"""The offline tuner: times every choice of a kernel on the device at hand and keeps the best of each shape."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..timing import Launches, measure
from .table import Choice, Entry, device_name, triton_version

Shape = Mapping[str, int]
Prepared = Callable[[Choice], Launches]
"""Launches with a choice, on inputs that were made before."""


@dataclass(frozen=True, slots=True)
class Tunable:
    """What the tuner needs to know of a kernel.

    shapes: those to measure, with the names that the kernel gives to `tuned`, no two in one bucket
    choices: what is possible for a shape; the first is what the kernel's own rule takes
    prepare: makes inputs of a shape on a device, enough copies that the cache does not hold them
    """

    operation: str
    kernel: str
    shapes: Sequence[Shape]
    choices: Callable[[Shape, torch.device], Sequence[Choice]]
    prepare: Callable[[Shape, torch.device], Prepared]


TUNABLES: dict[tuple[str, str], Tunable] = {}
"""By operation and kernel; filled as the modules of kernels are imported."""


def tunable(declared: Tunable) -> Tunable:
    """Add a kernel to those that `python -m tokenspeed.kernels.tuning` tunes."""
    TUNABLES[declared.operation, declared.kernel] = declared
    return declared


def tune(declared: Tunable, device: torch.device, rounds: int = 7) -> Iterator[tuple[Shape, Entry | None]]:
    """Measure shape by shape. None stands for a shape whose own rule is as good as anything else.

    A choice counts as better if it saves 3 % and, as short calls vary more, 10 % below 100 microseconds. One that the
    device cannot launch is left out.
    """
    for shape in declared.shapes:
        rule, *others = declared.choices(shape, device)
        launches_of = declared.prepare(shape, device)
        variants = {"0": launches_of(rule)}
        for index, choice in enumerate(others, start=1):
            try:
                launches = launches_of(choice)
                launches[0]()
            except RuntimeError:  # Triton's OutOfResources among them
                continue
            variants[str(index)] = launches
        medians = {name: statistics.median(times) for name, times in measure(variants, device, rounds=rounds).items()}
        best = min(medians, key=lambda name: medians[name])
        rule_us, us = medians["0"], medians[best]
        worthwhile = us < rule_us * (0.90 if rule_us < 100 else 0.97)
        choice = rule if best == "0" else others[int(best) - 1]
        entry = Entry(device_name(device), triton_version(), dict(shape), dict(choice), round(us, 2), round(rule_us, 2))
        yield shape, entry if worthwhile else None
