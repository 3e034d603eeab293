"""Batches for the tests of MLA decode, shared with the cases that run under Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tokenspeed.kernels import mla_decode

SCALE = 576**-0.5


@dataclass(frozen=True)
class MlaBatch:
    """Random rows over a shuffled page table; everything that must not be read is poisoned."""

    q: Tensor
    kv_cache: Tensor
    block_table: Tensor
    context_lens: Tensor
    scale: float = SCALE

    def oracle(self) -> tuple[Tensor, Tensor]:
        """The definition in float64, on the inputs as rounded to their dtype."""
        return mla_decode(
            self.q.double(),
            self.kv_cache.double(),
            self.block_table,
            self.context_lens,
            scale=self.scale,
            kernel="reference",
        )

    def poisoned_results(self) -> tuple[Tensor, Tensor]:
        """Buffers for out and lse that are NaN until written."""
        rows, q_len, heads, _ = self.q.shape
        out = torch.full((rows, q_len, heads, 512), torch.nan, dtype=self.q.dtype)
        return out, torch.full((rows, q_len, heads), torch.nan)


def _make_mla_batch(
    contexts: list[int],
    *,
    q_len: int = 1,
    heads: int = 16,
    block_size: int = 64,
    dtype: torch.dtype = torch.float32,
    magnitude: float = 1.0,
    seed: int = 0,
) -> MlaBatch:
    """`magnitude` is the standard deviation of the scores. Cache positions outside all contexts are NaN, and entries of
    the block table behind a context are out of range."""
    random = torch.Generator().manual_seed(seed)
    per_row = [-(-context // block_size) for context in contexts]
    spare = 2
    order = torch.randperm(sum(per_row) + spare, generator=random).int()
    block_table = torch.full((len(contexts), max(per_row) + 1), 2**30, dtype=torch.int32)
    kv_cache = torch.full((len(order), block_size, 576), torch.nan)
    used = 0
    for row, (context, blocks) in enumerate(zip(contexts, per_row, strict=True)):
        block_table[row, :blocks] = order[used : used + blocks]
        for index in range(blocks):
            filled = min(block_size, context - index * block_size)
            kv_cache[order[used + index], :filled] = torch.randn(filled, 576, generator=random)
        used += blocks
    q = torch.randn(len(contexts), q_len, heads, 576, generator=random) * magnitude
    return MlaBatch(q.to(dtype), kv_cache.to(dtype), block_table, torch.tensor(contexts, dtype=torch.int32))


@pytest.fixture
def make_mla_batch() -> Callable[..., MlaBatch]:
    """See `_make_mla_batch`."""
    return _make_mla_batch


def _relative_error(got: Tensor, expected: Tensor) -> float:
    """|got - expected| / |expected| in the Euclidean norm; NaN anywhere in `got` gives NaN, which compares false."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """See `_relative_error`."""
    return _relative_error
