"""How `mla_decode` divides a batch among the multiprocessors: made on the device, once for all layers of a step.

The key tiles of all rows are laid end to end and cut into equal parts, one for each program (Stream-K, Osama et al.
2023, arXiv:2301.03598). A part may hold the end of one row, whole rows, and the beginning of another. A row that spans
parts is merged afterwards.

Each row lies behind a gap that stands for the time to begin a row. If rows are about equally long, they are laid at
equal distances instead, such that parts begin where rows or equal pieces of rows begin: a part then never holds pieces
of two rows, and fewer rows, or none, are cut.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_dtype
from .tuning import ALIGNED_EXTRA, ROW_GAP, TILE, Tuning, tuning_for


@dataclass(frozen=True, slots=True)
class MlaPlan:
    """Device buffers that say which program does what. Sized by shapes alone; filled by `fill`, read by `mla_decode`.

    parts: int32 [parts, 4]: for each part its first row, its first key tile within that row, its number of key tiles,
        and the key tiles before it in the batch
    cuts: int32 [1 + rows, 4]: in [0, 0] the number of rows that are not complete when all parts are: those in more than
        one part, and empty ones; in [0, 1] the most parts of a row. From [1] on, for each of those rows: the row, where
        its partial results begin in the workspace, how many there are, and 0
    part_out, part_lse: float32 [parts + rows - 1, queries, 512] and [parts + rows - 1, queries]: the workspace. What
        part p holds of row r is in slot p + r: from one stretch to the next, p or r or both grow, so that no two
        share a slot.
    tuning: how finely to cut
    """

    parts: Tensor
    cuts: Tensor
    part_out: Tensor
    part_lse: Tensor
    tuning: Tuning

    def fill(self, context_lens: Tensor) -> None:
        """Plan for these lengths, int32 [rows] on the plan's device.

        On a GPU one launch without synchronisation, fit for CUDA graphs.
        """
        fill_tables(context_lens, self.parts, self.cuts, self.part_lse.shape[1], self.tuning)

    def check(self, rows: int, queries: int, device: torch.device) -> None:
        """Raise ValueError unless the plan is for batches of this shape on this device."""
        planned = self.cuts.shape[0] - 1, self.part_lse.shape[1]
        if planned != (rows, queries):
            raise ValueError(
                f"plan is for {planned[0]} rows of {planned[1]} queries (heads x q_len), q has {rows} of {queries}; "
                "make one with plan_mla_decode"
            )
        if self.parts.device != device:
            raise ValueError(f"plan is on {self.parts.device}, q on {device}; make one with plan_mla_decode")


def fill_tables(context_lens: Tensor, parts: Tensor, cuts: Tensor, queries: int, tuning: Tuning) -> None:
    """Fill the tables of a plan whose rows have `queries` results each; raises ValueError naming what does not fit."""
    rows = cuts.shape[0] - 1
    if tuple(context_lens.shape) != (rows,):
        raise ValueError(f"context_lens has shape {list(context_lens.shape)}; this plan was made for [{rows}]")
    if context_lens.device != parts.device:
        raise ValueError(f"context_lens is on {context_lens.device}; this plan was made for {parts.device}")
    if rows == 0:
        return
    if context_lens.is_cuda:
        from . import plan_kernel

        plan_kernel.fill(context_lens.contiguous(), parts, cuts, queries, tuning)
    else:
        divide(context_lens, parts, cuts, queries, tuning)


def divide(context_lens: Tensor, parts: Tensor, cuts: Tensor, queries: int, tuning: Tuning) -> None:
    """Fill the tables of `MlaPlan` with torch operations: the definition, and what runs on CPUs."""
    tiles = (context_lens.long() + TILE - 1) // TILE
    programs, rows, longest, total = parts.shape[0], int((tiles > 0).sum()), int(tiles.max()), int(tiles.sum())
    min_tiles = min(tuning.min_tiles, max(1, total * queries // tuning.most_results))
    length = max(-(-(total + rows * ROW_GAP) // programs), min_tiles + ROW_GAP)
    size = torch.where(tiles > 0, tiles + ROW_GAP, 0)
    if rows > programs:
        aligned_distance = max(longest, 1)
        aligned_length = -(-rows // programs) * aligned_distance
    else:
        pieces = max(1, min(programs // max(rows, 1), longest // min_tiles))
        aligned_length = max(1, -(-longest // pieces))
        aligned_distance = pieces * aligned_length
    if aligned_length <= length + length // ALIGNED_EXTRA:
        length, size = aligned_length, torch.where(tiles > 0, aligned_distance, 0)
    end = size.cumsum(0)
    begin = torch.arange(programs + 1) * length
    row = torch.searchsorted(end, begin, right=True)
    inside = row < len(tiles)
    own = row.clamp(max=len(tiles) - 1)
    tile = (begin - (end - tiles)[own]).clamp(min=0).where(inside, 0)
    before = torch.where(inside, (tiles.cumsum(0) - tiles)[own] + tile, total)
    parts.copy_(torch.stack([row, tile, before.diff(append=before[-1:]), before], 1)[:-1])
    first, last = (end - tiles) // length, (end - 1) // length
    slots = torch.where(tiles > 0, last - first + 1, 0)
    cut = (slots != 1).nonzero()[:, 0]
    cuts[0] = torch.tensor([len(cut), int(slots.max()), 0, 0])
    cuts[1 : 1 + len(cut)] = torch.stack([cut, cut + first[cut], slots[cut], torch.zeros_like(cut)], 1).int()


def plan_mla_decode(
    context_lens: Tensor,
    *,
    q_len: int,
    heads: int,
    max_context: int,
    programs: int | None = None,
    tuning: Tuning | None = None,
) -> MlaPlan:
    """Allocate a plan for batches of these shapes, and fill it for `context_lens`, int32 [rows] on the device.

    max_context: bound of every row's context, over the life of the plan
    programs: into how many parts to cut the batch at most; by default one for each multiprocessor, divided by the
        number of programs that share a part because a row has more than 64 queries
    tuning: how finely to cut, instead of the table's entry for this device

    Raises TypeError or ValueError naming the argument.
    """
    check_dtype("context_lens", context_lens, torch.int32)
    counts = {"q_len": q_len, "heads": heads} | ({} if programs is None else {"programs": programs})
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")
    rows, queries, device = context_lens.shape[0], q_len * heads, context_lens.device
    if programs is None:
        programs = max(1, multiprocessors(device) // max(1, -(-queries // 64)))
    parts = max(1, min(programs, rows * -(-max_context // TILE)))
    slots = parts + max(rows, 1) - 1
    plan = MlaPlan(
        torch.empty(parts, 4, dtype=torch.int32, device=device),
        torch.empty(1 + rows, 4, dtype=torch.int32, device=device),
        torch.empty(slots, queries, 512, dtype=torch.float32, device=device),
        torch.empty(slots, queries, dtype=torch.float32, device=device),
        tuning or tuning_for(device, queries),
    )
    plan.fill(context_lens)
    return plan


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a device; 1 for the CPU, where kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
