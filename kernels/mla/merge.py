"""Merging results over parts of a row's context, for the kernels of `mla_decode` that divide rows among programs.

A slot holds the result of one part for all queries: out float32 [queries, 512] and lse float32 [queries]. The slots of
a row follow each other.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .plan import multiprocessors

MANY_PROGRAMS, FEW_PROGRAMS = 8, 2
"""Programs of the merge on a multiprocessor, at most; more work is done in turns. Few are enough where few rows can be
cut, as there are about as many rows as parts: to find out that nothing is to be done should cost little."""


@triton.jit  # type: ignore[untyped-decorator]
def _merge_slots(
    slot_out_ptr: tl.tensor,
    slot_lse_ptr: tl.tensor,
    first_slot: tl.tensor,
    slots: tl.tensor,
    out_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    row: tl.tensor,
    queries: tl.tensor,
    query_block: tl.tensor,
    column_block: tl.tensor,
    QUERIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Merge some queries' slots, weighted by their shares of the sum of exponentials; out 0, lse -inf if none saw any.

    Of the row's queries the block of QUERIES with number query_block, of their columns the block of COLUMNS.
    """
    query = query_block * QUERIES + tl.arange(0, QUERIES)
    is_query = query < queries
    column = column_block * COLUMNS + tl.arange(0, COLUMNS)
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
    target = row.to(tl.int64) * queries + query
    if column_block == 0:
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
    """Merge rows that are each cut into `splits` slots. Grid: (queries / QUERIES, 512 / COLUMNS, rows)."""
    row = tl.program_id(2)
    _merge_slots(
        slot_out_ptr, slot_lse_ptr, row * splits, splits, out_ptr, lse_ptr, row, queries, tl.program_id(0),
        tl.program_id(1), QUERIES, COLUMNS, AT_ONCE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["queries"])  # type: ignore[untyped-decorator]
def merge_parts(
    slot_out_ptr: tl.tensor,  # float32 [parts + rows - 1, queries, 512]
    slot_lse_ptr: tl.tensor,  # float32 [parts + rows - 1, queries]
    cuts_ptr: tl.tensor,  # int32 [1 + rows, 4], see `MlaPlan`
    out_ptr: tl.tensor,  # [rows, queries, 512]
    lse_ptr: tl.tensor,  # float32 [rows, queries]
    queries: tl.tensor,
    QUERIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    AFTER_LAUNCH: tl.constexpr,
) -> None:
    """Merge the rows that a plan cuts, and write the results of empty rows. Grid: any number of programs.

    Rows with many more slots than AT_ONCE, one long context among short ones, are worked at afterwards, in smaller
    pieces that more programs can share.

    AFTER_LAUNCH: launched while the kernel that fills the slots still runs, for whose end it waits.
    """
    MANY: tl.constexpr = 4 * AT_ONCE
    rows = tl.load(cuts_ptr)  # the plan was made before that kernel
    most_slots = tl.load(cuts_ptr + 1)
    if AFTER_LAUNCH:
        gdc_wait()
        gdc_launch_dependents()
    query_blocks = tl.cdiv(queries, QUERIES)
    per_row = query_blocks * (512 // COLUMNS)
    for item in range(tl.program_id(0), rows * per_row, tl.num_programs(0)):
        cut = cuts_ptr + (1 + item // per_row) * 4
        slots = tl.load(cut + 2)
        if slots <= MANY:
            _merge_slots(
                slot_out_ptr, slot_lse_ptr, tl.load(cut + 1), slots, out_ptr, lse_ptr, tl.load(cut), queries,
                item % query_blocks, item % per_row // query_blocks, QUERIES, COLUMNS, AT_ONCE,
            )  # fmt: skip
    if most_slots > MANY:
        for item in range(tl.program_id(0), rows * queries * 16, tl.num_programs(0)):
            cut = cuts_ptr + (1 + item // (queries * 16)) * 4
            slots = tl.load(cut + 2)
            if slots > MANY:
                _merge_slots(
                    slot_out_ptr, slot_lse_ptr, tl.load(cut + 1), slots, out_ptr, lse_ptr, tl.load(cut), queries,
                    item % queries, item // queries % 16, 1, 32, 128,
                )  # fmt: skip


def merge_shape(slots: int) -> tuple[dict[str, int], int]:
    """Queries, columns and slots at once of a program that merges about `slots`, and its warps.

    Reading many slots one after another is slow, so all are read at once: 32 values in a thread.
    """
    at_once = min(256, max(4, triton.next_power_of_2(slots)))
    warps = 8 if at_once == 256 else 4
    values = 1024 * warps // at_once
    return {"QUERIES": max(1, values // 512), "COLUMNS": min(512, values), "AT_ONCE": at_once}, warps


def merge(slot_out: Tensor, slot_lse: Tensor, cuts: Tensor, out: Tensor, lse: Tensor, *, after_launch: bool) -> None:
    """Launch `merge_parts`; `cuts` int32 [1 + rows, 4] says which rows are cut and where their slots are."""
    rows, queries = cuts.shape[0] - 1, slot_lse.shape[1]
    parts = slot_lse.shape[0] - rows + 1
    shape, warps = merge_shape(parts // rows)
    most = min(rows, parts) * triton.cdiv(queries, shape["QUERIES"]) * (512 // shape["COLUMNS"])
    per_multiprocessor = MANY_PROGRAMS if parts >= 2 * rows else FEW_PROGRAMS
    programs = min(most, per_multiprocessor * multiprocessors(out.device))
    merge_parts[(programs,)](
        slot_out,
        slot_lse,
        cuts,
        out,
        lse,
        queries,
        **shape,
        AFTER_LAUNCH=after_launch,
        num_warps=warps,
        launch_pdl=after_launch,
    )
