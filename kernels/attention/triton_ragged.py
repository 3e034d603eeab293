"""`paged_attention` for GPUs in Triton: decode rows and prefill chunks of one batch in one launch.

FlashAttention-2's loop (Dao 2023, arXiv:2307.08691) with the online softmax of Milakov and Gimelshein
(arXiv:1805.02867), over a paged cache. The query heads that share a key-value head stand below each other in one tile,
token after token, so that a decode row reads its cache once for all of them. Long contexts of few rows are cut into
splits, merged by a second kernel, as in Flash-Decoding (Dao et al. 2023).

The grid depends on shapes only: a batch of `tokens` tokens in `rows` rows has at most tokens / TOKENS + rows tiles,
and a tile finds its row from `query_start` on the device. Nothing is synchronised, so calls can be captured in CUDA
graphs; tokens beyond the last entry of `query_start` are then padding, whose result is left unwritten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..constraints import at_most, exactly
from ..kernel import Band
from ..registry import register
from ..triton_support import DTYPES, PLATFORMS, multiprocessors, next_power_of_two
from .plan import AttentionPlan
from .triton_planned import attend_planned


@dataclass(frozen=True, slots=True)
class Tile:
    """Shape and launch of one program: `queries` (tokens x heads of a group) against `keys` cached tokens at a time."""

    queries: int
    keys: int
    warps: int
    stages: int


def choose_tile(tokens: int, rows: int, group: int, head_dim: int, itemsize: int) -> Tile:
    """The tile for a batch, by shapes alone: 16 queries if the average row has no more, else 64 or 128.

    A row of keys is kept to 32 KiB for keys and values together, so that two stages and the queries fit the 99 KiB of
    shared memory that sm_86 and sm_89 have.
    """
    row_bytes = next_power_of_two(head_dim) * itemsize
    keys = max(16, min(64, 16_384 // row_bytes))
    queries = group * -(-tokens // max(rows, 1))
    if queries <= 16 and group <= 16:
        return Tile(16, keys, warps=4, stages=2)
    if itemsize == 4:  # three products in TF32 for one in float32: a higher tile would spill registers
        return Tile(max(32, next_power_of_two(group)), keys, warps=8, stages=2)
    if queries <= 64 or row_bytes > 256:
        return Tile(max(64, next_power_of_two(group)), keys, warps=4 if row_bytes <= 256 else 8, stages=2)
    return Tile(max(128, next_power_of_two(group)), keys, warps=8, stages=2)


def choose_splits(programs: int, max_context: int, tile: Tile, multiprocessors: int) -> int:
    """Into how many parts to cut each context: enough to fill the device twice, none shorter than four tiles."""
    fill = 2 * multiprocessors // max(programs, 1)
    return max(1, min(fill, -(-max_context // (4 * tile.keys)), 128))


@triton.jit(do_not_specialize=["rows", "splits", "table_stride", "tokens"])  # type: ignore[untyped-decorator]
def attend_tile(
    q_ptr: tl.tensor,  # [tokens, kv_heads * GROUP, HEAD_DIM] with strides
    k_cache_ptr: tl.tensor,  # [blocks, BLOCK_SIZE, kv_heads, HEAD_DIM] with strides
    v_cache_ptr: tl.tensor,  # the same
    table_ptr: tl.tensor,  # int32 [rows, max_blocks] with stride
    context_ptr: tl.tensor,  # int32 [rows]
    start_ptr: tl.tensor,  # int32 [rows + 1]
    out_ptr: tl.tensor,  # [splits, tokens, heads, HEAD_DIM]
    lse_ptr: tl.tensor,  # float32 [splits, tokens, heads], base-2 logarithm
    scale_log2: tl.tensor,  # scale / ln 2: exp2 is the device's native exponential
    tokens: tl.tensor,
    rows: tl.tensor,
    splits: tl.tensor,
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
) -> None:
    """Attention of up to QUERIES / GROUP tokens of one row, for one key-value head, over one split of their context.

    Grid: (tokens / TOKENS + rows, kv_heads, splits), TOKENS = QUERIES / GROUP rounded down. DIM is a power of two of at
    least HEAD_DIM. A split in which nothing is visible writes out 0 and lse -inf.
    """
    TOKENS: tl.constexpr = QUERIES // GROUP
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    # Row i has the tiles from start / TOKENS + i on: a number that grows with i, and leaves room for all of its tiles.
    row = -1
    for chunk in range(0, rows, 128):
        index = chunk + tl.arange(0, 128)
        start = tl.load(start_ptr + index, mask=index < rows, other=0)
        row += tl.sum(((start // TOKENS + index <= tile) & (index < rows)).to(tl.int32), 0)
    row_start = tl.load(start_ptr + row)
    row_end = tl.load(start_ptr + row + 1)
    first = row_start + (tile - (row_start // TOKENS + row)) * TOKENS
    if first >= row_end:
        return

    query = tl.arange(0, QUERIES)
    token = first + query // GROUP
    head = kv_head * GROUP + query % GROUP
    is_query = (query < TOKENS * GROUP) & (token < row_end)
    dim = tl.arange(0, DIM)
    q_offset = token.to(tl.int64)[:, None] * q_token + (head * q_head)[:, None] + dim[None, :]
    q = tl.load(q_ptr + q_offset, mask=is_query[:, None] & (dim < HEAD_DIM)[None, :], other=0.0)

    context = tl.load(context_ptr + row)
    visible = context - (row_end - token) + 1  # causal, bottom-right
    most = context - tl.maximum(row_end - first - TOKENS, 0)  # what the last token of the tile sees
    key_tiles = tl.cdiv(most, KEYS)
    tiles_per_split = tl.cdiv(key_tiles, splits)
    first_tile = split * tiles_per_split
    last_tile = tl.minimum(first_tile + tiles_per_split, key_tiles)
    table_row = table_ptr + tl.cast(row, tl.int64) * table_stride
    k_base = k_cache_ptr + kv_head.to(tl.int64) * k_head
    v_base = v_cache_ptr + kv_head.to(tl.int64) * v_head

    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    weighted = tl.zeros([QUERIES, DIM], tl.float32)
    for key_tile in tl.range(first_tile, last_tile, num_stages=STAGES):
        position = key_tile * KEYS + tl.arange(0, KEYS)
        # Behind the context may be a stale NaN, which a zero weight does not stop: load the last token again instead.
        loaded = tl.minimum(position, most - 1)
        if BLOCK_SIZE % KEYS == 0:
            block = tl.load(table_row + key_tile * KEYS // BLOCK_SIZE).to(tl.int64)
            slot = (loaded % BLOCK_SIZE).to(tl.int64)
            k_token = block * k_block + slot * k_slot
            v_token = block * v_block + slot * v_slot
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
    heads = tl.num_programs(1) * GROUP
    target = (split.to(tl.int64) * tokens + token) * heads + head
    if splits > 1:
        lse = tl.where(seen, largest + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(lse_ptr + target, lse, mask=is_query)
    out_offset = target[:, None] * HEAD_DIM + dim[None, :]
    tl.store(
        out_ptr + out_offset,
        out.to(out_ptr.dtype.element_ty),
        mask=is_query[:, None] & (dim < HEAD_DIM)[None, :],
    )


@triton.jit(do_not_specialize=["splits", "tokens", "rows"])  # type: ignore[untyped-decorator]
def merge_splits(
    part_ptr: tl.tensor,  # float32 [splits, tokens, heads, HEAD_DIM]
    lse_ptr: tl.tensor,  # float32 [splits, tokens, heads], base-2 logarithm
    start_ptr: tl.tensor,  # int32 [rows + 1]
    out_ptr: tl.tensor,  # [tokens, heads, HEAD_DIM]
    tokens: tl.tensor,
    rows: tl.tensor,
    splits: tl.tensor,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    AT_ONCE: tl.constexpr,
) -> None:
    """Merge one query's splits, weighted by their share of the sum of exponentials. Grid: (tokens, heads)."""
    token = tl.program_id(0)
    if token >= tl.load(start_ptr + rows):
        return  # padding: no split wrote anything
    heads = tl.num_programs(1)
    query = token.to(tl.int64) * heads + tl.program_id(1)
    dim = tl.arange(0, DIM)
    largest = float("-inf")
    total = 0.0
    weighted = tl.zeros([DIM], tl.float32)
    for begin in range(0, splits, AT_ONCE):
        split = begin + tl.arange(0, AT_ONCE)
        source = split.to(tl.int64) * tokens * heads + query
        lse = tl.load(lse_ptr + source, mask=split < splits, other=float("-inf"))
        inside = (split < splits)[:, None] & (dim < HEAD_DIM)[None, :]
        part = tl.load(part_ptr + source[:, None] * HEAD_DIM + dim[None, :], mask=inside, other=0.0)
        new_largest = tl.maximum(largest, tl.max(lse, 0))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weight = tl.exp2(lse - shift)
        decay = tl.exp2(largest - shift)
        total = total * decay + tl.sum(weight, 0)
        weighted = weighted * decay + tl.sum(weight[:, None] * part, 0)
        largest = new_largest
    merged = weighted / tl.where(total > 0, total, 1.0)
    tl.store(out_ptr + query * HEAD_DIM + dim, merged.to(out_ptr.dtype.element_ty), mask=dim < HEAD_DIM)


