"""`mla_decode` for Hopper in Gluon: two warpgroups take turns with the tensor cores, one warp copies with TMA.

A tile is 64 cached tokens; tiles are taken in pairs. Each warpgroup multiplies all 64 queries with the keys of its own
tile of the pair, so that a row's scores stay within a warp, and owns half of the output columns, for both tiles. The
weights of the other tile come through shared memory. One warpgroup computes weights while the other multiplies: the
schedule that FlashMLA calls seesaw (https://github.com/deepseek-ai/FlashMLA, docs/20250422-new-kernel-deep-dive.md).

                first warpgroup ("leader")             second warpgroup ("follower")
    scores      queries x even tile                    queries x odd tile
    maximum     over the even tile, sent               over both tiles, sent back
    weights     of the even tile, rescaled and sent    of the odd tile, sent
    output      columns 0..255: even, then odd tile    columns 256..511: odd, then even tile

A tile's two halves of 256 columns are buffers of their own, and each is refilled as soon as the warpgroup that reads it
last is done: the half of a tile's owner before the other's.

Work is divided as in Stream-K (Osama et al. 2023, arXiv:2301.03598), see `plan.py`.
"""

from __future__ import annotations

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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ..constraints import exactly
from ..device import Platform
from ..kernel import Band
from ..registry import register
from . import CACHED_DIM, LATENT_DIM, ROPE_DIM
from .merge import merge
from .plan import MlaPlan, plan_mla_decode

BLOCK_SIZE = 64
"""Tokens of a key tile, and of a block of the cache: one block table entry for each tile."""
QUERIES = 64
"""Queries of a program: the rows of the wgmma instruction."""
HALF = LATENT_DIM // 2
WARPS = 4
"""Warps of the leader; the follower has as many, and one warp copies."""
ENTRY_REGISTERS = 168
"""A thread's share of the register file at launch with 12 warps; `setmaxnreg` then gives the producer's away."""

_ELEMENTS = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16, torch.float8_e4m3fn: gl.float8e4nv}

# The buffers of half tiles.
_EVEN_LEFT, _EVEN_RIGHT, _ODD_LEFT, _ODD_RIGHT = gl.constexpr(0), gl.constexpr(1), gl.constexpr(2), gl.constexpr(3)
# What the warpgroups tell each other, once for each tile: a maximum or weights are in shared memory.
_EVEN_MAX, _ODD_MAX, _EVEN_WEIGHTS, _ODD_WEIGHTS = gl.constexpr(0), gl.constexpr(1), gl.constexpr(2), gl.constexpr(3)
# Once for each row: the sums of weights are there.
_EVEN_SUM, _ODD_SUM = gl.constexpr(4), gl.constexpr(5)

_SCORES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16]))
_OUT = gl.constexpr(gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, 256, 16]))
_SCORE_ROWS = gl.constexpr(gl.SliceLayout(1, _SCORES.value))
_OUT_ROWS = gl.constexpr(gl.SliceLayout(1, _OUT.value))
_WEIGHTS = gl.constexpr(gl.DotOperandLayout(0, _OUT.value, 2))
_ROPE_QUERIES = gl.constexpr(gl.DotOperandLayout(0, _SCORES.value, 2))


@gluon.jit  # type: ignore[untyped-decorator]
def _produce(args, HALF: gl.constexpr):  # type: ignore[no-untyped-def]
    """Refill the buffer of half tile HALF whenever it is empty, with all even or all odd tiles of the part.

    Each of the four has a warp of its own, so that none waits for another's buffer. The rotary keys come with the half
    that their warpgroup multiplies first, each row's queries with the first half of all.
    """
    (
        latent_desc, rope_desc, q_desc, table_ptr, table_stride, context_ptr, queries, row, tile, count, q_latent,
        latents, ropes, q_full, q_empty, full, empty,
    ) = args  # fmt: skip
    TILE: gl.constexpr = HALF // 2
    WITH_ROPE: gl.constexpr = HALF % 2 == TILE
    nbytes: gl.constexpr = latent_desc.block_type.nbytes + (rope_desc.block_type.nbytes if WITH_ROPE else 0)
    buffer = latents.index(HALF)
    segment = 0
    turn = 0
    done = 0
    while done < count:
        tiles = (gl.load(context_ptr + row) + 63) // 64
        last = gl.minimum(tiles, tile + count - done)
        if tile < last:
            table_row = table_ptr + row.to(gl.int64) * table_stride
            block = gl.load(table_row + gl.minimum(tile + TILE, last - 1))
            if HALF == 0:
                mbarrier.wait(q_empty, (segment & 1) ^ 1)
                mbarrier.expect(q_full, 2 * q_desc.block_type.nbytes)
                query = row * queries + gl.program_id(0) * 64
                tma.async_copy_global_to_shared(q_desc, [query, 0], q_full, q_latent.index(0))
                tma.async_copy_global_to_shared(q_desc, [query, 256], q_full, q_latent.index(1))
            for index in range(tile + TILE, last, 2):
                token = block * 64
                block = gl.load(table_row + gl.minimum(index + 2, last - 1))
                mbarrier.wait(empty.index(HALF), (turn & 1) ^ 1)
                mbarrier.expect(full.index(HALF), nbytes)
                if WITH_ROPE:
                    tma.async_copy_global_to_shared(rope_desc, [token, 512], full.index(HALF), ropes.index(TILE))
                tma.async_copy_global_to_shared(latent_desc, [token, HALF % 2 * 256], full.index(HALF), buffer)
                turn += 1
            done += last - tile
            segment += 1
        row += 1
        tile = 0


