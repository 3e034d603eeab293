"""A step on its way to another process: what a runner reads of a plan, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...scheduler import StepPlan


@dataclass(frozen=True, slots=True)
class SentPlan:
    """The part of `StepPlan` that `ModelRunner` uses, under the same names."""

    step: int
    rows: int
    tokens: int
    sampling_rows: int
    slots: NDArray[np.int32]
    request_ids: NDArray[np.int64]
    start: NDArray[np.int32]
    num_tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    input_ids: NDArray[np.int32]
    outputs: NDArray[np.int32]
    table_slots: NDArray[np.int32]
    table_index: NDArray[np.int32]
    table_blocks: NDArray[np.int32]

    @classmethod
    def of(cls, plan: StepPlan) -> SentPlan:
        """A copy: the scheduler uses its arrays again."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = getattr(plan, field.name)
            values[field.name] = value.copy() if isinstance(value, np.ndarray) else int(value)
        return cls(**values)
