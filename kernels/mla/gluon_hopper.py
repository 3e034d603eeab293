"""`mla_decode` for Hopper in Gluon: one warp copies cached tokens with TMA, eight warps multiply with wgmma.

The division of labour follows FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608) and FlashMLA: a 64-query tile stays
in shared memory, 64 cached tokens at a time pass through two buffers and serve as keys, then as values. The two
warpgroups halve the keys in the first product and the 512 output columns in the second; the weights change hands
through shared memory.

Work is divided as in Stream-K (Osama et al. 2023, arXiv:2301.03598): the key tiles of all rows form one sequence, cut
into equal parts, one for each program, whatever the lengths. A part may hold the end of one row, whole rows, and the
beginning of another; a row that spans parts is merged by a second kernel (`merge_parts`). Every program finds its part
from `context_lens` on the device, so nothing is synchronised and the grid depends on shapes only.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ..constraints import at_least, exactly
from ..device import Platform
from ..kernel import Band
from ..registry import register
from . import CACHED_DIM, LATENT_DIM, ROPE_DIM
from .merge import MERGED_VALUES, merge_columns, merge_parts

BLOCK_SIZE = 64
"""Tokens of a key tile, and of a block of the cache: one block table entry for each tile."""
QUERIES = 64
"""Queries of a program: the rows of the wgmma instruction."""
CONSUMER_WARPS = 8
ENTRY_REGISTERS = 168
"""A thread's share of the register file at launch with 12 warps; `setmaxnreg` then gives the producer's away."""
MIN_TILES = 2
"""Key tiles of a part at least: shorter ones cost more in the merge than they save."""


@gluon.jit
def _add(a, b):  # type: ignore[no-untyped-def]
    return a + b


@gluon.jit  # type: ignore[untyped-decorator]
def _find_part(context_ptr, rows, part, parts, MIN_TILES: gl.constexpr, CHUNK: gl.constexpr):  # type: ignore[no-untyped-def]
    """The part's first row, its first key tile within that row, and its number of key tiles."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    index = gl.arange(0, CHUNK, layout=layout)
    total = 0
    for chunk in range(0, rows, CHUNK):
        context = gl.load(context_ptr + chunk + index, mask=chunk + index < rows, other=0)
        total += gl.sum((context + 63) // 64, 0)
    tiles_per_part = gl.maximum(gl.cdiv(total, parts), MIN_TILES)
    begin = part * tiles_per_part
    count = gl.minimum(tiles_per_part, total - begin)
    row = 0
    row_begin = 0
    before = 0
    for chunk in range(0, rows, CHUNK):
        context = gl.load(context_ptr + chunk + index, mask=chunk + index < rows, other=0)
        row_end = before + gl.associative_scan((context + 63) // 64, 0, _add)
        is_before = (row_end <= begin) & (chunk + index < rows)
        row += gl.sum(is_before.to(gl.int32), 0)
        row_begin = gl.maximum(row_begin, gl.max(gl.where(is_before, row_end, 0), 0))
        before = gl.max(row_end, 0)
    return row, begin - row_begin, count


@gluon.jit
def _produce(  # type: ignore[no-untyped-def]
    latent_desc, rope_desc, table_ptr, table_stride, context_ptr, row, tile, count, latents, ropes, full, empty
):
    """Copy the part's key tiles into the buffers, in turns."""
    copied = 0
    while copied < count:
        tiles = (gl.load(context_ptr + row) + 63) // 64
        last = gl.minimum(tiles, tile + count - copied)
        table_row = table_ptr + row.to(gl.int64) * table_stride
        for index in range(tile, last):
            stage = copied % 2
            token = gl.load(table_row + index) * 64
            mbarrier.wait(empty.index(stage), (copied // 2 & 1) ^ 1)
            mbarrier.expect(full.index(stage), latent_desc.block_type.nbytes + rope_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(rope_desc, [token, 512], full.index(stage), ropes.index(stage))
            tma.async_copy_global_to_shared(latent_desc, [token, 0], full.index(stage), latents.index(stage))
            copied += 1
        row += 1
        tile = 0


@gluon.jit
def _load_queries(q_ptr, row, query, queries, q_latent, q_rope):  # type: ignore[no-untyped-def]
    """Bring a tile of the row's queries to shared memory; queries beyond the last one are zero."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    number = query + gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    for column in gl.static_range(0, 576, 64):
        offset = column + gl.arange(0, 64, layout=gl.SliceLayout(0, layout))
        source = q_ptr + ((row.to(gl.int64) * queries + number) * 576)[:, None] + offset[None, :]
        values = gl.load(source, mask=(number < queries)[:, None], other=0.0)
        if column < 512:
            q_latent.slice(column, 64, dim=1).store(values)
        else:
            q_rope.store(values)


@gluon.jit
def _clear_behind_context(latent, visible_tokens):  # type: ignore[no-untyped-def]
    """Zero the tile's tokens from `visible_tokens` on: a zero weight would not stop a stale NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    token = gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    for column in gl.static_range(0, 512, 64):
        piece = latent.slice(column, 64, dim=1)
        values = piece.load(layout)
        piece.store(gl.where((token < visible_tokens)[:, None], values, gl.zeros_like(values)))


@gluon.jit
def _consume(  # type: ignore[no-untyped-def]
    q_ptr, context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, heads, q_len, part, row, tile, count,
    q_latent, q_rope, weights_buffer, latents, ropes, full, empty,
):  # fmt: skip
    """Attention of a tile of queries over the part's key tiles, one row after another."""
    # Both warpgroups hold all 64 queries; each has half of the keys (scores) or of the columns (output).
    score_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 2], instr_shape=[16, 32, 16])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 2], instr_shape=[16, 256, 16])
    score_rows: gl.constexpr = gl.SliceLayout(1, score_layout)
    out_rows: gl.constexpr = gl.SliceLayout(1, out_layout)
    queries = heads * q_len
    first_query = gl.program_id(0) * 64
    query = first_query + gl.arange(0, 64, layout=score_rows)
    key = gl.arange(0, 64, layout=gl.SliceLayout(0, score_layout))
    consumed = 0
    while consumed < count:
        context = gl.load(context_ptr + row)
        tiles = (context + 63) // 64
        last = gl.minimum(tiles, tile + count - consumed)
        if tile < last:
            _load_queries(q_ptr, row, first_query, queries, q_latent, q_rope)
            fence_async_shared()
            gl.thread_barrier()
            visible = context - q_len + query // heads + 1  # causal, bottom-right
            largest = gl.full([64], float("-inf"), gl.float32, layout=score_rows)
            # Summed over keys only at the end: a sum here would make the two warpgroups wait for each other.
            totals = gl.zeros([64, 64], gl.float32, layout=score_layout)
            weighted = gl.zeros([64, 512], gl.float32, layout=out_layout)
            for index in range(tile, last):
                stage = consumed % 2
                latent = latents.index(stage)
                mbarrier.wait(full.index(stage), consumed // 2 & 1)
                scores = gl.zeros([64, 64], gl.float32, layout=score_layout)
                rope_keys = ropes.index(stage).permute((1, 0))
                scores = warpgroup_mma(q_rope, rope_keys, scores, use_acc=False, is_async=True)
                scores = warpgroup_mma(q_latent, latent.permute((1, 0)), scores, is_async=True)
                scores = warpgroup_mma_wait(0, deps=(scores,))
                is_visible = (index * 64 + key)[None, :] < visible[:, None]
                scores = gl.where(is_visible, scores * scale_log2, float("-inf"))
                new_largest = gl.maximum(largest, gl.max(scores, 1))
                # A query that has seen nothing yet has largest -inf, and -inf - -inf is not a number.
                shift = gl.where(new_largest == float("-inf"), 0.0, new_largest)
                weights = gl.exp2(scores - shift[:, None])
                decay = gl.exp2(largest - shift)
                largest = new_largest
                weights_buffer.store(weights.to(weights_buffer.dtype))
                if index * 64 + 64 > context:
                    gl.thread_barrier()  # both warpgroups have read the keys
                    _clear_behind_context(latent, context - index * 64)
                fence_async_shared()
                gl.thread_barrier()
                totals = totals * decay[:, None] + weights
                weighted = weighted * gl.convert_layout(decay, out_rows)[:, None]
                weighted = warpgroup_mma(weights_buffer, latent, weighted, is_async=True)
                weighted = warpgroup_mma_wait(0, deps=(weighted,))
                gl.thread_barrier()
                mbarrier.arrive(empty.index(stage), count=1)
                consumed += 1

            total = gl.sum(totals, 1)
            seen = total > 0
            divisor = gl.where(seen, total, 1.0)
            lse = gl.where(seen, (largest + gl.log2(divisor)) * 0.6931471805599453, float("-inf"))
            weighted = weighted * gl.convert_layout(1.0 / divisor, out_rows)[:, None]
            out_query = first_query + gl.arange(0, 64, layout=out_rows)
            column = gl.arange(0, 512, layout=gl.SliceLayout(0, out_layout))
            if (tile == 0) & (last == tiles):  # the whole row: no merge
                base = row.to(gl.int64) * queries
                gl.store(lse_ptr + base + query, lse, mask=query < queries)
                target = out_ptr + ((base + out_query) * 512)[:, None] + column[None, :]
                gl.store(target, weighted.to(out_ptr.dtype.element_ty), mask=(out_query < queries)[:, None])
            else:
                base = (part + row).to(gl.int64) * queries
                gl.store(part_lse_ptr + base + query, lse, mask=query < queries)
                part_target = part_out_ptr + ((base + out_query) * 512)[:, None] + column[None, :]
                gl.store(part_target, weighted, mask=(out_query < queries)[:, None])
        row += 1
        tile = 0


@gluon.jit(do_not_specialize=["table_stride", "heads", "q_len", "rows"])  # type: ignore[untyped-decorator]
def attend_part(  # type: ignore[no-untyped-def]
    latent_desc,  # TMA descriptor of the cache [blocks * 64, 576], boxes of 64 tokens by 512 values
    rope_desc,  # the same, boxes of 64 tokens by 64 values
    q_ptr,  # [rows, queries, 576], queries = q_len * heads
    table_ptr,  # int32 [rows, max_blocks] with stride
    context_ptr,  # int32 [rows]
    out_ptr,  # [rows, queries, 512]
    lse_ptr,  # float32 [rows, queries], natural logarithm
    part_out_ptr,  # float32 [parts + rows - 1, queries, 512]
    part_lse_ptr,  # float32 [parts + rows - 1, queries]
    scale_log2,  # scale / ln 2: exp2 is the device's native exponential
    table_stride,
    heads,
    q_len,
    rows,
    MIN_TILES: gl.constexpr,
):
    """Attention of 64 queries over one part of all key tiles. Grid: (query tiles, parts)."""
    part = gl.program_id(1)
    row, tile, count = _find_part(context_ptr, rows, part, gl.num_programs(1), MIN_TILES, 256)
    dtype: gl.constexpr = latent_desc.dtype
    latent_layout: gl.constexpr = latent_desc.layout
    rope_layout: gl.constexpr = rope_desc.layout
    q_latent = gl.allocate_shared_memory(dtype, [64, 512], latent_layout)
    q_rope = gl.allocate_shared_memory(dtype, [64, 64], rope_layout)
    weights = gl.allocate_shared_memory(dtype, [64, 64], rope_layout)
    # Two buffers of 64 tokens, 72 KiB each: a third does not fit beside the queries.
    latents = gl.allocate_shared_memory(dtype, [2, 64, 512], latent_layout)
    ropes = gl.allocate_shared_memory(dtype, [2, 64, 64], rope_layout)
    full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(2):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    fence_async_shared()
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    q_ptr, context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, heads, q_len, part,
                    row, tile, count, q_latent, q_rope, weights, latents, ropes, full, empty,
                ),
            ),
            (
                _produce,
                (
                    latent_desc, rope_desc, table_ptr, table_stride, context_ptr, row, tile, count, latents, ropes,
                    full, empty,
                ),
            ),
        ],
        [1],
        [24],
    )  # fmt: skip


