"""The kernel that fills a plan of `mla_decode` on the device. See `plan.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["rows", "parts", "min_tiles"])  # type: ignore[untyped-decorator]
def fill_plan(
    context_ptr: tl.tensor,  # int32 [rows]
    parts_ptr: tl.tensor,  # int32 [parts, 4]
    slots_ptr: tl.tensor,  # int32 [rows, 2]
    rows: tl.tensor,
    parts: tl.tensor,
    min_tiles: tl.tensor,
    GAP: tl.constexpr,
    PARTS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Fill both tables of `MlaPlan`. Grid: (1,)."""
    index = tl.arange(0, CHUNK)
    part = tl.arange(0, PARTS)
    total = 0
    for chunk in range(0, rows, CHUNK):
        context = tl.load(context_ptr + chunk + index, mask=chunk + index < rows, other=0)
        tiles = (context + 63) // 64
        total += tl.sum(tl.where(tiles > 0, tiles + GAP, 0), 0)
    length = tl.maximum(tl.cdiv(total, parts), min_tiles + GAP)
    begin = part * length
    # Of each part: the row in which it begins, that row's begin, and the tiles before the part.
    first_row = tl.zeros([PARTS], tl.int32)
    row_begin = tl.zeros([PARTS], tl.int32)
    tiles_before_row = tl.zeros([PARTS], tl.int32)
    before = 0
    tiles_before = 0
    for chunk in range(0, rows, CHUNK):
        row = chunk + index
        context = tl.load(context_ptr + row, mask=row < rows, other=0)
        tiles = (context + 63) // 64
        size = tl.where(tiles > 0, tiles + GAP, 0)
        row_end = before + tl.cumsum(size, 0)
        is_before = (row_end[None, :] <= begin[:, None]) & (row < rows)[None, :]
        first_row += tl.sum(is_before.to(tl.int32), 1)
        row_begin = tl.maximum(row_begin, tl.max(tl.where(is_before, row_end[None, :], 0), 1))
        tiles_before_row += tl.sum(tl.where(is_before, tiles[None, :], 0), 1)
        # The row's tiles lie behind its gap; they begin in part `first` and end in part `last`.
        first = (row_end - tiles) // length
        last = (row_end - 1) // length
        tl.store(slots_ptr + row * 2, row + first, mask=row < rows)
        tl.store(slots_ptr + row * 2 + 1, tl.where(tiles > 0, last - first + 1, 0), mask=row < rows)
        before += tl.sum(size, 0)
        tiles_before += tl.sum(tiles, 0)
    inside = (part < parts) & (begin < total)
    tile = tl.maximum(begin - row_begin - GAP, 0)
    own_before = tiles_before_row + tile
    tl.store(parts_ptr + part * 4, first_row, mask=part < parts)
    tl.store(parts_ptr + part * 4 + 1, tl.where(inside, tile, 0), mask=part < parts)
    tl.store(parts_ptr + part * 4 + 3, tl.where(inside, own_before, tiles_before), mask=part < parts)
    tl.debug_barrier()
    following = tl.load(parts_ptr + (part + 1) * 4 + 3, mask=part + 1 < parts, other=tiles_before)
    own_before = tl.where(inside, own_before, tiles_before)
    tl.store(parts_ptr + part * 4 + 2, following - own_before, mask=part < parts)


def fill(context_lens: Tensor, parts: Tensor, slots: Tensor, *, min_tiles: int, gap: int) -> None:
    """Launch `fill_plan`."""
    with torch.cuda.device_of(context_lens):
        fill_plan[(1,)](
            context_lens,
            parts,
            slots,
            slots.shape[0],
            parts.shape[0],
            min_tiles,
            GAP=gap,
            PARTS=triton.next_power_of_2(parts.shape[0]),
            CHUNK=64,
            num_warps=8,
        )