@gluon.jit
def _load_rope_queries(q_ptr, row, first_query, queries):  # type: ignore[no-untyped-def]
    """The rotary values of a tile of the row's queries as an operand in registers; zero beyond the last query."""
    number = first_query + gl.arange(0, 64, layout=gl.SliceLayout(1, _ROPE_QUERIES))
    column = gl.arange(0, 64, layout=gl.SliceLayout(0, _ROPE_QUERIES))
    source = q_ptr + ((row.to(gl.int64) * queries + number) * 576 + 512)[:, None] + column[None, :]
    return gl.load(source, mask=(number < queries)[:, None], other=0.0)


@gluon.jit
def _clear_behind_context(half, visible_tokens):  # type: ignore[no-untyped-def]
    """Zero the half tile's tokens from `visible_tokens` on: a zero weight would not stop a stale NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    token = gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    for column in gl.static_range(0, 256, 64):
        piece = half.slice(column, 64, dim=1)
        values = piece.load(layout)
        piece.store(gl.where((token < visible_tokens)[:, None], values, gl.zeros_like(values)))


@gluon.jit
def _opaque_zero(turn):  # type: ignore[no-untyped-def]
    """0, which the compiler cannot know.

    Indexing a buffer with it keeps the wgmma descriptors, two registers for each of 36 slices, from being computed once
    before the loop and spilled.
    """
    return turn >> 30


@gluon.jit  # type: ignore[untyped-decorator]
def _scores(  # type: ignore[no-untyped-def]
    q_rope, q_latent, ropes, latents, full, q_empty, context, visible, always_visible, index, turn, is_last,
    TILE: gl.constexpr,
):  # fmt: skip
    """Scores of the warpgroup's own tile, unscaled, -inf where a query must not see a key.

    is_last: whether the warpgroup needs the row's queries no more
    """
    # The half that this warpgroup releases first is refilled first.
    FIRST: gl.constexpr = TILE
    zero = _opaque_zero(turn)
    phase = turn & 1
    first_half = latents.index(2 * TILE + FIRST + zero)
    second_half = latents.index(2 * TILE + 1 - FIRST + zero)
    scores = gl.zeros([64, 64], gl.float32, layout=_SCORES)
    mbarrier.wait(full.index(2 * TILE + FIRST), phase)
    scores = warpgroup_mma(q_rope, ropes.index(TILE + zero).permute((1, 0)), scores, use_acc=False, is_async=True)
    scores = warpgroup_mma(q_latent.index(FIRST + zero), first_half.permute((1, 0)), scores, is_async=True)
    mbarrier.wait(full.index(2 * TILE + 1 - FIRST), phase)
    scores = warpgroup_mma(q_latent.index(1 - FIRST + zero), second_half.permute((1, 0)), scores, is_async=True)
    scores, q_rope = warpgroup_mma_wait(0, deps=(scores, q_rope))
    if is_last:
        _tell(q_empty)
    if index * 64 + 64 > always_visible:
        key = index * 64 + gl.arange(0, 64, layout=gl.SliceLayout(0, _SCORES))
        scores = gl.where(key[None, :] < visible[:, None], scores, float("-inf"))
        if index * 64 + 64 > context:
            gl.thread_barrier()  # all warps have read the keys
            _clear_behind_context(first_half, context - index * 64)
            _clear_behind_context(second_half, context - index * 64)
            fence_async_shared()
            gl.thread_barrier()
    return scores


@gluon.jit
def _tell(barrier):  # type: ignore[no-untyped-def]
    """Signal that this warpgroup's shared memory accesses so far are done."""
    gl.thread_barrier()
    mbarrier.arrive(barrier, count=1)


