"""What a case is, and contexts in pages for those that need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...constraints import Trait

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class RelativeError(NamedTuple):
    """|got - exact| / |exact| in the Euclidean norm: of the whole result, and of its worst index of the first dimension
    (row, token or block)."""

    whole: float
    worst: float


_HALF_BITS = 1 / 8
"""float16 has three more bits than bfloat16."""
TOLERANCES = {
    torch.float32: RelativeError(1e-5, 1e-5),
    torch.bfloat16: RelativeError(2.5e-3, 2.5e-3),
    torch.float16: RelativeError(2.5e-3 * _HALF_BITS, 2.5e-3 * _HALF_BITS),
}
"""Bounds. Rounding values to bfloat16 costs 1.7e-3, so that there is room for two independent roundings: 2.35e-3."""
LSE_TOLERANCE = RelativeError(1e-3, 1e-3)
EXACT = RelativeError(0.0, 0.0)


def tolerance(dtype: torch.dtype, bfloat16: RelativeError) -> RelativeError:
    """Bounds of a result for which those of bfloat16 are others than in `TOLERANCES`."""
    if dtype is torch.float32:
        return TOLERANCES[dtype]
    scale = 1.0 if dtype is torch.bfloat16 else _HALF_BITS
    return RelativeError(bfloat16.whole * scale, bfloat16.worst * scale)


Results = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A problem of an operation, its exact results (float64), and how to run a kernel of a given name on it."""

    operation: str
    description: str
    dtype: torch.dtype
    traits: tuple[Trait, ...]
    run: Callable[[str], Results]
    exact: Results
    tolerances: tuple[RelativeError, ...]


MakeCase = Callable[[torch.device, torch.Generator], Case]


@dataclass(frozen=True, slots=True)
class PagedContexts:
    """Random vectors of each row's context in shuffled blocks; NaN everywhere else.

    contexts: per row [context, ...]; cache: [blocks, block_size, ...]; block_table, context_lens: int32.
    """

    contexts: list[Tensor]
    cache: Tensor
    block_table: Tensor
    context_lens: Tensor


def page(
    lengths: list[int], block_size: int, shape: tuple[int, ...], dtype: torch.dtype, random: torch.Generator
) -> PagedContexts:
    """Contexts of these lengths; entries of the block table behind a context are out of range."""
    per_row = [-(-length // block_size) for length in lengths]
    order = torch.randperm(sum(per_row) + 2, generator=random)
    cache = torch.full((len(order), block_size, *shape), torch.nan, dtype=dtype)
    table = torch.full((len(lengths), max(per_row) + 1), 2**30, dtype=torch.int32)
    contexts, used = [], 0
    for row, (length, blocks) in enumerate(zip(lengths, per_row, strict=True)):
        context = torch.randn(length, *shape, generator=random).to(dtype)
        position = torch.arange(length)
        own = order[used : used + blocks]
        cache[own[position // block_size], position % block_size] = context
        table[row, :blocks] = own.int()
        contexts.append(context)
        used += blocks
    return PagedContexts(contexts, cache, table, torch.tensor(lengths, dtype=torch.int32))


def dense_attention(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Results:
    """out and lse in float64 of one row: q [queries, heads, d], keys and values [context, heads, d] or [context, d]."""
    new, context = len(q), len(keys)
    key_dims = "khd" if keys.ndim == 3 else "kd"
    scores = torch.einsum(f"qhd,{key_dims}->qhk", q.double(), keys.double()) * scale
    visible = torch.ones(new, context, dtype=torch.bool).tril_(context - new)[:, None]
    scores = scores.where(visible, -torch.inf)
    weights = scores.softmax(-1).where(visible, 0.0)
    return torch.einsum(f"qhk,{key_dims}->qhd", weights, values.double()), scores.logsumexp(-1)
