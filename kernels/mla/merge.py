"""Merging results over parts of a row's context, for the kernels of `mla_decode` that divide rows among programs.

A slot holds the result of one part for all queries: out float32 [queries, 512] and lse float32 [queries]. The slots of
a row follow each other.
"""

from __future__ import annotations

import triton
import triton.language as tl

MERGED_VALUES = 2048
"""Values that a program of the merge kernels loads at once: columns times slots."""


def merge_columns(programs: int) -> int:
    """Columns of out for one program of a merge kernel, if there were `programs` of them with all 512.

    Few queries would leave multiprocessors idle, and reading many slots one after another is slow: their columns are
    shared out, and more slots are read at once.
    """
    return 64 if programs <= 256 else 128 if programs <= 1024 else 512


@triton.jit  # type: ignore[untyped-decorator]
def _merge_slots(
    slot_out_ptr: tl.tensor,
    slot_lse_ptr: tl.tensor,
    first_slot: tl.tensor,
    slots: tl.tensor,
    out_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    queries: tl.tensor,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Merge one query's slots, weighted by their share of the sum of exponentials; out 0 and lse -inf if none saw any.

    Grid: (queries, rows, 512 / COLUMNS).
    """
    query = tl.program_id(0)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    number = tl.arange(0, AT_ONCE)
    largest = float("-inf")
    total = 0.0
    weighted = tl.zeros([COLUMNS], tl.float32)
    for begin in range(0, slots, AT_ONCE):
        is_slot = begin + number < slots
        slot = (first_slot + begin + number).to(tl.int64) * queries + query
        slot_lse = tl.load(slot_lse_ptr + slot, mask=is_slot, other=float("-inf"))
        slot_out = tl.load(slot_out_ptr + slot[:, None] * 512 + column[None, :], mask=is_slot[:, None], other=0.0)
        new_largest = tl.maximum(largest, tl.max(slot_lse, 0))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weight = tl.exp(slot_lse - shift)
        decay = tl.exp(largest - shift)
        total = total * decay + tl.sum(weight, 0)
        weighted = weighted * decay + tl.sum(weight[:, None] * slot_out, 0)
        largest = new_largest
    seen = total > 0
    divisor = tl.where(seen, total, 1.0)
    target = tl.program_id(1).to(tl.int64) * queries + query
    if tl.program_id(2) == 0:
        tl.store(lse_ptr + target, tl.where(seen, largest + tl.log(divisor), float("-inf")))
    tl.store(out_ptr + target * 512 + column, (weighted / divisor).to(out_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["queries", "splits"])  # type: ignore[untyped-decorator]
def merge_splits(
    slot_out_ptr: tl.tensor,  # float32 [rows * splits, queries, 512]
    slot_lse_ptr: tl.tensor,  # float32 [rows * splits, queries]
    out_ptr: tl.tensor,  # [rows, queries, 512]
    lse_ptr: tl.tensor,  # float32 [rows, queries]
    queries: tl.tensor,
    splits: tl.tensor,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Merge rows that are each cut into `splits` slots. Grid: (queries, rows, 512 / COLUMNS)."""
    first_slot = tl.program_id(1) * splits
    _merge_slots(slot_out_ptr, slot_lse_ptr, first_slot, splits, out_ptr, lse_ptr, queries, COLUMNS, AT_ONCE)


@triton.jit(do_not_specialize=["queries", "rows", "parts"])  # type: ignore[untyped-decorator]
def merge_parts(
    slot_out_ptr: tl.tensor,  # float32 [parts + rows - 1, queries, 512]
    slot_lse_ptr: tl.tensor,  # float32 [parts + rows - 1, queries]
    context_ptr: tl.tensor,  # int32 [rows]
    out_ptr: tl.tensor,  # [rows, queries, 512]
    lse_ptr: tl.tensor,  # float32 [rows, queries]
    queries: tl.tensor,
    rows: tl.tensor,
    parts: tl.tensor,
    MIN_TILES: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Merge rows whose tiles of 64 tokens, laid end to end, are cut into `parts` equal parts of MIN_TILES or more.

    What part p holds of row r is in slot p + r: from one such stretch to the next, p or r or both grow, so that no two
    share a slot. A row that one part holds whole is complete and left alone. Grid: (queries, rows, 512 / COLUMNS).
    """
    row = tl.program_id(1)
    index = tl.arange(0, 128)
    total_tiles = 0
    begin = 0
    for chunk in range(0, rows, 128):
        context = tl.load(context_ptr + chunk + index, mask=chunk + index < rows, other=0)
        tiles = (context + 63) // 64
        total_tiles += tl.sum(tiles, 0)
        begin += tl.sum(tl.where(chunk + index < row, tiles, 0), 0)
    row_tiles = (tl.load(context_ptr + row) + 63) // 64
    tiles_per_part = tl.maximum(tl.cdiv(total_tiles, parts), MIN_TILES)
    first = begin // tiles_per_part
    last = (begin + row_tiles - 1) // tiles_per_part
    if (row_tiles == 0) | (first < last):
        slots = tl.where(row_tiles == 0, 0, last - first + 1)
        _merge_slots(slot_out_ptr, slot_lse_ptr, row + first, slots, out_ptr, lse_ptr, queries, COLUMNS, AT_ONCE)
