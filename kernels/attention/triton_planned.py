"""Decode rows of `paged_attention` in Triton, divided by a plan: one long context among short ones is shared by all.

Each program attends to one piece of a row, for one key-value head; rows that the plan cuts are merged afterwards. The
plan is a device buffer, and the grid depends on shapes only, so calls can be captured in CUDA graphs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_support import next_power_of_two
from .plan import AttentionPlan


@dataclass(frozen=True, slots=True)
class PieceTile:
    """Shape and launch of one program: `keys` cached tokens at a time, a divisor of 64."""

    keys: int
    warps: int
    stages: int


def choose_piece_tile(head_dim: int, itemsize: int) -> PieceTile:
    """The tile by shapes alone: keys and values of two stages fit the 99 KiB of shared memory of sm_86 and sm_89."""
    keys = max(16, min(64, 16_384 // (next_power_of_two(head_dim) * itemsize)))
    return PieceTile(keys, warps=4, stages=2)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["rows", "parts", "row_tokens", "table_stride"]
)
def attend_piece(
    q_ptr: tl.tensor,  # [rows * row_tokens, kv_heads * GROUP, HEAD_DIM] with strides
    k_cache_ptr: tl.tensor,  # [blocks, BLOCK_SIZE, kv_heads, HEAD_DIM] with strides
    v_cache_ptr: tl.tensor,  # the same
    table_ptr: tl.tensor,  # int32 [rows, max_blocks] with stride
    context_ptr: tl.tensor,  # int32 [rows]
    parts_ptr: tl.tensor,  # int32 [parts, 4], see `MlaPlan`
    out_ptr: tl.tensor,  # [rows * row_tokens, heads, HEAD_DIM]
    part_out_ptr: tl.tensor,  # float32 [parts + rows - 1, row_tokens * heads, HEAD_DIM]
    part_lse_ptr: tl.tensor,  # float32 [parts + rows - 1, row_tokens * heads], base-2 logarithm
    scale_log2: tl.tensor,  # scale / ln 2: exp2 is the device's native exponential
    rows: tl.tensor,
    parts: tl.tensor,
    row_tokens: tl.tensor,
    table_stride: tl.tensor,
    q_token: tl.tensor,
    q_head: tl.tensor,
    k_block: tl.tensor,
    k_slot: tl.tensor,
    k_head: tl.tensor,
    v_block: tl.tensor,
    v_slot: tl.tensor,
    v_head: tl.tensor,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """Attention of a row's tokens, for one key-value head, over what one part of the plan has of the row.

    A program for each slot of the plan's workspace, so that the loop over tiles is the only one; those whose slot
    stands for no piece end at once. PARTS: power of two, at least the plan's parts. Grid: (kv_heads, slots).
    """
    kv_head = tl.program_id(0)
    slot = tl.program_id(1)
    number = tl.arange(0, PARTS)
    first_row = tl.load(parts_ptr + number * 4, mask=number < parts, other=2**30)
    part = tl.sum((number + first_row <= slot).to(tl.int32), 0) - 1
    row = slot - part
    if (part < 0) | (row >= rows):
        return
    begin = tl.load(parts_ptr + part * 4)
    tile = tl.load(parts_ptr + part * 4 + 1)
    left = tl.load(parts_ptr + part * 4 + 2)
    for chunk in range(begin, row, 32):  # the part's rows before this one
        index = chunk + tl.arange(0, 32)
        before = tl.load(context_ptr + index, mask=index < row, other=0)
        left -= tl.sum(tl.cdiv(before, 64), 0)
    if row > begin:
        left += tile
        tile = 0
    context = tl.load(context_ptr + row)
    tiles = tl.cdiv(context, 64)
    last = tl.minimum(tiles, tile + left)
    if tile >= last:
        return

    query = tl.arange(0, QUERIES)
    token = row * row_tokens + query // GROUP
    head = kv_head * GROUP + query % GROUP
    is_query = query < row_tokens * GROUP
    dim = tl.arange(0, DIM)
    inside = is_query[:, None] & (dim < HEAD_DIM)[None, :]
    q_offset = token.to(tl.int64)[:, None] * q_token + (head * q_head)[:, None] + dim[None, :]
    q = tl.load(q_ptr + q_offset, mask=inside, other=0.0)
    visible = context - row_tokens + query // GROUP + 1  # causal, bottom-right
    table_row = table_ptr + row.to(tl.int64) * table_stride
    k_base = k_cache_ptr + kv_head.to(tl.int64) * k_head
    v_base = v_cache_ptr + kv_head.to(tl.int64) * v_head

    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    weighted = tl.zeros([QUERIES, DIM], tl.float32)
    for key in tl.range(tile * 64, tl.minimum(last * 64, context), KEYS, num_stages=STAGES):
        position = key + tl.arange(0, KEYS)
        # Behind the context may be a stale NaN, which a zero weight does not stop: load the last token again instead.
        loaded = tl.minimum(position, context - 1)
        if BLOCK_SIZE % KEYS == 0:
            block = tl.load(table_row + key // BLOCK_SIZE).to(tl.int64)
            k_token = block * k_block + (loaded % BLOCK_SIZE).to(tl.int64) * k_slot
            v_token = block * v_block + (loaded % BLOCK_SIZE).to(tl.int64) * v_slot
        else:
            blocks = tl.load(table_row + loaded // BLOCK_SIZE).to(tl.int64)
            k_token = blocks * k_block + (loaded % BLOCK_SIZE) * k_slot
            v_token = blocks * v_block + (loaded % BLOCK_SIZE) * v_slot
        if DIM == HEAD_DIM:
            k = tl.load(k_base + k_token[:, None] + dim[None, :])
            v = tl.load(v_base + v_token[:, None] + dim[None, :])
        else:
            k = tl.load(k_base + k_token[:, None] + dim[None, :], mask=(dim < HEAD_DIM)[None, :], other=0.0)
            v = tl.load(v_base + v_token[:, None] + dim[None, :], mask=(dim < HEAD_DIM)[None, :], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        scores = tl.where(position[None, :] < visible[:, None], scores * scale_log2, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        # A query that has seen nothing yet has largest -inf, and -inf - -inf is not a number.
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp2(scores - shift[:, None])
        decay = tl.exp2(largest - shift)
        total = total * decay + tl.sum(weights, 1)
        weighted = tl.dot(weights.to(v.dtype), v, weighted * decay[:, None], input_precision=PRECISION)
        largest = new_largest

    seen = total > 0
    out = weighted / tl.where(seen, total, 1.0)[:, None]
    heads = tl.num_programs(0) * GROUP
    queries = row_tokens * heads
    own = query // GROUP * heads + head
    if (tile == 0) & (last == tiles):
        target = (row.to(tl.int64) * queries + own)[:, None] * HEAD_DIM + dim[None, :]
        tl.store(out_ptr + target, out.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        place = slot.to(tl.int64) * queries + own
        lse = tl.where(seen, largest + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(part_lse_ptr + place, lse, mask=is_query)
        tl.store(part_out_ptr + place[:, None] * HEAD_DIM + dim[None, :], out, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def merge_pieces(
    part_out_ptr: tl.tensor,  # float32 [slots, queries, HEAD_DIM]
    part_lse_ptr: tl.tensor,  # float32 [slots, queries], base-2 logarithm
    cuts_ptr: tl.tensor,  # int32 [1 + rows, 4], see `MlaPlan`
    out_ptr: tl.tensor,  # [rows, queries, HEAD_DIM]
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Merge the rows that a plan cuts, and write zeros for empty ones. Grid: (any number of programs, queries)."""
    cuts = tl.load(cuts_ptr)
    query = tl.program_id(1)
    queries = tl.num_programs(1)
    dim = tl.arange(0, DIM)
    for item in range(tl.program_id(0), cuts, tl.num_programs(0)):
        row = tl.load(cuts_ptr + (1 + item) * 4)
        first = tl.load(cuts_ptr + (1 + item) * 4 + 1)
        slots = tl.load(cuts_ptr + (1 + item) * 4 + 2)
        largest = float("-inf")
        total = 0.0
        weighted = tl.zeros([DIM], tl.float32)
        for begin in range(0, slots, AT_ONCE):
            number = begin + tl.arange(0, AT_ONCE)
            source = (first + number).to(tl.int64) * queries + query
            lse = tl.load(part_lse_ptr + source, mask=number < slots, other=float("-inf"))
            inside = (number < slots)[:, None] & (dim < HEAD_DIM)[None, :]
            part = tl.load(part_out_ptr + source[:, None] * HEAD_DIM + dim[None, :], mask=inside, other=0.0)
            new_largest = tl.maximum(largest, tl.max(lse, 0))
            shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
            weight = tl.exp2(lse - shift)
            decay = tl.exp2(largest - shift)
            total = total * decay + tl.sum(weight, 0)
            weighted = weighted * decay + tl.sum(weight[:, None] * part, 0)
            largest = new_largest
        merged = weighted / tl.where(total > 0, total, 1.0)
        target = (row.to(tl.int64) * queries + query) * HEAD_DIM + dim
        tl.store(out_ptr + target, merged.to(out_ptr.dtype.element_ty), mask=dim < HEAD_DIM)


