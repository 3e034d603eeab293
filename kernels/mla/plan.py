"""How `mla_decode` divides a batch among the multiprocessors: made on the device, once for all layers of a step.

The key tiles of all rows are laid end to end, each row behind a gap of `ROW_GAP` tiles that stands for the cost of
beginning a row, and cut into equal parts, one for each program (Stream-K, Osama et al. 2023, arXiv:2301.03598). A part
may hold the end of one row, whole rows, and the beginning of another. A row that spans parts is merged afterwards.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 64
"""Tokens of a key tile."""
MIN_TILES = 2
"""Key tiles of a part at least, by default: shorter parts cost more in the merge than they save."""
ROW_GAP = 2
"""Tiles whose time a program needs to begin a row: to load its queries and to store its result."""


@dataclass(frozen=True, slots=True)
class MlaPlan:
    """Device buffers that say which program does what. Sized by shapes alone; filled by `fill`, read by `mla_decode`.

    parts: int32 [parts, 4]: for each part its first row, its first key tile within that row, its number of key tiles,
        and the key tiles before it in the batch
    slots: int32 [rows, 2]: for each row where its partial results begin in the workspace, and how many there are: 1 if
        the row lies in one part, which then writes the result itself; 0 for an empty row
    part_out, part_lse: float32 [parts + rows - 1, queries, 512] and [parts + rows - 1, queries]: the workspace. What
        part p holds of row r is in slot p + r: from one stretch to the next, p or r or both grow, so that no two
        share a slot.
    """

    parts: Tensor
    slots: Tensor
    part_out: Tensor
    part_lse: Tensor
    min_tiles: int
    row_gap: int

    def fill(self, context_lens: Tensor) -> None:
        """Plan for these lengths, int32 [rows] on the plan's device. Nothing is synchronised; fit for CUDA graphs."""
        rows = self.slots.shape[0]
        if tuple(context_lens.shape) != (rows,):
            raise ValueError(f"context_lens has shape {list(context_lens.shape)}; this plan was made for [{rows}]")
        if context_lens.is_cuda:
            from . import plan_kernel

            plan_kernel.fill(
                context_lens.contiguous(), self.parts, self.slots, min_tiles=self.min_tiles, gap=self.row_gap
            )
        else:
            divide(context_lens, self.parts, self.slots, min_tiles=self.min_tiles, gap=self.row_gap)

    def check(self, rows: int, queries: int, device: torch.device) -> None:
        """Raise ValueError unless the plan is for batches of this shape on this device."""
        planned = self.slots.shape[0], self.part_lse.shape[1]
        if planned != (rows, queries):
            raise ValueError(
                f"plan is for {planned[0]} rows of {planned[1]} queries (heads x q_len), q has {rows} of {queries}; "
                "make one with plan_mla_decode"
            )
        if self.parts.device != device:
            raise ValueError(f"plan is on {self.parts.device}, q on {device}; make one with plan_mla_decode")


def divide(context_lens: Tensor, parts: Tensor, slots: Tensor, *, min_tiles: int, gap: int) -> None:
    """Fill the tables of `MlaPlan` with torch operations: the definition, and what runs on CPUs."""
    tiles = (context_lens.long() + TILE - 1) // TILE
    size = torch.where(tiles > 0, tiles + gap, 0)
    end = size.cumsum(0)
    total = int(end[-1])
    length = max(-(-total // parts.shape[0]), min_tiles + gap)
    begin = torch.arange(parts.shape[0] + 1, device=parts.device) * length
    row = torch.searchsorted(end, begin, right=True)
    inside = row < len(tiles)
    own = row.clamp(max=len(tiles) - 1)
    tile = (begin - (end - size)[own] - gap).clamp(min=0).where(inside, 0)
    before = torch.where(inside, (tiles.cumsum(0) - tiles)[own] + tile, tiles.sum())
    parts.copy_(torch.stack([row, tile, before.diff(append=before[-1:]), before], 1)[:-1])
    first, last = (end - tiles) // length, (end - 1) // length
    slots.copy_(torch.stack([torch.arange(len(tiles)) + first, torch.where(tiles > 0, last - first + 1, 0)], 1))


def plan_mla_decode(
    context_lens: Tensor,
    *,
    q_len: int,
    heads: int,
    max_context: int,
    programs: int | None = None,
    min_tiles: int = MIN_TILES,
) -> MlaPlan:
    """Allocate a plan for batches of these shapes, and fill it for `context_lens`, int32 [rows] on the device.

    max_context: bound of every row's context, over the life of the plan
    programs: into how many parts to cut the batch at most; by default one for each multiprocessor, divided by the
        number of programs that share a part because a row has more than 64 queries
    min_tiles: key tiles of a part at least
    """
    rows, queries, device = context_lens.shape[0], q_len * heads, context_lens.device
    if programs is None:
        programs = max(1, multiprocessors(device) // -(-queries // 64))
    max_tiles = -(-max_context // TILE)
    parts = max(1, min(programs, -(-rows * (max_tiles + ROW_GAP) // (min_tiles + ROW_GAP))))
    plan = MlaPlan(
        torch.empty(parts, 4, dtype=torch.int32, device=device),
        torch.empty(rows, 2, dtype=torch.int32, device=device),
        torch.empty(parts + rows - 1, queries, 512, dtype=torch.float32, device=device),
        torch.empty(parts + rows - 1, queries, dtype=torch.float32, device=device),
        min_tiles,
        ROW_GAP,
    )
    plan.fill(context_lens)
    return plan


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a device; 1 for the CPU, where kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
