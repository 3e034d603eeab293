"""Merging results over parts of a row's context, for the kernels of `mla_decode` that divide rows among programs.

A slot holds the result of one part for all queries: out float32 [queries, 512] and lse float32 [queries]. The slots of
a row follow each other.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

MERGED_VALUES = 4096
"""Values that a program of the merge kernels loads at once: queries times columns times slots."""


@triton.jit  # type: ignore[untyped-decorator]
def _merge_slots(
    slot_out_ptr: tl.tensor,
    slot_lse_ptr: tl.tensor,
    first_slot: tl.tensor,
    slots: tl.tensor,
    out_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    queries: tl.tensor,
    QUERIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Merge some queries' slots, weighted by their shares of the sum of exponentials; out 0, lse -inf if none saw any.

    Grid: (queries / QUERIES, rows, 512 / COLUMNS).
    """
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    is_query = query < queries
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    number = tl.arange(0, AT_ONCE)
    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    weighted = tl.zeros([QUERIES, COLUMNS], tl.float32)
    for begin in range(0, slots, AT_ONCE):
        is_slot = (begin + number < slots)[:, None] & is_query[None, :]
        slot = (first_slot + begin + number).to(tl.int64)[:, None] * queries + query[None, :]
        slot_lse = tl.load(slot_lse_ptr + slot, mask=is_slot, other=float("-inf"))
        slot_out = tl.load(
            slot_out_ptr + slot[:, :, None] * 512 + column[None, None, :], mask=is_slot[:, :, None], other=0.0
        )
        new_largest = tl.maximum(largest, tl.max(slot_lse, 0))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weight = tl.exp(slot_lse - shift[None, :])
        decay = tl.exp(largest - shift)
        total = total * decay + tl.sum(weight, 0)
        weighted = weighted * decay[:, None] + tl.sum(weight[:, :, None] * slot_out, 0)
        largest = new_largest
    seen = total > 0
    divisor = tl.where(seen, total, 1.0)
    target = tl.program_id(1).to(tl.int64) * queries + query
    if tl.program_id(2) == 0:
        tl.store(lse_ptr + target, tl.where(seen, largest + tl.log(divisor), float("-inf")), mask=is_query)
    out = (weighted / divisor[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + target[:, None] * 512 + column[None, :], out, mask=is_query[:, None])


@triton.jit(do_not_specialize=["queries", "splits"])  # type: ignore[untyped-decorator]
def merge_splits(
    slot_out_ptr: tl.tensor,  # float32 [rows * splits, queries, 512]
    slot_lse_ptr: tl.tensor,  # float32 [rows * splits, queries]
    out_ptr: tl.tensor,  # [rows, queries, 512]
    lse_ptr: tl.tensor,  # float32 [rows, queries]
    queries: tl.tensor,
    splits: tl.tensor,
    QUERIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Merge rows that are each cut into `splits` slots. Grid: (queries / QUERIES, rows, 512 / COLUMNS)."""
    first_slot = tl.program_id(1) * splits
    _merge_slots(slot_out_ptr, slot_lse_ptr, first_slot, splits, out_ptr, lse_ptr, queries, QUERIES, COLUMNS, AT_ONCE)


@triton.jit(do_not_specialize=["queries"])  # type: ignore[untyped-decorator]
def merge_parts(
    slot_out_ptr: tl.tensor,  # float32 [parts + rows - 1, queries, 512]
    slot_lse_ptr: tl.tensor,  # float32 [parts + rows - 1, queries]
    slots_ptr: tl.tensor,  # int32 [rows, 2], see `MlaPlan`
    out_ptr: tl.tensor,  # [rows, queries, 512]
    lse_ptr: tl.tensor,  # float32 [rows, queries]
    queries: tl.tensor,
    QUERIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    AFTER_LAUNCH: tl.constexpr,
) -> None:
    """Merge rows that a plan cuts; a row that one part holds whole is complete and left alone.

    AFTER_LAUNCH: launched while the kernel that fills the slots still runs, for whose end it waits.
    Grid: (queries / QUERIES, rows, 512 / COLUMNS).
    """
    row = tl.program_id(1)
    first_slot = tl.load(slots_ptr + row * 2)  # the plan was made before that kernel
    slots = tl.load(slots_ptr + row * 2 + 1)
    if AFTER_LAUNCH:
        gdc_wait()
        gdc_launch_dependents()
    if slots != 1:
        _merge_slots(
            slot_out_ptr, slot_lse_ptr, first_slot, slots, out_ptr, lse_ptr, queries, QUERIES, COLUMNS, AT_ONCE
        )


def merge_shape(rows: int, queries: int) -> dict[str, int]:
    """Queries, columns and slots at once of a program.

    Few queries would leave multiprocessors idle, and reading many slots one after another is slow: their columns are
    shared out, and more slots are read at once.
    """
    programs = rows * queries
    columns = 64 if programs <= 256 else 128 if programs <= 1024 else 512
    per_program = 1 if programs <= 2048 else 4
    return {"QUERIES": per_program, "COLUMNS": columns, "AT_ONCE": MERGED_VALUES // (columns * per_program)}


def merge(slot_out: Tensor, slot_lse: Tensor, slots: Tensor, out: Tensor, lse: Tensor, *, after_launch: bool) -> None:
    """Launch `merge_parts`: `slots` int32 [rows, 2] says where each row's results are and how many."""
    rows, queries = slots.shape[0], slot_lse.shape[1]
    shape = merge_shape(rows, queries)
    grid = (triton.cdiv(queries, shape["QUERIES"]), rows, 512 // shape["COLUMNS"])
    merge_parts[grid](
        slot_out,
        slot_lse,
        slots,
        out,
        lse,
        queries,
        **shape,
        AFTER_LAUNCH=after_launch,
        num_warps=4,
        launch_pdl=after_launch,
    )