def attend_planned(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    out: Tensor,
    plan: AttentionPlan,
    tile: PieceTile | None = None,
) -> None:
    """Two launches. Arguments as in the public `paged_attention`; `out` and the rows of the table are contiguous."""
    _, heads, head_dim = q.shape
    rows, kv_heads, block_size = len(context_lens), k_cache.shape[2], k_cache.shape[1]
    group, parts = heads // kv_heads, plan.parts.shape[0]
    tile = tile or choose_piece_tile(head_dim, q.element_size())
    dim = next_power_of_two(max(head_dim, 16))
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        attend_piece[(kv_heads, parts + rows - 1)](
            q,
            k_cache,
            v_cache,
            block_table,
            context_lens,
            plan.parts,
            out,
            plan.part_out,
            plan.part_lse,
            scale / math.log(2),
            rows,
            parts,
            plan.row_tokens,
            block_table.stride(0),
            *q.stride()[:2],
            *k_cache.stride()[:3],
            *v_cache.stride()[:3],
            HEAD_DIM=head_dim,
            DIM=dim,
            BLOCK_SIZE=block_size,
            GROUP=group,
            QUERIES=max(16, next_power_of_two(plan.row_tokens * group)),
            KEYS=tile.keys,
            STAGES=tile.stages,
            PRECISION="tf32x3" if q.dtype == torch.float32 else "tf32",
            PARTS=next_power_of_two(parts),
            num_warps=tile.warps,
        )
        merge_pieces[(min(rows, parts), plan.row_tokens * heads)](
            plan.part_out,
            plan.part_lse,
            plan.cuts,
            out,
            HEAD_DIM=head_dim,
            DIM=dim,
            AT_ONCE=16,
            num_warps=2,
        )
