"""The kernel that fills a plan of `mla_decode` on the device. See `plan.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import ALIGNED_EXTRA, ROW_GAP, Tuning


@triton.jit(do_not_specialize=["rows", "parts", "queries", "min_tiles", "most_results"])  # type: ignore[untyped-decorator]
def fill_plan(
    context_ptr: tl.tensor,  # int32 [rows]
    parts_ptr: tl.tensor,  # int32 [parts, 4]
    cuts_ptr: tl.tensor,  # int32 [1 + rows, 4]
    rows: tl.tensor,
    parts: tl.tensor,
    queries: tl.tensor,
    min_tiles: tl.tensor,
    most_results: tl.tensor,
    GAP: tl.constexpr,
    EXTRA: tl.constexpr,
    PARTS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Fill both tables of `MlaPlan`, like `plan.divide`. Grid: (1,)."""
    index = tl.arange(0, CHUNK)
    part = tl.arange(0, PARTS)
    total = 0
    longest = 0
    used = 0
    for chunk in range(0, rows, CHUNK):
        context = tl.load(context_ptr + chunk + index, mask=chunk + index < rows, other=0)
        tiles = (context + 63) // 64
        total += tl.sum(tiles, 0)
        longest = tl.maximum(longest, tl.max(tiles, 0))
        used += tl.sum((tiles > 0).to(tl.int32), 0)
    results = tl.cast(total, tl.int64) * queries // most_results
    min_tiles = tl.minimum(min_tiles, tl.maximum(1, results).to(tl.int32))
    length = tl.maximum(tl.cdiv(total + used * GAP, parts), min_tiles + GAP)
    pieces = tl.maximum(1, tl.minimum(parts // tl.maximum(used, 1), longest // min_tiles))
    aligned_length = tl.where(
        used > parts, tl.cdiv(used, parts) * tl.maximum(longest, 1), tl.maximum(1, tl.cdiv(longest, pieces))
    )
    aligned_distance = tl.where(used > parts, tl.maximum(longest, 1), pieces * aligned_length)
    aligned = aligned_length <= length + length // EXTRA
    length = tl.where(aligned, aligned_length, length)
    begin = part * length
    first_row = tl.zeros([PARTS], tl.int32)
    tiles_before_row = tl.zeros([PARTS], tl.int32)
    line_before_row = tl.zeros([PARTS], tl.int32)
    before = 0
    cut_before = 0
    most_slots = 0
    for chunk in range(0, rows, CHUNK):
        row = chunk + index
        context = tl.load(context_ptr + row, mask=row < rows, other=0)
        tiles = (context + 63) // 64
        size = tl.where(tiles > 0, tl.where(aligned, aligned_distance, tiles + GAP), 0)
        end = before + tl.cumsum(size, 0)
        is_before = (end[None, :] <= begin[:, None]) & (row < rows)[None, :]
        first_row += tl.sum(is_before.to(tl.int32), 1)
        line_before_row = tl.maximum(line_before_row, tl.max(tl.where(is_before, end[None, :], 0), 1))
        tiles_before_row += tl.sum(tl.where(is_before, tiles[None, :], 0), 1)
        first = (end - tiles) // length
        last = (end - 1) // length
        slots = tl.where(tiles > 0, last - first + 1, 0)
        most_slots = tl.maximum(most_slots, tl.max(slots, 0))
        is_cut = (slots != 1) & (row < rows)
        cut = cuts_ptr + (cut_before + tl.cumsum(is_cut.to(tl.int32), 0)) * 4
        tl.store(cut, row, mask=is_cut)
        tl.store(cut + 1, row + first, mask=is_cut)
        tl.store(cut + 2, slots, mask=is_cut)
        tl.store(cut + 3, 0, mask=is_cut)
        before += tl.sum(size, 0)
        cut_before += tl.sum(is_cut.to(tl.int32), 0)
    head = tl.where(index == 0, cut_before, tl.where(index == 1, most_slots, 0))
    tl.store(cuts_ptr + index, head, mask=index < 4)
    inside = (part < parts) & (begin < before)
    own_tiles = (tl.load(context_ptr + first_row, mask=inside, other=0) + 63) // 64
    own_size = tl.where(aligned, aligned_distance, own_tiles + GAP)
    tile = tl.where(inside, tl.maximum(begin - line_before_row - (own_size - own_tiles), 0), 0)
    tiles_before = tl.where(inside, tiles_before_row + tile, total)
    tl.store(parts_ptr + part * 4, first_row, mask=part < parts)
    tl.store(parts_ptr + part * 4 + 1, tile, mask=part < parts)
    tl.store(parts_ptr + part * 4 + 3, tiles_before, mask=part < parts)
    tl.debug_barrier()  # the next part's tiles were stored by another thread
    following = tl.load(parts_ptr + part * 4 + 7, mask=part + 1 < parts, other=0)
    # The line is at most `parts` parts long, so that the last one ends with the last tile.
    following = tl.where(part + 1 < parts, following, total)
    tl.store(parts_ptr + part * 4 + 2, following - tiles_before, mask=part < parts)


def fill(context_lens: Tensor, parts: Tensor, cuts: Tensor, queries: int, tuning: Tuning) -> None:
    """Launch `fill_plan`; arguments as in `plan.divide`."""
    with torch.cuda.device_of(context_lens):
        fill_plan[(1,)](
            context_lens,
            parts,
            cuts,
            context_lens.shape[0],
            parts.shape[0],
            queries,
            tuning.min_tiles,
            tuning.most_results,
            GAP=ROW_GAP,
            EXTRA=ALIGNED_EXTRA,
            PARTS=triton.next_power_of_2(parts.shape[0]),
            CHUNK=16,
            num_warps=8,
        )
