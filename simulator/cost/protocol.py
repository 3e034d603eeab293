"""What a cost model is asked: how long one step takes. It sees every row of the step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class StepRows(Protocol):
    """The rows of a step; the scheduler's `StepPlan` is one. A row computes some tokens of one request."""

    @property
    def rows(self) -> int:
        """Requests in the step."""

    @property
    def tokens(self) -> int:
        """Tokens over all rows."""

    @property
    def decode_rows(self) -> int:
        """Rows of requests whose prompts are complete."""

    @property
    def context_tokens(self) -> int:
        """Sum over rows of the KV tokens visible to the row's last token."""

    @property
    def attention_pairs(self) -> int:
        """Sum over rows of visible (query, key) pairs."""

    @property
    def start(self) -> NDArray[np.int32]:
        """[rows] position of each row's first token."""

    @property
    def num_tokens(self) -> NDArray[np.int32]:
        """[rows] tokens of each row."""


class StepCost(Protocol):
    """A cost model of one replica."""

    def step_ns(self, step: StepRows, /) -> int:
        """Device time of one step, nanoseconds, at least 1."""
        ...

    def step_parts(self, step: StepRows, /) -> dict[str, float]:
        """Where that time goes: nanoseconds by name of the part. They add up to `step_ns` within a nanosecond each."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a report tells about the model: its kind, its source, its figures. JSON values by name."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """A step that somebody asks about without a scheduler."""

    start: NDArray[np.int32]
    num_tokens: NDArray[np.int32]
    decode_rows: int

    @classmethod
    def of(cls, decode: Sequence[int] = (), prefill: Sequence[tuple[int, int]] = ()) -> "Rows":
        """decode: context of each decoding row, its own token included; prefill: (start, tokens) of each chunk."""
        start = [context - 1 for context in decode] + [begin for begin, _ in prefill]
        tokens = [1] * len(decode) + [count for _, count in prefill]
        return cls(np.array(start, dtype=np.int32), np.array(tokens, dtype=np.int32), len(decode))

    @property
    def rows(self) -> int:
        """Requests in the step."""
        return len(self.start)

    @property
    def tokens(self) -> int:
        """Tokens over all rows."""
        return int(self.num_tokens.sum())

    @property
    def context_tokens(self) -> int:
        """Sum over rows of the KV tokens visible to the row's last token."""
        return self.tokens + int(self.start.sum(dtype=np.int64))

    @property
    def attention_pairs(self) -> int:
        """Sum over rows of visible (query, key) pairs."""
        start, tokens = self.start.astype(np.int64), self.num_tokens.astype(np.int64)
        return int((tokens * start + tokens * (tokens + 1) // 2).sum())
