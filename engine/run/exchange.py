"""How a step's inputs reach the device and its results come back, without anybody waiting on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .step_arrays import StepArrays, StepShape, buffer_bytes, device_arrays, host_arrays
from .step_result import SampledRows, StepResult


class LaunchedStep:
    """A step that the device may still be computing."""

    def __init__(self, exchange: Exchange, lane: _Lane, rows: SampledRows, results: torch.Tensor) -> None:
        self._exchange = exchange
        self._lane = lane
        self._rows = rows
        self._results = results

    def wait(self) -> StepResult:
        """Return when the device has run the step, whether or not it sampled anything. Called once.

        Raises what torch raises if the device failed.
        """
        if self._lane.event is not None:
            self._lane.event.synchronize()
        results = self._results.numpy().copy()  # the lane is used again
        self._exchange.give_back(self._lane)
        return self._rows.accept(results[:, 0], results[:, 1].astype(np.bool_))


@dataclass(frozen=True, slots=True)
class _Lane:
    """Host memory of one step in flight, pinned if there is a GPU, and the event that says when it is free again."""

    inputs: torch.Tensor
    results: torch.Tensor
    event: torch.cuda.Event | None


class Exchange:
    """Buffers on both sides, allocated once for steps of up to `largest`.

    The device's buffer belongs to the step that runs: the next one's inputs are copied into it behind that step, in
    stream order. On the host each step in flight has a lane of its own.
    """

    def __init__(self, largest: StepShape, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._largest = largest
        self._device = torch.empty(buffer_bytes(largest), dtype=torch.uint8, device=device)
        # Rows first, so that the first results adjoin: a copy that has to gather them would make the host wait.
        self.results = torch.zeros((largest.results, 2), dtype=torch.int32, device=device)
        """[results, 2] the tokens that the device samples, and whether the logits were finite."""
        self._free: deque[_Lane] = deque()

    def device_arrays(self, shape: StepShape) -> StepArrays[torch.Tensor]:
        """Where a step of this shape finds its inputs: the same memory for every step of the shape."""
        return device_arrays(self._device, shape)

    def send(
        self, shape: StepShape, write: Callable[[StepArrays[NDArray[np.generic]]], None]
    ) -> tuple[_Lane, StepArrays[torch.Tensor]]:
        """Have `write` fill the inputs, and queue their copy to the device."""
        try:
            lane = self._free.popleft()
        except IndexError:  # more steps are in flight than ever before
            lane = self._new_lane()
        size = buffer_bytes(shape)
        write(host_arrays(lane.inputs.numpy(), shape))
        self._device[:size].copy_(lane.inputs[:size], non_blocking=True)
        return lane, self.device_arrays(shape)

    def receive(self, lane: _Lane, results: int, rows: SampledRows) -> LaunchedStep:
        """Queue the copy of the first `results` results to the host. `rows`: which of them the plan asks for."""
        landing = lane.results[:results]
        if results:
            landing.copy_(self.results[:results], non_blocking=True)
        if lane.event is not None:
            lane.event.record()
        return LaunchedStep(self, lane, rows, landing)

    def give_back(self, lane: _Lane) -> None:
        """The step of this lane is over."""
        self._free.append(lane)

    def _new_lane(self) -> _Lane:
        return _Lane(
            torch.empty(buffer_bytes(self._largest), dtype=torch.uint8, pin_memory=self._pinned),
            torch.empty((self._largest.results, 2), dtype=torch.int32, pin_memory=self._pinned),
            torch.cuda.Event(blocking=True) if self._pinned else None,
        )
