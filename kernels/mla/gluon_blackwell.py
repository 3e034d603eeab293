"""`mla_decode` for datacentre Blackwell (sm_100) in Gluon: tcgen05 products with accumulators in tensor memory.

NEVER RUN: this project has no such device. The kernel is compiled and its code inspected, and its schedule is emulated
in torch by a test; nothing is claimed about its speed, and nothing about its results beyond that.

Tensor memory has 128 rows of 512 columns of 32 bits. 128 queries with all 512 output columns would fill it, with no
room for scores; so a program computes one half of the output columns, 256 of them, and two programs compute the scores
of a tile of queries each for itself. The rest: two buffers of scores, 32 columns each, and the weights, 16 columns. In
shared memory lie the queries (144 KiB) and two buffers of 32 cached tokens (72 KiB).

Three roles, as in CUTLASS's kernels for this device: one warp copies tokens with TMA, one warp
issues products, four warps turn scores into weights, one row of the tile for each thread. The scores of the next tile
are computed while these four work. A row's maximum is replaced only once it has grown by a factor of 2**8: weights stay
small enough for any dtype, and the output is hardly ever rescaled.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.blackwell import (
    TensorMemoryLayout,
    allocate_tensor_memory,
    fence_async_shared,
    get_tmem_reg_layout,
    mbarrier,
    tcgen05_mma,
    tma,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ..constraints import exactly
from ..device import Platform
from ..kernel import Band
from ..registry import register
from ..triton_support import multiprocessors
from . import CACHED_DIM, LATENT_DIM, ROPE_DIM
from .merge import merge_shape, merge_splits
from .plan import MlaPlan

QUERIES = 128
"""Queries of a program: the rows of a tcgen05 product."""
KEYS = 32
"""Cached tokens of a tile; a block of the cache holds two tiles."""
BLOCK_SIZE = 64
"""Tokens of a block of the cache."""
HALF = LATENT_DIM // 2
"""Output columns of a program."""
WEIGHT_WARPS = 4
"""Warps that turn scores into weights: the 128 rows of tensor memory belong to four."""
GROWTH = 8.0
"""Growth of a row's maximum, as a power of two, from which on it is replaced."""