@gluon.jit
def _tell_weights(buffer, weights, barrier):  # type: ignore[no-untyped-def]
    """Send weights to the other warpgroup's tensor cores."""
    buffer.store(weights.to(buffer.dtype))
    fence_async_shared()
    _tell(barrier)


@gluon.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    weighted, largest, own_sum, other_sum, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, queries, row,
    part, whole, is_final, first_query, buffer, TILE: gl.constexpr,
):  # fmt: skip
    """Divide by the sum of weights and store this warpgroup's columns, as the result or as a part of it.

    After the part's final row (is_final), `buffer`, which held half of its queries, is free: the result goes through
    it, for stores of 16 bytes a thread.
    """
    wide: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [4, 1], [1, 0])
    total = own_sum + other_sum
    seen = total > 0
    divisor = gl.where(seen, total, 1.0)
    weighted = weighted * gl.convert_layout(1.0 / divisor, _OUT_ROWS)[:, None]
    number = first_query + gl.arange(0, 64, layout=_SCORE_ROWS)
    out_number = first_query + gl.arange(0, 64, layout=_OUT_ROWS)
    column = TILE * 256 + gl.arange(0, 256, layout=gl.SliceLayout(0, _OUT))
    mask = (out_number < queries)[:, None]
    # exp2 was used: from binary to natural logarithm
    lse = gl.where(seen, (largest + gl.log2(divisor)) * 0.6931471805599453, float("-inf"))
    if whole:
        target = row.to(gl.int64) * queries
        if TILE == 0:
            gl.store(lse_ptr + target + number, lse, mask=number < queries)
        result = weighted.to(out_ptr.dtype.element_ty)
        if is_final:
            buffer.store(result)
            gl.thread_barrier()
            for piece in gl.static_range(0, 64, 16):
                wide_number = piece + gl.arange(0, 16, layout=gl.SliceLayout(1, wide))
                wide_column = TILE * 256 + gl.arange(0, 256, layout=gl.SliceLayout(0, wide))
                source = buffer.slice(piece, 16, dim=0).load(wide)
                wide_out = out_ptr + ((target + first_query + wide_number) * 512)[:, None] + wide_column[None, :]
                gl.store(wide_out, source, mask=(first_query + wide_number < queries)[:, None])
        else:
            gl.store(out_ptr + ((target + out_number) * 512)[:, None] + column[None, :], result, mask=mask)
    else:
        target = (part + row).to(gl.int64) * queries
        if TILE == 0:
            gl.store(part_lse_ptr + target + number, lse, mask=number < queries)
        gl.store(part_out_ptr + ((target + out_number) * 512)[:, None] + column[None, :], weighted, mask=mask)