@register(
    "paged_attention",
    name="triton_ragged",
    band=Band.PORTABLE,
    platforms=PLATFORMS,
    dtypes=DTYPES,
    traits={"head_dim": at_most(256), "layout": exactly("heads_adjoin")},
)
def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    query_start: Tensor,
    *,
    scale: float,
    out: Tensor,
    plan: AttentionPlan | None = None,
    tile: Tile | None = None,
    splits: int | None = None,
    workspace: tuple[Tensor, Tensor] | None = None,
) -> None:
    """One launch, or two if contexts are split or there is a plan. Arguments as in the public `paged_attention`, and:

    tile, splits: without a plan, instead of those that `choose_tile` and `choose_splits` take from the shapes
    workspace: float32 [splits, tokens, heads, head_dim] and [splits, tokens, heads] for the splits' results, written
        before they are read; allocated if not given
    """
    tokens, heads, head_dim = q.shape
    rows, kv_heads, block_size = len(context_lens), k_cache.shape[2], k_cache.shape[1]
    if tokens * heads * head_dim == 0 or rows == 0:
        return
    target = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    q = q if q.stride(2) == 1 else q.contiguous()
    block_table = block_table if block_table.stride(1) == 1 else block_table.contiguous()
    if plan is not None and splits is None:
        attend_planned(q, k_cache, v_cache, block_table, context_lens.contiguous(), scale=scale, out=target, plan=plan)
        if target is not out:
            out.copy_(target)
        return
    group = heads // kv_heads
    tile = tile or choose_tile(tokens, rows, group, head_dim, q.element_size())
    tiles = tokens // (tile.queries // group) + rows
    if splits is None:
        max_context = block_table.shape[1] * block_size
        splits = choose_splits(tiles * kv_heads, max_context, tile, multiprocessors(q.device))
    part_out, part_lse = target, target
    if splits > 1:
        part_out, part_lse = workspace or (
            q.new_empty(splits, tokens, heads, head_dim, dtype=torch.float32),
            q.new_empty(splits, tokens, heads, dtype=torch.float32),
        )
    query_start = query_start.contiguous()
    dim = next_power_of_two(max(head_dim, 16))
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        attend_tile[(tiles, kv_heads, splits)](
            q,
            k_cache,
            v_cache,
            block_table,
            context_lens.contiguous(),
            query_start,
            part_out,
            part_lse,
            scale / math.log(2),
            tokens,
            rows,
            splits,
            block_table.stride(0),
            *q.stride()[:2],
            *k_cache.stride()[:3],
            *v_cache.stride()[:3],
            HEAD_DIM=head_dim,
            DIM=dim,
            BLOCK_SIZE=block_size,
            GROUP=group,
            QUERIES=tile.queries,
            KEYS=tile.keys,
            STAGES=tile.stages,
            PRECISION="tf32x3" if q.dtype == torch.float32 else "tf32",
            num_warps=tile.warps,
        )
        if splits > 1:
            merge_splits[(tokens, heads)](
                part_out,
                part_lse,
                query_start,
                target,
                tokens,
                rows,
                splits,
                HEAD_DIM=head_dim,
                DIM=dim,
                AT_ONCE=min(16, next_power_of_two(splits)),
                num_warps=2,
            )
    if target is not out:
        out.copy_(target)