@gluon.jit
def _copy_tokens(half_desc, rope_desc, table_row, first, count, half, own, other, rope, full, empty):  # type: ignore[no-untyped-def]
    """Bring tiles of tokens to the buffers, in turns: the program's half of the latent, the other one, the rest."""
    for index in range(count):
        stage = index % 2
        token = (first + index) * 32
        row = gl.load(table_row + token // 64) * 64 + token % 64
        mbarrier.wait(empty.index(stage), (index // 2 & 1) ^ 1)
        mbarrier.expect(full.index(stage), 2 * half_desc.block_type.nbytes + rope_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(half_desc, [row, half * 256], full.index(stage), own.index(stage))
        tma.async_copy_global_to_shared(half_desc, [row, 256 - half * 256], full.index(stage), other.index(stage))
        tma.async_copy_global_to_shared(rope_desc, [row, 512], full.index(stage), rope.index(stage))


@gluon.jit
def _multiply_scores(stage, q_own, q_other, q_rope, own, other, rope, scores, scored):  # type: ignore[no-untyped-def]
    target = scores.index(stage)
    tcgen05_mma(q_rope, rope.index(stage).permute((1, 0)), target, use_acc=False)
    tcgen05_mma(q_other, other.index(stage).permute((1, 0)), target)
    tcgen05_mma(q_own, own.index(stage).permute((1, 0)), target, mbarriers=[scored.index(stage)])


@gluon.jit
def _multiply(  # type: ignore[no-untyped-def]
    count, q_own, q_other, q_rope, own, other, rope, scores, weights, output, full, empty, scored, weighed, summed
):
    """Issue the products: scores of the next tile before the weighted sum of this one."""
    mbarrier.wait(full.index(0), 0)
    _multiply_scores(0, q_own, q_other, q_rope, own, other, rope, scores, scored)
    for index in range(count):
        following = index + 1
        if following < count:
            # Its buffer of scores was read before the weights of the tile before this one were complete.
            mbarrier.wait(full.index(following % 2), following // 2 & 1)
            _multiply_scores(following % 2, q_own, q_other, q_rope, own, other, rope, scores, scored)
        mbarrier.wait(weighed, index & 1)
        tcgen05_mma(
            weights, own.index(index % 2), output, use_acc=index > 0, mbarriers=[empty.index(index % 2), summed]
        )


@gluon.jit
def _weigh(  # type: ignore[no-untyped-def]
    out_ptr, lse_ptr, target, queries, first_query, context, q_len, heads, scale_log2, value_scale, first, count,
    half, scores, weights, output, own, full, scored, weighed, summed,
):  # fmt: skip
    """Turn scores into weights tile by tile, then write the output of the program's half of the columns."""
    scores_type: gl.constexpr = scores.index(0).type
    score_layout: gl.constexpr = get_tmem_reg_layout(gl.float32, (128, 32), scores_type.layout, 4)
    piece_layout: gl.constexpr = get_tmem_reg_layout(gl.float32, (128, 64), TensorMemoryLayout([128, 64], 1), 4)
    rows: gl.constexpr = gl.SliceLayout(1, score_layout)
    piece_rows: gl.constexpr = gl.SliceLayout(1, piece_layout)
    query = first_query + gl.arange(0, 128, layout=rows)
    key = gl.arange(0, 32, layout=gl.SliceLayout(0, score_layout))
    visible = context - q_len + query // heads + 1  # causal, bottom-right
    largest = gl.full([128], float("-inf"), gl.float32, layout=rows)
    total = gl.zeros([128], gl.float32, layout=rows)
    for index in range(count):
        stage = index % 2
        mbarrier.wait(scored.index(stage), index // 2 & 1)
        score = scores.index(stage).load(score_layout)
        begin = (first + index) * 32
        score = gl.where((begin + key)[None, :] < visible[:, None], score * scale_log2, float("-inf"))
        tile_largest = gl.max(score, 1)
        new_largest = gl.where(tile_largest > largest + 8.0, tile_largest, largest)
        # A query that has seen nothing yet has largest -inf, and -inf - -inf is not a number.
        shift = gl.where(new_largest == float("-inf"), 0.0, new_largest)
        weight = gl.exp2(score - shift[:, None])
        decay = gl.exp2(largest - shift)
        grown = gl.max((new_largest > largest).to(gl.int32), 0)
        total = total * decay + gl.sum(weight, 1)
        largest = new_largest
        if index > 0:
            mbarrier.wait(summed, (index - 1) & 1)  # the weights were read, and the output is at rest
            if grown > 0:
                factor = gl.convert_layout(decay, piece_rows)[:, None]
                for column in gl.static_range(0, 256, 64):
                    piece = output.slice(column, 64)
                    piece.store(piece.load(piece_layout) * factor)
        weights.store(weight.to(weights.dtype))
        if begin + 32 > context:  # a zero weight would not stop a stale NaN behind the context
            mbarrier.wait(full.index(stage), index // 2 & 1)  # the copy is visible to loads, not to products alone
            clear_layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
            token = begin + gl.arange(0, 32, layout=gl.SliceLayout(1, clear_layout))
            for column in gl.static_range(0, 256, 64):
                values = own.index(stage).slice(column, 64, dim=1)
                kept = gl.where((token < context)[:, None], values.load(clear_layout), 0.0)
                values.store(kept.to(values.dtype))
            fence_async_shared()
        gl.thread_barrier()
        mbarrier.arrive(weighed, count=1)

    mbarrier.wait(summed, (count - 1) & 1)
    seen = total > 0
    divisor = gl.where(seen, total, 1.0)
    lse = gl.where(seen, (largest + gl.log2(divisor)) * 0.6931471805599453, float("-inf"))
    gl.store(lse_ptr + target + query, lse, mask=(query < queries) & (half == 0))
    factor = gl.convert_layout(value_scale / divisor, piece_rows)[:, None]
    out_query = first_query + gl.arange(0, 128, layout=piece_rows)
    for column in gl.static_range(0, 256, 64):
        offset = half * 256 + column + gl.arange(0, 64, layout=gl.SliceLayout(0, piece_layout))
        pointers = out_ptr + ((target + out_query) * 512)[:, None] + offset[None, :]
        result = output.slice(column, 64).load(piece_layout) * factor
        gl.store(pointers, result.to(out_ptr.dtype.element_ty), mask=(out_query < queries)[:, None])


@gluon.jit
def _load_queries(q_row, first_query, queries, half, q_own, q_other, q_rope):  # type: ignore[no-untyped-def]
    """Bring 128 queries to shared memory; those beyond the last one are zero."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    number = first_query + gl.arange(0, 128, layout=gl.SliceLayout(1, layout))
    for column in gl.static_range(0, 576, 64):
        # The program's half of the latent first, then the other one, then the rotary part.
        begin = half * 256 + column if column < 256 else column - half * 256 if column < 512 else 512
        offset = begin + gl.arange(0, 64, layout=gl.SliceLayout(0, layout))
        source = q_row + (number * 576)[:, None] + offset[None, :]
        values = gl.load(source, mask=(number < queries)[:, None], other=0.0)
        if column < 256:
            q_own.slice(column, 64, dim=1).store(values)
        elif column < 512:
            q_other.slice(column - 256, 64, dim=1).store(values)
        else:
            q_rope.store(values)


@gluon.jit(do_not_specialize=["table_stride", "heads", "q_len", "splits"])
def attend_split(  # type: ignore[no-untyped-def]
    half_desc,  # TMA descriptor of the cache [blocks * 64, 576], boxes of 32 tokens by 256 values
    rope_desc,  # the same, boxes of 32 tokens by 64 values
    q_ptr,  # [rows, queries, 576], queries = q_len * heads
    table_ptr,  # int32 [rows, max_blocks] with stride
    context_ptr,  # int32 [rows]
    out_ptr,  # [rows, splits, queries, 512]
    lse_ptr,  # float32 [rows, splits, queries], natural logarithm
    scale_log2,  # scale / ln 2: exp2 is the device's native exponential
    value_scale,  # factor of the output
    table_stride,
    heads,
    q_len,
    splits,
):
    """Attention of 128 queries of one row over one split of its context, for one half of the output columns.

    Grid: (2 * query tiles, splits, rows). A split without a token writes out 0 and lse -inf.
    """
    half = gl.program_id(0) % 2
    first_query = gl.program_id(0) // 2 * 128
    split = gl.program_id(1)
    row = gl.program_id(2)
    queries = q_len * heads
    context = gl.load(context_ptr + row)
    tiles = (context + 31) // 32
    tiles_per_split = (tiles + splits - 1) // splits
    first = split * tiles_per_split
    count = gl.minimum(tiles_per_split, tiles - first)
    target = (row.to(gl.int64) * splits + split) * queries
    if count <= 0:
        layout: gl.constexpr = gl.BlockedLayout([1, 4], [1, 32], [4, 1], [1, 0])
        number = first_query + gl.arange(0, 128, layout=gl.SliceLayout(1, layout))
        column = half * 256 + gl.arange(0, 256, layout=gl.SliceLayout(0, layout))
        nothing = gl.zeros([128, 256], out_ptr.dtype.element_ty, layout=layout)
        pointers = out_ptr + ((target + number) * 512)[:, None] + column[None, :]
        gl.store(pointers, nothing, mask=(number < queries)[:, None])
        unseen = gl.full([128], float("-inf"), gl.float32, layout=gl.SliceLayout(1, layout))
        gl.store(lse_ptr + target + number, unseen, mask=(number < queries) & (half == 0))
    else:
        dtype: gl.constexpr = half_desc.dtype
        half_layout: gl.constexpr = half_desc.layout
        rope_layout: gl.constexpr = rope_desc.layout
        q_own = gl.allocate_shared_memory(dtype, [128, 256], half_layout)
        q_other = gl.allocate_shared_memory(dtype, [128, 256], half_layout)
        q_rope = gl.allocate_shared_memory(dtype, [128, 64], rope_layout)
        own = gl.allocate_shared_memory(dtype, [2, 32, 256], half_layout)
        other = gl.allocate_shared_memory(dtype, [2, 32, 256], half_layout)
        rope = gl.allocate_shared_memory(dtype, [2, 32, 64], rope_layout)
        scores = allocate_tensor_memory(gl.float32, [2, 128, 32], TensorMemoryLayout([128, 32], 1))
        weights = allocate_tensor_memory(dtype, [128, 32], TensorMemoryLayout([128, 32], 1))
        output = allocate_tensor_memory(gl.float32, [128, 256], TensorMemoryLayout([128, 256], 1))
        full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        scored = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        weighed = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        summed = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        for stage in gl.static_range(2):
            mbarrier.init(full.index(stage), count=1)
            mbarrier.init(empty.index(stage), count=1)
            mbarrier.init(scored.index(stage), count=1)
        mbarrier.init(weighed, count=1)
        mbarrier.init(summed, count=1)
        _load_queries(q_ptr + row.to(gl.int64) * queries * 576, first_query, queries, half, q_own, q_other, q_rope)
        fence_async_shared()
        table_row = table_ptr + row.to(gl.int64) * table_stride
        gl.warp_specialize(
            [
                (
                    _weigh,
                    (
                        out_ptr, lse_ptr, target, queries, first_query, context, q_len, heads, scale_log2, value_scale,
                        first, count, half, scores, weights, output, own, full, scored, weighed, summed,
                    ),
                ),
                (
                    _multiply,
                    (
                        count, q_own, q_other, q_rope, own, other, rope, scores, weights, output, full, empty, scored,
                        weighed, summed,
                    ),
                ),
                (
                    _copy_tokens,
                    (half_desc, rope_desc, table_row, first, count, half, own, other, rope, full, empty),
                ),
            ],
            [1, 1],
            [96, 48],
        )  # fmt: skip


@register(
    "mla_decode",
    name="gluon_blackwell",
    band=Band.UNTRIED,
    platforms=(Platform("cuda", min_arch=100, max_arch=100),),
    dtypes=(torch.bfloat16, torch.float16),
    traits={"block_size": exactly(BLOCK_SIZE), "dense_cache": exactly(1), "cache_bits": exactly(16)},
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
    plan: MlaPlan | None = None,
    cache_scale: float = 1.0,
) -> None:
    """Launch the two kernels, or the first alone if there is one split. Arguments as in the public `mla_decode`, but
    `plan` is not used: rows are cut by shapes alone."""
    rows, q_len, heads, _ = q.shape
    queries = q_len * heads
    if rows * queries == 0:
        return
    programs = 2 * -(-queries // QUERIES)
    max_tiles = block_table.shape[1] * BLOCK_SIZE // KEYS
    splits = choose_splits(rows * programs, max_tiles, multiprocessors(q.device))
    part_out, part_lse = out, lse
    if splits > 1:
        part_out = q.new_empty(rows, splits, q_len, heads, LATENT_DIM, dtype=torch.float32)
        part_lse = q.new_empty(rows, splits, q_len, heads, dtype=torch.float32)
    element = gl.bfloat16 if kv_cache.dtype == torch.bfloat16 else gl.float16
    half, rope = (
        TensorDescriptor.from_tensor(
            kv_cache.view(-1, CACHED_DIM), box, gl.NVMMASharedLayout.get_default_for(box, element)
        )
        for box in ([KEYS, HALF], [KEYS, ROPE_DIM])
    )
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        attend_split[(programs, splits, rows)](
            half,
            rope,
            q.contiguous(),
            block_table,
            context_lens.contiguous(),
            part_out,
            part_lse,
            scale * cache_scale / math.log(2),
            cache_scale,
            block_table.stride(0),
            heads,
            q_len,
            splits,
            num_warps=WEIGHT_WARPS,
        )
        if splits > 1:
            shape, warps = merge_shape(splits)
            merge_splits[(triton.cdiv(queries, shape["QUERIES"]), LATENT_DIM // shape["COLUMNS"], rows)](
                part_out, part_lse, out, lse, queries, splits, **shape, num_warps=warps
            )


def choose_splits(programs: int, max_tiles: int, multiprocessors: int) -> int:
    """Into how many parts to cut each context: a program for each multiprocessor, and no part shorter than four tiles.

    programs: query tiles and halves of all rows; max_tiles: bounds the key tiles of a row
    """
    return max(1, min(multiprocessors // programs, max_tiles // 4))
