"""What the control loop needs of those who run steps and copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...scheduler import CopyBatch, StepPlan
from ..run.step_result import StepResult
from ..text.sampling_params import SamplingParams


class HungStep(RuntimeError):
    """The device does not end a step."""


class RunnerLost(RuntimeError):
    """The runner will never execute a step again: a rank is gone."""


class PendingStep(Protocol):
    """A step that the device may still be computing."""

    def wait(self) -> StepResult:
        """Return when the device has run the step, also if nothing is sampled. Called once, on any thread."""
        ...


class Runner(Protocol):
    """What executes steps: `ModelRunner`, or a stand-in in tests. `launch` is called on one thread."""

    def launch(self, plan: StepPlan, sampling: Mapping[int, SamplingParams]) -> PendingStep:
        """Start the step behind those that were launched before; `sampling` is by request id."""
        ...


@runtime_checkable
class WatchedRunner(Protocol):
    """A runner that may be lost while no step runs."""

    def watch(self, lost: Callable[[Exception], None]) -> None:
        """Have `lost` called when it is, on any thread."""
        ...


class Copier(Protocol):
    """What executes copies between device and host: `HostPages`, or a stand-in in tests."""

    def copy(self, batch: CopyBatch) -> None:
        """Execute the copies and return when they have ended."""
        ...


def checked(result: StepResult | Exception, outputs: NDArray[np.int32]) -> StepResult | Exception:
    """The runner's result if it fits what the plan's rows may yield, else what is wrong."""
    if isinstance(result, Exception):
        return result
    most = outputs[outputs > 0]
    for name, array in (("counts", result.counts), ("healthy", result.healthy)):
        if array.shape != most.shape:
            return ValueError(f"the runner returned {name} of shape {array.shape} for {len(most)} sampling rows")
    if ((result.counts < 1) | (result.counts > most)).any():
        return ValueError(f"the runner returned {result.counts.tolist()} tokens for rows of at most {most.tolist()}")
    if result.tokens.shape != (int(result.counts.sum()),):
        return ValueError(f"the runner returned tokens of shape {result.tokens.shape} for {result.counts.sum()} in all")
    if len(most) and int(result.tokens.min()) < 0:
        return ValueError(f"the runner returned a negative token id: {int(result.tokens.min())}")
    return StepResult(result.tokens.astype(np.int32, copy=False), result.counts, result.healthy)
