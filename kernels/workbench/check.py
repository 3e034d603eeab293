"""Numerics of every registered kernel on the device at hand: what `tokenspeed kernels --check` runs.

Each kernel that fits a case runs through its operation's public function and is held to exact results (see `cases`).
All memory that it allocates, results included, is NaN before the run, and so are all cache positions outside a context;
blocks are shuffled, block tables end in entries out of range. A second run must give the same bits, and on CUDA so must
a third one that is captured in a graph and replayed, unless the kernel is a reference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..kernel import Band, Kernel
from ..registry import REGISTRY
from .cases import Case, RelativeError, Results, case_makers

__all__ = ["Case", "CheckResult", "RelativeError", "Results", "check_kernel", "check_kernels", "relative_error"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The `relative_error` of each result of the operation beside what is allowed, or what was raised (`failure`).

    `same_bits`: whether all runs agreed, the one in a graph included.
    """

    operation: str
    kernel: str
    description: str
    dtype: torch.dtype
    errors: tuple[RelativeError, ...]
    tolerances: tuple[RelativeError, ...]
    same_bits: bool
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every error is within its tolerance, all runs agreed and nothing was raised."""
        pairs = zip(self.errors, self.tolerances, strict=True)
        within = all(error.whole <= allowed.whole and error.worst <= allowed.worst for error, allowed in pairs)
        return self.failure is None and self.same_bits and within  # NaN compares false


def check_kernels(
    device: torch.device,
    operations: Collection[str] = (),
    skip: int = 0,
    begin: Callable[[CheckResult], None] = lambda unfinished: None,
) -> Iterator[CheckResult]:
    """Check every kernel that fits a case on the device; kernels that fit none yield nothing.

    operations: their names; empty means all
    skip: leave out this many results from the beginning
    begin: called before each check with the result that stands for one which does not end
    """
    number = 0
    for name, make in case_makers():
        if operations and name not in operations:
            continue
        operation = REGISTRY.operation(name)
        case = None
        for kernel in operation.kernels():
            case = case or make(device)
            problem = operation.select(device, case.dtype, case.traits, "reference").problem
            if kernel.objections(problem):
                continue
            number += 1
            if number > skip:
                begin(_failed(case, kernel, "did not end"))
                yield check_kernel(case, kernel, device)


def check_kernel(case: Case, kernel: Kernel, device: torch.device | None = None) -> CheckResult:
    """Run a kernel on a case, and again, and compare. What the kernel raises is reported, not raised."""
    try:
        first, second = _poisoned(case.run, kernel.name), _poisoned(case.run, kernel.name)
        same = _equal(first, second)
        errors = tuple(relative_error(got, exact) for got, exact in zip(first, case.exact, strict=True))
        if device is not None and device.type == "cuda" and kernel.band is not Band.REFERENCE:
            same = same and _equal(first, _replayed(case.run, kernel.name, device))
    except Exception as error:  # whatever a compiler or a driver raises: the others are still to be checked
        return _failed(case, kernel, f"{type(error).__name__}: {error}")
    return CheckResult(case.operation, kernel.name, case.description, case.dtype, errors, case.tolerances, same)


def _failed(case: Case, kernel: Kernel, why: str) -> CheckResult:
    nothing = (RelativeError(float("nan"), float("nan")),) * len(case.exact)
    return CheckResult(case.operation, kernel.name, case.description, case.dtype, nothing, case.tolerances, False, why)


def _equal(first: Results, second: Results) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _replayed(run: Callable[[str], Results], kernel: str, device: torch.device) -> Results:
    """The results of a run that was captured in a CUDA graph, after the second replay."""
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(kernel)
    for _ in range(2):
        graph.replay()
    copies = tuple(result.clone() for result in results)
    torch.cuda.synchronize(device)
    return copies


def _poisoned(run: Callable[[str], Results], kernel: str) -> Results:
    with _PoisonedAllocations():  # type: ignore[no-untyped-call]
        return run(kernel)


class _PoisonedAllocations(TorchDispatchMode):
    """Fills what torch allocates uninitialised: with NaN, integers with their least value."""

    _ALLOCATE = frozenset(
        (
            torch.ops.aten.empty.memory_format,
            torch.ops.aten.empty_like.default,
            torch.ops.aten.empty_strided.default,
            torch.ops.aten.new_empty.default,
            torch.ops.aten.new_empty_strided.default,
        )
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self._ALLOCATE:
            if result.is_floating_point():
                result.fill_(torch.nan)
            elif result.dtype != torch.bool and not result.is_complex():
                result.fill_(torch.iinfo(result.dtype).min)
        return result


def relative_error(got: Tensor, exact: Tensor) -> RelativeError:
    """|got - exact| / |exact| over all values, and the largest of an index of the first dimension.

    Where `exact` is infinite `got` must be the same infinity, where it is zero throughout the error is absolute; NaN if
    `got` holds any or misses an infinity.
    """
    finite = exact.isfinite()
    if not torch.equal(got[~finite].double(), exact[~finite].double()):
        return RelativeError(float("nan"), float("nan"))
    expected = exact.double().where(finite, 0.0).flatten(1)
    difference = (got.double().where(finite, 0.0).flatten(1) - expected).norm(dim=1)
    norm = expected.norm(dim=1)
    worst = (difference / norm.where(norm > 0, 1.0)).max()
    return RelativeError(float(difference.norm() / (norm.norm() if norm.any() else 1.0)), float(worst))
