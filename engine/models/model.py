"""What a model is to the rest of the engine, and what it is given in a step."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from .cache_layout import CacheLayout

if TYPE_CHECKING:
    from ..run.kv_cache import KVCache

T = TypeVar("T")


class DecodePlan(Protocol):
    """How an attention kernel divides a batch: device buffers sized by shapes, such as `kernels.MlaPlan`."""

    def fill(self, context_lens: torch.Tensor) -> None:
        """Plan for these lengths, int32 [rows] on the device, without a host synchronisation (may be captured)."""


@dataclass(frozen=True, slots=True)
class RowLengths:
    """Lengths of the rows of a step, on the host."""

    queries: NDArray[np.int32]
    """[rows] tokens that each row has in this step."""
    contexts: NDArray[np.int32]
    """[rows] tokens of each row's sequence, including those of this step."""


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Where the packed tokens of a step belong: rows of requests one after the other, decode and prefill alike.

    A row that pads a step of fixed size has one token in a block that no request owns.
    """

    positions: torch.Tensor
    """[tokens] integer, position of each token in its sequence."""
    slot_mapping: torch.Tensor
    """[tokens] int64, block * block_size + offset: where what the token adds to the cache goes."""
    block_table: torch.Tensor
    """[rows, columns] int32, the blocks of each row in order."""
    context_lens: torch.Tensor
    """[rows] int32, tokens of each row's sequence including the ones of this step."""
    query_start: torch.Tensor
    """[rows + 1] int32, where each row begins among the packed tokens."""
    lengths: RowLengths | None = None
    """None only if `row_tokens` is given: such a step can be captured, for nothing about it is read on the host."""
    row_tokens: int | None = None
    """How many tokens every row has, if all have the same number and the rows decode; else None."""
    decode_plan: DecodePlan | None = None
    """What `Model.plan_decode` made for this shape, filled for these `context_lens`; None lets the model make one."""
    derived: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)
    """What the first layer of the step computed for those after it."""

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of `compute`, computed by the first layer that asks for `key` in this step."""
        if key not in self.derived:
            self.derived[key] = compute()
        value: T = self.derived[key]
        return value


class Model(Protocol):
    """Weights on one device (a rank's part of them), and the forward pass.

    `forward` and `logits` read no tensor on the host and decide nothing by values if `StepInputs.row_tokens` is given,
    so that they can be captured as a CUDA graph.
    """

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""

    @property
    def max_positions(self) -> int:
        """Longest sequence, prompt and output together, in tokens."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """In which the model computes."""

    @property
    def cache_layout(self) -> CacheLayout:
        """What a token adds to the cache."""

    def plan_decode(
        self, context_lens: torch.Tensor, *, row_tokens: int, block_size: int, max_context: int
    ) -> DecodePlan | None:
        """A plan for steps of as many rows as `context_lens` (int32 [rows], on the device) with `row_tokens` tokens
        each; None if the model's attention needs none. `max_context` bounds every context over the plan's life."""

    def forward(self, input_ids: torch.Tensor, step: StepInputs, cache: KVCache) -> torch.Tensor:
        """Run all layers over the packed tokens and write what they add into `cache`.

        `input_ids`: [tokens] integer. Returns what `logits` takes, [tokens, hidden].
        """

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of the next token, [n, vocab_size], for rows [n, hidden] of the result of `forward`."""
