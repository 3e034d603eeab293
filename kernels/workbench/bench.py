"""Speed of every registered kernel on the device at hand: what `tokenspeed kernels --bench` runs.

All kernels of an operation that fit, its reference and named peers take turns in one process, on copies of the inputs
that together exceed the L2 cache. On CUDA launches are replayed in a graph, except those that read values on the host.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from ..constraints import shown
from ..errors import KernelDoesNotFit
from ..kernel import Band, Kernel
from ..registry import REGISTRY
from .bench_case import BenchCase, Inputs
from .bench_problems import cases
from .timing import Launches, measure, rotations


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Microseconds of a call, median of the rounds, and their least and largest; None and `failure` if it failed.

    `gigabytes_per_s` and `teraflops_per_s` follow from the least that has to be moved and computed. `peer` tells a
    named implementation, or the reference, from a kernel.
    """

    operation: str
    description: str
    dtype: str
    name: str
    us: float | None
    us_range: tuple[float, float] | None
    gigabytes_per_s: float
    teraflops_per_s: float
    copies: int
    failure: str | None = None
    peer: bool = False
    chosen: bool = False


def bench_operation(operation: str, device: torch.device, rounds: int = 5) -> Iterator[BenchResult]:
    """Measure all kernels of an operation on all of its cases. What one raises costs that one only."""
    for case in cases(device):
        if case.operation == operation:
            yield from bench_case(case, device, rounds)
            if device.type == "cuda":
                torch.cuda.empty_cache()


def bench_case(case: BenchCase, device: torch.device, rounds: int = 5) -> list[BenchResult]:
    """Measure all kernels that fit a case, and its peers, in turns; the chosen kernel first, the reference last."""
    copies = [case.make(device) for _ in range(rotations(case.bytes_moved, device))]
    target = REGISTRY.operation(case.operation)
    problem = target.problem(device, case.dtype, case.traits)
    try:
        chosen = target.judge(problem).kernel.name
    except KernelDoesNotFit:  # the one that a variable names: the others are still to be measured
        chosen = ""
    fitting = [kernel for kernel in target.kernels() if not kernel.objections(problem)]
    failures: dict[str, str] = {}
    variants: dict[str, Launches] = {}
    for name, launches in _variants(fitting, copies):
        try:
            launches[0]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            variants[name] = launches
        except Exception as error:  # as in the check: the others are still to be measured
            failures[name] = f"{type(error).__name__}: {error}"
    eager = [kernel.name for kernel in fitting if kernel.band is Band.REFERENCE and case.reference_reads_values]
    # What is launched one by one may take long: a few copies are enough.
    variants = {name: launches[:4] if name in eager else launches for name, launches in variants.items()}
    times = measure(variants, device, rounds=rounds, eager=eager)
    kernels = {kernel.name: kernel for kernel in fitting}
    results = []
    for name, _ in _variants(fitting, copies):
        peer = name not in kernels or kernels[name].band is Band.REFERENCE
        common = (case.operation, case.description, shown(case.dtype), name)
        if name in failures:
            results.append(BenchResult(*common, None, None, 0, 0, len(copies), failures[name], peer))
            continue
        us = statistics.median(times[name])
        results.append(
            BenchResult(
                *common,
                round(us, 3),
                (round(min(times[name]), 3), round(max(times[name]), 3)),
                round(case.bytes_moved / us * 1e-3, 3),
                round(case.operations / us * 1e-6, 3),
                len(variants[name]),
                peer=peer,
                chosen=name == chosen,
            )
        )
    return results


def _variants(fitting: list[Kernel], copies: list[Inputs]) -> Iterator[tuple[str, Launches]]:
    for kernel in fitting:
        yield kernel.name, [partial(copy.run, kernel.name) for copy in copies]
    for name in copies[0].peers:
        yield name, [copy.peers[name] for copy in copies]
