"""Times whole steps of a runner over a grid of shapes, without a scheduler: prompts are made up, and so is their KV."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ...scheduler import StepPlan
from ..run.runner import ModelRunner
from ..text.sampling_params import GREEDY

ROUNDS = 3
"""Times that a point is measured; the median counts."""
BACK_TO_BACK = 4
"""Steps of a round: as in serving, each is launched while the one before it runs."""


@dataclass(frozen=True, slots=True)
class Point:
    """A step of `rows` equal rows, and how long it takes."""

    rows: int
    tokens: int
    """New tokens of each row."""
    context: int
    """KV tokens that each row's last token sees, itself included."""
    ns: int = 0


class _Step:
    """A plan of equal rows, in the blocks that follow each other. Stands for what a scheduler would give."""

    def __init__(self, point: Point, block_size: int, number: int) -> None:
        rows, count = point.rows, point.tokens
        blocks = -(-point.context // block_size)
        self.step = number
        self.rows, self.tokens, self.sampling_rows = rows, rows * count, rows
        self.request_ids = np.arange(rows, dtype=np.int64)
        self.slots = np.arange(rows, dtype=np.int32)
        self.start = np.full(rows, point.context - count, dtype=np.int32)
        self.num_tokens = np.full(rows, count, dtype=np.int32)
        self.outputs = np.ones(rows, dtype=np.int32)
        self.input_ids = np.full(rows * count, 1, dtype=np.int32)
        self.positions = np.tile(np.arange(point.context - count, point.context, dtype=np.int32), rows)
        self.table_slots = np.repeat(self.slots, blocks)
        self.table_index = np.tile(np.arange(blocks, dtype=np.int32), rows)
        self.table_blocks = np.arange(rows * blocks, dtype=np.int32)

    def again(self) -> None:
        """The block table is as it should be from now on."""
        empty: NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self.table_slots = self.table_index = self.table_blocks = empty


class StepTimer:
    """Runs steps of any shape on one runner, whose cache is filled with random values first."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._steps = 0
        for pool in runner.cache.pools:
            for tensor in pool:
                tensor.normal_()

    def fits(self, point: Point) -> bool:
        """Whether the cache and the model hold such a step."""
        cache = self._runner.cache
        blocks = point.rows * -(-point.context // cache.block_size)
        return blocks <= cache.num_blocks and point.context <= self._runner.model.max_positions

    def measure(self, point: Point) -> Point:
        """The point with its time: the median of rounds of steps that are launched one behind the other."""
        plan = _Step(point, self._runner.cache.block_size, self._steps)
        self._run(plan, 2)  # compiles, and takes memory
        seconds = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            self._run(plan, BACK_TO_BACK)
            seconds.append((time.perf_counter() - begin) / BACK_TO_BACK)
        return Point(point.rows, point.tokens, point.context, round(statistics.median(seconds) * 1e9))

    def _run(self, plan: _Step, times: int) -> None:
        launched = []
        for _ in range(times):
            self._steps += 1
            plan.step = self._steps
            launched.append(self._runner.launch(cast(StepPlan, plan), dict.fromkeys(range(plan.rows), GREEDY)))
            plan.again()
        for step in launched:
            step.wait()
        if self._runner.model.device.type == "cuda":
            torch.cuda.synchronize(self._runner.model.device)


def grid(max_rows: int, max_step_tokens: int, max_context: int) -> Iterator[Point]:
    """Decoding points over rows and contexts, then prompt points over chunks and what stands before them.

    Every number of rows has a point at the smallest context, and every chunk one with nothing before it. Raises
    ValueError unless there can be both.
    """
    if max_rows < 1 or max_step_tokens < 2 or max_context < 2:
        raise ValueError(
            f"max_rows={max_rows}, max_step_tokens={max_step_tokens} and max_context={max_context} leave nothing to "
            "measure: give at least 1, 2 and 2"
        )
    contexts = _powers(128, max_context, 4)
    for rows in _powers(1, max_rows, 2):
        for context in contexts:
            yield Point(rows, 1, context)
    for tokens in _powers(16, min(max_step_tokens, max_context), 2):
        for before in (0, *_powers(2048, max_context - tokens, 4)):
            if before + tokens <= max_context:
                yield Point(1, tokens, before + tokens)


def _powers(first: int, last: int, factor: int) -> Sequence[int]:
    """first, first * factor, ... below `last`, then `last` itself; nothing if `last` is below 1."""
    found = []
    value = first
    while value < last:
        found.append(value)
        value *= factor
    return [*found, last] if last >= 1 else found