@gluon.jit
def _lead(  # type: ignore[no-untyped-def]
    q_ptr, context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, heads, q_len, part, row,
    tile, count, q_latent, latents, ropes, weights, maxima, sums, q_full, q_empty, full, empty, told,
):  # fmt: skip
    """The first warpgroup: scores of even tiles, output columns 0 to 255."""
    queries = heads * q_len
    first_query = gl.program_id(0) * 64
    query = first_query + gl.arange(0, 64, layout=_SCORE_ROWS)
    segment = 0
    even = 0
    odd = 0
    done = 0
    while done < count:
        context = gl.load(context_ptr + row)
        tiles = (context + 63) // 64
        last = gl.minimum(tiles, tile + count - done)
        if tile < last:
            visible = context - q_len + query // heads + 1  # causal, bottom-right
            always_visible = context - q_len + 1
            q_rope = _load_rope_queries(q_ptr, row, first_query, queries)
            largest = gl.full([64], -1e30, gl.float32, layout=_SCORE_ROWS)
            total = gl.zeros([64], gl.float32, layout=_SCORE_ROWS)
            weighted = gl.zeros([64, 256], gl.float32, layout=_OUT)
            mbarrier.wait(q_full, segment & 1)
            for index in range(tile, last, 2):
                zero = _opaque_zero(even)
                scores = _scores(
                    q_rope, q_latent, ropes, latents, full, q_empty, context, visible, always_visible, index, even,
                    index + 2 >= last, 0,
                )  # fmt: skip
                even_largest = gl.maximum(largest, gl.max(scores, 1) * scale_log2)
                maxima.index(0).store(even_largest)
                _tell(told.index(_EVEN_MAX))
                decay = gl.exp2(largest - even_largest)
                even_weights = gl.exp2(scores * scale_log2 - even_largest[:, None])
                total = total * decay + gl.sum(even_weights, 1)
                operand = gl.convert_layout(even_weights.to(weights.dtype), _WEIGHTS)
                weighted = weighted * gl.convert_layout(decay, _OUT_ROWS)[:, None]
                pending = warpgroup_mma(operand, latents.index(_EVEN_LEFT + zero), weighted, is_async=True)
                if index + 1 < last:
                    other = odd & 1
                    mbarrier.wait(told.index(_ODD_MAX), other)
                    largest = maxima.index(1).load(_SCORE_ROWS)
                    decay = gl.exp2(even_largest - largest)
                    _tell_weights(weights.index(0), even_weights * decay[:, None], told.index(_EVEN_WEIGHTS))
                    total = total * decay
                    weighted, operand = warpgroup_mma_wait(0, deps=(pending, operand))
                    _tell(empty.index(_EVEN_LEFT))
                    weighted = weighted * gl.convert_layout(decay, _OUT_ROWS)[:, None]
                    mbarrier.wait(told.index(_ODD_WEIGHTS), other)
                    mbarrier.wait(full.index(_ODD_LEFT), other)
                    odd_left = latents.index(_ODD_LEFT + zero)
                    weighted = warpgroup_mma(weights.index(1 + zero), odd_left, weighted, is_async=True)
                    weighted = warpgroup_mma_wait(0, deps=(weighted,))
                    _tell(empty.index(_ODD_LEFT))
                    odd += 1
                else:
                    largest = even_largest
                    _tell_weights(weights.index(0), even_weights, told.index(_EVEN_WEIGHTS))
                    weighted, operand = warpgroup_mma_wait(0, deps=(pending, operand))
                    _tell(empty.index(_EVEN_LEFT))
                even += 1
            sums.index(segment % 2 * 2).store(total)
            _tell(told.index(_EVEN_SUM))
            mbarrier.wait(told.index(_ODD_SUM), segment & 1)
            other_total = sums.index(segment % 2 * 2 + 1).load(_SCORE_ROWS)
            whole = (tile == 0) & (last == tiles)
            _finish(
                weighted, largest, total, other_total, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr,
                queries, row, part, whole, done + last - tile >= count, first_query, q_latent.index(0), 0,
            )  # fmt: skip
            done += last - tile
            segment += 1
        row += 1
        tile = 0