@register(
    "mla_decode",
    name="gluon_hopper",
    band=Band.SPECIALIZED,
    platforms=(Platform("cuda", min_arch=90, max_arch=90),),
    dtypes=(torch.bfloat16, torch.float16),
    # With fewer queries the tile is mostly empty, and the narrow Triton tile was measured faster.
    traits={"queries": at_least(17), "block_size": exactly(BLOCK_SIZE), "dense_cache": exactly(1)},
)
def mla_decode(
    q: Tensor,
    kv_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    out: Tensor,
    lse: Tensor,
    parts: int | None = None,
    workspace: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Launch the two kernels. Arguments as in the public `mla_decode`, and:

    parts: into how many parts to cut the work, instead of `choose_parts`. The bits of a row's result depend on where it
        is cut, and so on its neighbours in the batch; for the same batch they are the same.
    workspace: float32 [parts + rows - 1, q_len, heads, 512] and [parts + rows - 1, q_len, heads] for results of parts,
        written before they are read; allocated if not given.
    """
    rows, q_len, heads, _ = q.shape
    queries = q_len * heads
    if rows * queries == 0:
        return
    if parts is None:
        parts = choose_parts(rows, queries, block_table.shape[1], multiprocessors(q.device))
    part_out, part_lse = workspace or (
        q.new_empty(parts + rows - 1, q_len, heads, LATENT_DIM, dtype=torch.float32),
        q.new_empty(parts + rows - 1, q_len, heads, dtype=torch.float32),
    )
    context_lens = context_lens.contiguous()
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        attend_part[(triton.cdiv(queries, QUERIES), parts)](
            *_descriptors(kv_cache),
            q.contiguous(),
            block_table,
            context_lens,
            out,
            lse,
            part_out,
            part_lse,
            scale / math.log(2),
            block_table.stride(0),
            heads,
            q_len,
            rows,
            MIN_TILES=MIN_TILES,
            num_warps=CONSUMER_WARPS,
            maxnreg=ENTRY_REGISTERS,
        )
        columns = merge_columns(rows * queries)
        merge_parts[(queries, rows, LATENT_DIM // columns)](
            part_out,
            part_lse,
            context_lens,
            out,
            lse,
            queries,
            rows,
            parts,
            MIN_TILES=MIN_TILES,
            COLUMNS=columns,
            AT_ONCE=MERGED_VALUES // columns,
            num_warps=4,
        )


def choose_parts(rows: int, queries: int, max_tiles: int, multiprocessors: int) -> int:
    """One part for each multiprocessor, counting all query tiles, but none shorter than MIN_TILES.

    `max_tiles` bounds the key tiles of a row.
    """
    fill = multiprocessors // -(-queries // QUERIES)
    return max(1, min(fill, -(-rows * max_tiles // MIN_TILES)))


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _descriptors(kv_cache: Tensor) -> tuple[TensorDescriptor, TensorDescriptor]:
    """TMA descriptors of the cache as [tokens, 576]: boxes of one block by the latent and by the rotary values."""
    tokens = kv_cache.view(-1, CACHED_DIM)
    element = gl.bfloat16 if kv_cache.dtype == torch.bfloat16 else gl.float16
    latent, rope = (
        TensorDescriptor.from_tensor(tokens, box, gl.NVMMASharedLayout.get_default_for(box, element))
        for box in ([BLOCK_SIZE, LATENT_DIM], [BLOCK_SIZE, ROPE_DIM])
    )
    return latent, rope
