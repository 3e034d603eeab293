"""How `paged_attention` divides a batch of decode rows among the multiprocessors: as `mla.plan` does.

All key-value heads of a row are as long as each other, so that one division of the rows serves all of them: a program
takes one head of one part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..arguments import check_dtype
from ..mla.plan import fill_tables, multiprocessors
from ..mla.tuning import TILE, Tuning

DEFAULT: Final = Tuning(min_tiles=4, most_results=16384)
PROGRAMS_PER_MULTIPROCESSOR: Final = 3


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Device buffers that say which program does what. Sized by shapes alone; filled by `fill`.

    parts, cuts: as in `mla.MlaPlan`
    part_out, part_lse: float32 [parts + rows - 1, row_tokens * heads, head_dim] and [parts + rows - 1, row_tokens *
        heads] (base-2 logarithm): the workspace. What part p holds of row r is in slot p + r.
    """

    parts: Tensor
    cuts: Tensor
    part_out: Tensor
    part_lse: Tensor
    row_tokens: int

    def fill(self, context_lens: Tensor) -> None:
        """Plan for these lengths, int32 [rows] on the plan's device.

        On a GPU one launch without synchronisation, fit for CUDA graphs.
        """
        fill_tables(context_lens, self.parts, self.cuts, self.part_lse.shape[1], DEFAULT)

    def check(self, rows: int, tokens: int, heads: int, head_dim: int, device: torch.device) -> None:
        """Raise ValueError unless the plan is for batches of this shape on this device."""
        queries, dim = self.part_out.shape[1:]
        planned = (self.cuts.shape[0] - 1, self.row_tokens, queries // self.row_tokens, dim)
        if planned != (rows, tokens // max(rows, 1), heads, head_dim) or tokens != rows * self.row_tokens:
            raise ValueError(
                f"plan is for {planned[0]} rows of {planned[1]} tokens, {planned[2]} heads and head_dim {dim}; q has "
                f"{tokens} tokens in {rows} rows, {heads} heads and head_dim {head_dim}: make one with "
                "plan_paged_attention"
            )
        if self.parts.device != device:
            raise ValueError(f"plan is on {self.parts.device}, q on {device}; make one with plan_paged_attention")


def plan_paged_attention(
    context_lens: Tensor,
    *,
    row_tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    max_context: int,
    programs: int | None = None,
) -> AttentionPlan:
    """Allocate a plan for batches of these shapes, and fill it for `context_lens`, int32 [rows] on the device.

    row_tokens: how many tokens every row has
    max_context: bound of every row's context, over the life of the plan
    programs: into how many parts to cut the batch at most; by default three programs for each multiprocessor

    Raises TypeError or ValueError naming the argument.
    """
    check_dtype("context_lens", context_lens, torch.int32)
    counts = {"row_tokens": row_tokens, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    for name, count in (counts | ({} if programs is None else {"programs": programs})).items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")
    rows, device = context_lens.shape[0], context_lens.device
    if programs is None:
        programs = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors(device) // kv_heads
    parts = max(1, min(programs, rows * -(-max_context // TILE)))
    slots, queries = parts + max(rows, 1) - 1, row_tokens * heads
    plan = AttentionPlan(
        torch.empty(parts, 4, dtype=torch.int32, device=device),
        torch.empty(1 + rows, 4, dtype=torch.int32, device=device),
        torch.empty(slots, queries, head_dim, dtype=torch.float32, device=device),
        torch.empty(slots, queries, dtype=torch.float32, device=device),
        row_tokens,
    )
    plan.fill(context_lens)
    return plan