@gluon.jit
def _follow(  # type: ignore[no-untyped-def]
    q_ptr, context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, heads, q_len, part, row,
    tile, count, q_latent, latents, ropes, weights, maxima, sums, q_full, q_empty, full, empty, told,
):  # fmt: skip
    """The second warpgroup: scores of odd tiles, output columns 256 to 511."""
    queries = heads * q_len
    first_query = gl.program_id(0) * 64
    query = first_query + gl.arange(0, 64, layout=_SCORE_ROWS)
    segment = 0
    even = 0
    odd = 0
    done = 0
    while done < count:
        context = gl.load(context_ptr + row)
        tiles = (context + 63) // 64
        last = gl.minimum(tiles, tile + count - done)
        if tile < last:
            visible = context - q_len + query // heads + 1  # causal, bottom-right
            always_visible = context - q_len + 1
            q_rope = _load_rope_queries(q_ptr, row, first_query, queries)
            largest = gl.full([64], -1e30, gl.float32, layout=_SCORE_ROWS)
            total = gl.zeros([64], gl.float32, layout=_SCORE_ROWS)
            weighted = gl.zeros([64, 256], gl.float32, layout=_OUT)
            mbarrier.wait(q_full, segment & 1)
            for index in range(tile, last, 2):
                phase = even & 1
                zero = _opaque_zero(even)
                if index + 1 < last:
                    scores = _scores(
                        q_rope, q_latent, ropes, latents, full, q_empty, context, visible, always_visible, index + 1,
                        odd, index + 3 >= last, 1,
                    )  # fmt: skip
                    odd_largest = gl.max(scores, 1) * scale_log2
                    mbarrier.wait(told.index(_EVEN_MAX), phase)
                    odd_largest = gl.maximum(maxima.index(0).load(_SCORE_ROWS), odd_largest)
                    maxima.index(1).store(odd_largest)
                    _tell(told.index(_ODD_MAX))
                    decay = gl.exp2(largest - odd_largest)
                    odd_weights = gl.exp2(scores * scale_log2 - odd_largest[:, None])
                    total = total * decay + gl.sum(odd_weights, 1)
                    _tell_weights(weights.index(1), odd_weights, told.index(_ODD_WEIGHTS))
                    largest = odd_largest
                    operand = gl.convert_layout(odd_weights.to(weights.dtype), _WEIGHTS)
                    weighted = weighted * gl.convert_layout(decay, _OUT_ROWS)[:, None]
                    weighted = warpgroup_mma(operand, latents.index(_ODD_RIGHT + zero), weighted, is_async=True)
                    mbarrier.wait(told.index(_EVEN_WEIGHTS), phase)
                    mbarrier.wait(full.index(_EVEN_RIGHT), phase)
                    even_right = latents.index(_EVEN_RIGHT + zero)
                    weighted = warpgroup_mma(weights.index(0 + zero), even_right, weighted, is_async=True)
                    weighted, operand = warpgroup_mma_wait(1, deps=(weighted, operand))
                    _tell(empty.index(_ODD_RIGHT))
                    weighted = warpgroup_mma_wait(0, deps=(weighted,))
                    _tell(empty.index(_EVEN_RIGHT))
                    odd += 1
                else:
                    mbarrier.wait(told.index(_EVEN_MAX), phase)
                    even_largest = maxima.index(0).load(_SCORE_ROWS)
                    decay = gl.exp2(largest - even_largest)
                    largest = even_largest
                    total = total * decay
                    weighted = weighted * gl.convert_layout(decay, _OUT_ROWS)[:, None]
                    mbarrier.wait(told.index(_EVEN_WEIGHTS), phase)
                    mbarrier.wait(full.index(_EVEN_RIGHT), phase)
                    even_right = latents.index(_EVEN_RIGHT + zero)
                    weighted = warpgroup_mma(weights.index(0 + zero), even_right, weighted, is_async=True)
                    weighted = warpgroup_mma_wait(0, deps=(weighted,))
                    _tell(empty.index(_EVEN_RIGHT))
                even += 1
            sums.index(segment % 2 * 2 + 1).store(total)
            _tell(told.index(_ODD_SUM))
            mbarrier.wait(told.index(_EVEN_SUM), segment & 1)
            other_total = sums.index(segment % 2 * 2).load(_SCORE_ROWS)
            if last - tile == 1:  # it had no scores of its own to compute
                _tell(q_empty)
            whole = (tile == 0) & (last == tiles)
            _finish(
                weighted, largest, total, other_total, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr,
                queries, row, part, whole, done + last - tile >= count, first_query, q_latent.index(1), 1,
            )  # fmt: skip
            done += last - tile
            segment += 1
        row += 1
        tile = 0


