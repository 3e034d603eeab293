"""How a ragged batch is run on the CPU: decode rows in groups of similar length, prefill rows one by one.

The plan depends on lengths and block tables only, so the layers of a model share one: see `plan_batch`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import check_contexts, check_query_start

_Ints = NDArray[np.int32]

_SHORT = 256
"""Contexts up to this many tokens are grouped whatever their lengths: padding costs less than another call."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows of one query each whose contexts are gathered and padded to a common length.

    tokens: int64 [rows], their queries; blocks: int32 [rows * blocks_per_row], what to gather, padded with block 0;
    visible: bool [rows, 1, 1, length], or None if nothing is padded; padding: int64, indices of the padded positions in
    [rows * length]. `length` is blocks_per_row * block_size, except that a single row needs no padding at all.
    """

    tokens: Tensor
    blocks: Tensor
    length: int
    visible: Tensor | None
    padding: Tensor | None


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """A row of queries `first:last` over `context` tokens in `blocks` (int32)."""

    first: int
    last: int
    context: int
    blocks: Tensor


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """All rows of a batch that have a query."""

    decode: tuple[DecodeGroup, ...]
    prefill: tuple[PrefillRow, ...]


@dataclass(frozen=True, slots=True)
class _PlannedBatch:
    limits: tuple[int, ...]
    arrays: tuple[_Ints, ...]
    plan: BatchPlan


_last: _PlannedBatch | None = None


def plan_batch(
    block_table: Tensor,
    context_lens: Tensor,
    query_start: Tensor,
    *,
    tokens: int,
    num_blocks: int,
    block_size: int,
    group_tokens: int,
) -> BatchPlan:
    """The plan of a batch; arguments as in `paged_attention`, on the CPU.

    `group_tokens` bounds the gathered tokens of a decode group (a group has at least two rows regardless, if there are
    two). The last plan is kept and returned again for equal arguments, compared by value: planning anew in each layer
    would cost as much as attention over a short context. Raises ValueError for lengths that contradict each other
    and for blocks that the cache does not have.
    """
    global _last
    limits = (tokens, num_blocks, block_size, group_tokens)
    arrays = (block_table.numpy(), context_lens.numpy(), query_start.numpy())
    last = _last
    if last is not None and last.limits == limits and all(map(np.array_equal, last.arrays, arrays)):
        return last.plan
    check_contexts(block_table, context_lens, block_size, num_blocks)
    check_query_start(query_start.tolist(), context_lens.tolist(), tokens)
    plan = _plan(*arrays, block_size, group_tokens)
    _last = _PlannedBatch(limits, tuple(array.copy() for array in arrays), plan)
    return plan


def _plan(table: _Ints, contexts: _Ints, starts: _Ints, block_size: int, group_tokens: int) -> BatchPlan:
    lengths = np.diff(starts)
    decode = np.flatnonzero(lengths == 1)
    decode = decode[np.argsort(-contexts[decode], kind="stable")]
    groups = _group(contexts[decode].tolist(), block_size, group_tokens)
    prefill = []
    for row in np.flatnonzero(lengths > 1).tolist():
        context = int(contexts[row])
        blocks = torch.from_numpy(table[row, : -(-context // block_size)].copy())
        prefill.append(PrefillRow(int(starts[row]), int(starts[row + 1]), context, blocks))
    return BatchPlan(
        tuple(_decode_group(table, contexts, starts, decode[rows], block_size) for rows in groups), tuple(prefill)
    )


def _group(contexts: list[int], block_size: int, group_tokens: int) -> list[slice]:
    """Cut rows, sorted by falling context, where padding would double the work or a group would become too large."""
    groups = []
    begin = 0
    for row, context in enumerate(contexts):
        longest = contexts[begin]
        too_short = longest > _SHORT and 2 * context < longest
        too_large = row - begin >= 2 and (row - begin + 1) * longest > group_tokens
        if too_short or too_large:
            groups.append(slice(begin, row))
            begin = row
    if contexts:
        groups.append(slice(begin, len(contexts)))
    return groups


def _decode_group(table: _Ints, contexts: _Ints, starts: _Ints, rows: NDArray[np.intp], block_size: int) -> DecodeGroup:
    context = contexts[rows]
    longest = int(context[0])
    blocks_per_row = -(-longest // block_size)
    used = np.arange(blocks_per_row) * block_size < context[:, None]
    blocks = torch.from_numpy(np.where(used, table[rows, :blocks_per_row], 0).reshape(-1))
    tokens = torch.from_numpy(starts[rows].astype(np.int64))
    if len(rows) == 1:
        return DecodeGroup(tokens, blocks, longest, None, None)
    length = blocks_per_row * block_size
    visible = np.arange(length) < context[:, None]
    if visible.all():
        return DecodeGroup(tokens, blocks, length, None, None)
    padding = torch.from_numpy(np.flatnonzero(~visible))
    return DecodeGroup(tokens, blocks, length, torch.from_numpy(visible[:, None, None, :]), padding)