@gluon.jit(do_not_specialize=["table_stride", "heads", "q_len"])
def attend_part(  # type: ignore[no-untyped-def]
    latent_desc,  # TMA descriptor of the cache [blocks * 64, 576], boxes of 64 tokens by 256 values
    rope_desc,  # the same, boxes of 64 tokens by 64 values
    q_desc,  # TMA descriptor of q [rows * queries, 576], boxes of 64 queries by 256 values
    q_ptr,  # [rows, queries, 576], queries = q_len * heads
    table_ptr,  # int32 [rows, max_blocks] with stride
    context_ptr,  # int32 [rows]
    parts_ptr,  # int32 [parts, 4], see `MlaPlan`
    out_ptr,  # [rows, queries, 512]
    lse_ptr,  # float32 [rows, queries], natural logarithm
    part_out_ptr,  # float32 [parts + rows - 1, queries, 512]
    part_lse_ptr,  # float32 [parts + rows - 1, queries]
    scale_log2,  # scale / ln 2: exp2 is the device's native exponential
    table_stride,
    heads,
    q_len,
):
    """Attention of 64 queries over one part of all key tiles. Grid: (query tiles, parts)."""
    dtype: gl.constexpr = latent_desc.dtype
    half_layout: gl.constexpr = latent_desc.layout
    tile_layout: gl.constexpr = rope_desc.layout
    row_layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    # 229,376 bytes of tiles, all but 3 KiB of the shared memory. The rotary queries live in registers.
    q_latent = gl.allocate_shared_memory(dtype, [2, 64, 256], half_layout)
    latents = gl.allocate_shared_memory(dtype, [4, 64, 256], half_layout)
    ropes = gl.allocate_shared_memory(dtype, [2, 64, 64], tile_layout)
    weights = gl.allocate_shared_memory(dtype, [2, 64, 64], tile_layout)
    maxima = gl.allocate_shared_memory(gl.float32, [2, 64], row_layout)
    sums = gl.allocate_shared_memory(gl.float32, [4, 64], row_layout)  # of two rows in turns
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    told = gl.allocate_shared_memory(gl.int64, [6, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    mbarrier.init(q_empty, count=2)
    for half in gl.static_range(4):
        mbarrier.init(full.index(half), count=1)
        mbarrier.init(empty.index(half), count=1)
    for message in gl.static_range(6):
        mbarrier.init(told.index(message), count=1)
    fence_async_shared()
    gdc_wait()  # what follows reads what the kernel before has written
    gdc_launch_dependents()  # the merge may be launched; it waits for the end of this kernel
    part = gl.program_id(1)
    row = gl.load(parts_ptr + part * 4)
    tile = gl.load(parts_ptr + part * 4 + 1)
    count = gl.load(parts_ptr + part * 4 + 2)
    consumer_args = (
        q_ptr, context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, heads, q_len, part, row,
        tile, count, q_latent, latents, ropes, weights, maxima, sums, q_full, q_empty, full, empty, told,
    )  # fmt: skip
    producer_args = (
        latent_desc, rope_desc, q_desc, table_ptr, table_stride, context_ptr, heads * q_len, row, tile, count, q_latent,
        latents, ropes, q_full, q_empty, full, empty,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (_lead, consumer_args),
            (_follow, consumer_args),
            (_produce, (producer_args, _EVEN_LEFT)),
            (_produce, (producer_args, _EVEN_RIGHT)),
            (_produce, (producer_args, _ODD_LEFT)),
            (_produce, (producer_args, _ODD_RIGHT)),
        ],
        [4, 1, 1, 1, 1],
        [240, 24, 24, 24, 24],
    )


@register(
    "mla_decode",
    name="gluon_hopper",
    band=Band.SPECIALIZED,
    platforms=(Platform("cuda", min_arch=90, max_arch=90),),
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
    """Launch the two kernels. Arguments as in the public `mla_decode`.

    The bits of a row's result depend on where the plan cuts it, and so on its neighbours in the batch; for the same
    batch they are the same.
    """
    rows, q_len, heads, _ = q.shape
    queries = q_len * heads
    if rows * queries == 0:
        return
    if plan is None:
        plan = plan_mla_decode(context_lens, q_len=q_len, heads=heads, max_context=block_table.shape[1] * BLOCK_SIZE)
    q = q.contiguous()
    if q.data_ptr() % 16:
        q = q.clone()
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        attend_part[(triton.cdiv(queries, QUERIES), plan.parts.shape[0])](
            *_descriptors(kv_cache),
            descriptor(q.view(-1, CACHED_DIM), QUERIES, HALF),
            q,
            block_table,
            context_lens.contiguous(),
            plan.parts,
            out,
            lse,
            plan.part_out,
            plan.part_lse,
            scale / math.log(2),
            block_table.stride(0),
            heads,
            q_len,
            num_warps=WARPS,
            maxnreg=ENTRY_REGISTERS,
            launch_pdl=True,
        )
        merge(plan.part_out, plan.part_lse, plan.cuts, out, lse, after_launch=True)


def descriptor(values: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """TMA descriptor of a matrix, in boxes of rows by columns."""
    element = _ELEMENTS[values.dtype]
    layout = gl.NVMMASharedLayout.get_default_for([rows, columns], element)
    return TensorDescriptor.from_tensor(values, [rows, columns], layout)


def _descriptors(kv_cache: Tensor) -> tuple[TensorDescriptor, TensorDescriptor]:
    """TMA descriptors of the cache as [tokens, 576]: boxes of one block by half the latent and by the rotary values."""
    tokens = kv_cache.view(-1, CACHED_DIM)
    return descriptor(tokens, BLOCK_SIZE, HALF), descriptor(tokens, BLOCK_SIZE, ROPE_DIM)
