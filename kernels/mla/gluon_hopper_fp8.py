"""`mla_decode` for Hopper over a cache of float8_e4m3fn: half the bytes, the same products in float16.

wgmma takes its left operand from registers. So both products have the cache on the left, are transposed, and convert it
on the way from shared memory to the tensor cores, exactly and without writing it back:

    scores      [64 tokens, queries] = keys   [64 tokens, 576]     x queries [576, queries]
    output      [512, queries]       = values [512, 64 tokens]     x weights [64 tokens, queries]

Which dimension is which row of the output, and in which order a score adds up its products, is arbitrary. Both are
chosen such that a thread's operands are bytes that adjoin. Fewer than 64 queries make narrower products.

A tile is 64 cached tokens; tiles are taken in pairs by two warpgroups. Each computes the scores and weights of its own
tile, and half of the output's dimensions for both tiles, with the other's weights from shared memory. One warp copies
tiles ahead with TMA.

Weights are relative to a maximum that both warpgroups share and that grows only if a score exceeds it by much
(FlashAttention-4 and others rescale as rarely): else neither reduces columns nor rescales its output.

Work is divided as in `gluon_hopper`.
"""

from __future__ import annotations

import math

import torch
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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ..constraints import exactly
from ..device import Platform
from ..kernel import Band
from ..registry import register
from . import ROPE_DIM
from .gluon_hopper import ENTRY_REGISTERS, WARPS
from .gluon_hopper_tile import _opaque_zero, _tell
from .gluon_launch import BLOCK_SIZE, QUERIES, attend_in_parts, descriptor
from .plan import MlaPlan

STAGES = {16: 5, 32: 5, 64: 3}
"""Tiles in shared memory, by the queries of a program: what their 1,152 bytes each and their weights leave room for."""
MAX_EXCESS = gl.constexpr(8.0)
"""By how much a score, in powers of two, may exceed the maximum: weights stay below 2^8, and float16 holds 2^16."""

# What the warpgroups tell each other, plus the number of the one that tells: its queries or weights are in shared
# memory, its exact maxima or corrected weights or sums are; it has multiplied the other's weights.
_QUERIES, _WEIGHTS, _MAXIMA, _CORRECTED = gl.constexpr(0), gl.constexpr(2), gl.constexpr(4), gl.constexpr(6)
_SUMS, _SPENT, _MESSAGES = gl.constexpr(8), gl.constexpr(10), gl.constexpr(12)

# Four cached bytes are one word. Layouts of words; a lane is 4 g + t.
# Keys, 64 tokens by 128 dimensions: a thread has 32 adjacent dimensions, from 32 t on, of tokens g and g + 8 of a warp.
_KEY_WORDS = gl.constexpr(
    gl.DistributedLinearLayout(
        reg_bases=[[0, 1], [0, 2], [0, 4], [8, 0]],
        lane_bases=[[0, 8], [0, 16], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, 32],
    )
)
# The same, by 64 dimensions: 16 adjacent ones.
_HALF_KEY_WORDS = gl.constexpr(
    gl.DistributedLinearLayout(
        reg_bases=[[0, 1], [0, 2], [8, 0]],
        lane_bases=[[0, 4], [0, 8], [1, 0], [2, 0], [4, 0]],
        warp_bases=[[16, 0], [32, 0]],
        block_bases=[],
        shape=[64, 16],
    )
)
# Values, 16 tokens by 256 dimensions: 8 adjacent dimensions, from 64 warp + 8 g on, of tokens 2 t, 2 t + 1 and 8 more.
_VALUE_WORDS = gl.constexpr(
    gl.DistributedLinearLayout(
        reg_bases=[[1, 0], [0, 1], [8, 0]],
        lane_bases=[[2, 0], [4, 0], [0, 2], [0, 4], [0, 8]],
        warp_bases=[[0, 16], [0, 32]],
        block_bases=[],
        shape=[16, 64],
    )
)


@gluon.jit
def _keys(words, ROWS: gl.constexpr):  # type: ignore[no-untyped-def]
    """64 tokens by 64 dimensions as float16 operand.

    Position 16 s + 8 u + 2 t + e is dimension 16 t + 4 s + 2 u + e.
    """
    operand: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16]), 2)
    a, b, c, d = gl.inline_asm_elementwise(
        """{
        .reg .b16 a, b, c, d;
        mov.b32 {a, b}, $4;
        mov.b32 {c, d}, $5;
        cvt.rn.f16x2.e4m3x2 $0, a;
        cvt.rn.f16x2.e4m3x2 $1, b;
        cvt.rn.f16x2.e4m3x2 $2, c;
        cvt.rn.f16x2.e4m3x2 $3, d;
        }""",
        "=r,=r,=r,=r,r,r",
        [words],
        dtype=(gl.float16, gl.float16, gl.float16, gl.float16),
        is_pure=True,
        pack=2,
    )
    # Of words 2 i and 2 i + 1: a has bytes 0, 1 of the first, b bytes 2, 3; c and d those of the second.
    pairs = gl.join(gl.join(a, c), gl.join(b, d)).reshape([64, 4, 2, 2, 2, 2])  # token, t, i, e, second, u
    return gl.convert_layout(pairs.permute((0, 2, 4, 5, 1, 3)).reshape([64, 64]), operand, assert_trivial=True)


@gluon.jit
def _values(words, ROWS: gl.constexpr):  # type: ignore[no-untyped-def]
    """16 tokens by 256 dimensions as float16 operand, transposed.

    Row 64 r + 16 w + 8 h + g is dimension 64 w + 8 g + 2 r + h.
    """
    operand: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16]), 2)
    a, b, c, d = gl.inline_asm_elementwise(
        """{
        .reg .b32 low, high;
        .reg .b16 a, b, c, d;
        prmt.b32 low, $4, $5, 0x5140;
        prmt.b32 high, $4, $5, 0x7362;
        mov.b32 {a, b}, low;
        mov.b32 {c, d}, high;
        cvt.rn.f16x2.e4m3x2 $0, a;
        cvt.rn.f16x2.e4m3x2 $1, b;
        cvt.rn.f16x2.e4m3x2 $2, c;
        cvt.rn.f16x2.e4m3x2 $3, d;
        }""",
        "=r,=r,=r,=r,r,r",
        [words],
        dtype=(gl.float16, gl.float16, gl.float16, gl.float16),
        is_pure=True,
        pack=2,
    )
    # a has byte 0 of the words of two adjacent tokens, and so on.
    bytes_ = gl.join(gl.join(a, c), gl.join(b, d)).reshape([16, 4, 8, 2, 2, 2])  # token, w, g, r / 2, r % 2, h
    return gl.convert_layout(bytes_.permute((3, 4, 1, 5, 2, 0)).reshape([256, 16]), operand, assert_trivial=True)


@gluon.jit
def _scores(latent, rope, q_latent, q_rope, turn, ROWS: gl.constexpr):  # type: ignore[no-untyped-def]
    """Unscaled scores of a tile, [64, ROWS]. latent, rope: words [64, 128] and [64, 16]."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    zero = _opaque_zero(turn)
    scores = gl.zeros([64, ROWS], gl.float32, layout=layout)
    before = _keys(rope.load(_HALF_KEY_WORDS), ROWS)
    scores = warpgroup_mma(before, q_rope.index(zero).permute((1, 0)), scores, use_acc=False, is_async=True)
    for chunk in gl.static_range(4):
        words = latent.slice(chunk * 32, 32, dim=1).load(_KEY_WORDS)
        first, second = gl.split(words.reshape([64, 4, 2, 4]).permute((0, 1, 3, 2)))
        for half in gl.static_range(2):
            own = (first if half == 0 else second).reshape([64, 16])
            keys = _keys(gl.convert_layout(own, _HALF_KEY_WORDS, assert_trivial=True), ROWS)
            queries = q_latent.index(zero).slice((2 * chunk + half) * 64, 64, dim=1).permute((1, 0))
            scores = warpgroup_mma(keys, queries, scores, is_async=True)
            scores, before = warpgroup_mma_wait(1, deps=(scores, before))
            before = keys
    scores, before = warpgroup_mma_wait(0, deps=(scores, before))
    return scores


@gluon.jit
def _clear_behind_context(latent, visible_tokens):  # type: ignore[no-untyped-def]
    """Zero the tile's tokens from `visible_tokens` on: a zero weight would not stop a stale NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 4], [4, 8], [4, 1], [1, 0])
    token = gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    for chunk in gl.static_range(4):
        piece = latent.slice(chunk * 32, 32, dim=1)
        words = piece.load(layout)
        piece.store(gl.where((token < visible_tokens)[:, None], words, gl.zeros_like(words)))


@gluon.jit
def _accumulate(weighted, latent, weights, WARPGROUP: gl.constexpr, ROWS: gl.constexpr):  # type: ignore[no-untyped-def]
    """Add a tile's weighted values to this warpgroup's half of the output, [256, queries]."""
    own = latent.slice(WARPGROUP * 64, 64, dim=1)
    before = _values(own.slice(0, 16, dim=0).load(_VALUE_WORDS), ROWS)
    weighted = warpgroup_mma(before, weights.slice(0, 16, dim=0), weighted, is_async=True)
    for step in gl.static_range(1, 4):
        values = _values(own.slice(step * 16, 16, dim=0).load(_VALUE_WORDS), ROWS)
        weighted = warpgroup_mma(values, weights.slice(step * 16, 16, dim=0), weighted, is_async=True)
        weighted, before = warpgroup_mma_wait(1, deps=(weighted, before))
        before = values
    weighted, before = warpgroup_mma_wait(0, deps=(weighted, before))
    return weighted


@gluon.jit
def _load_queries(  # type: ignore[no-untyped-def]
    q_ptr, q_latent, q_rope, row, first_query, queries, WARPGROUP: gl.constexpr, ROWS: gl.constexpr
):
    """Half of a row's queries to shared memory, in float16 and in the order of `_keys`; zero beyond the last query."""
    wide: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    number = first_query + gl.arange(0, ROWS, layout=gl.SliceLayout(1, wide))
    column = gl.arange(0, 128, layout=gl.SliceLayout(0, wide))
    source = q_ptr + ((row.to(gl.int64) * queries + number) * 576)[:, None] + column[None, :]
    is_query = (number < queries)[:, None]
    for chunk in gl.static_range(2 * WARPGROUP, 2 * WARPGROUP + 2):
        values = gl.load(source + chunk * 128, mask=is_query, other=0.0).to(gl.float16)
        values = values.reshape([ROWS, 4, 2, 4, 2, 2]).permute((0, 2, 3, 4, 1, 5)).reshape([ROWS, 128])
        q_latent.index(0).slice(chunk * 128, 128, dim=1).store(values)
    if WARPGROUP == 1:
        narrow: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
        number = first_query + gl.arange(0, ROWS, layout=gl.SliceLayout(1, narrow))
        column = 512 + gl.arange(0, 64, layout=gl.SliceLayout(0, narrow))
        source = q_ptr + ((row.to(gl.int64) * queries + number) * 576)[:, None] + column[None, :]
        values = gl.load(source, mask=(number < queries)[:, None], other=0.0).to(gl.float16)
        values = values.reshape([ROWS, 4, 4, 2, 2]).permute((0, 2, 3, 1, 4)).reshape([ROWS, 64])
        q_rope.index(0).store(values)


@gluon.constexpr_function
def _out_layout(rows):  # type: ignore[no-untyped-def]
    """[queries, 256 dimensions], distributed like the accumulator: 8 adjacent dimensions are a thread's."""
    queries = [[1, 0], [8, 0], [16, 0], [32, 0]][: {16: 2, 32: 3, 64: 4}[rows]]
    return gl.DistributedLinearLayout(
        reg_bases=[[0, 1], [0, 2], [0, 4], *queries],
        lane_bases=[[2, 0], [4, 0], [0, 8], [0, 16], [0, 32]],
        warp_bases=[[0, 64], [0, 128]],
        block_bases=[],
        shape=[rows, 256],
    )


@gluon.jit
def _finish(  # type: ignore[no-untyped-def]
    weighted, largest, total, cache_scale, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, queries, row, part, whole,
    first_query, WARPGROUP: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    """Divide by the sum of weights and store this warpgroup's dimensions, as the result or as a part of it."""
    scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    layout: gl.constexpr = _out_layout(ROWS)
    seen = total > 0
    divisor = gl.where(seen, total, 1.0)
    weighted = weighted * (cache_scale / divisor)[None, :]
    # Rows of the output are dimensions as in `_values`.
    weighted = weighted.reshape([2, 2, 4, 2, 8, ROWS]).permute((5, 2, 4, 0, 1, 3)).reshape([ROWS, 256])
    weighted = gl.convert_layout(weighted, layout, assert_trivial=True)
    # exp2 was used: from binary to natural logarithm
    lse = gl.where(seen, (largest + gl.log2(divisor)) * 0.6931471805599453, float("-inf"))
    number = first_query + gl.arange(0, ROWS, layout=gl.SliceLayout(0, scores))
    out_number = first_query + gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    column = WARPGROUP * 256 + gl.arange(0, 256, layout=gl.SliceLayout(0, layout))
    mask = (out_number < queries)[:, None]
    if whole:
        target = row.to(gl.int64) * queries
        if WARPGROUP == 0:
            gl.store(lse_ptr + target + number, lse, mask=number < queries)
        result = weighted.to(out_ptr.dtype.element_ty)
        gl.store(out_ptr + ((target + out_number) * 512)[:, None] + column[None, :], result, mask=mask)
    else:
        target = (part + row).to(gl.int64) * queries
        if WARPGROUP == 0:
            gl.store(part_lse_ptr + target + number, lse, mask=number < queries)
        gl.store(part_out_ptr + ((target + out_number) * 512)[:, None] + column[None, :], weighted, mask=mask)


@gluon.jit
def _sums_of_threads(weights, ROWS: gl.constexpr):  # type: ignore[no-untyped-def]
    """[32, ROWS]: the two tokens that a thread has of a query are added up; other threads' at the end of the row."""
    return gl.sum(weights.reshape([4, 2, 8, ROWS]).permute((0, 2, 1, 3)).reshape([32, 2, ROWS]), 1)


@gluon.jit
def _meet(told, phase, MESSAGE: gl.constexpr, WARPGROUP: gl.constexpr):  # type: ignore[no-untyped-def]
    """Tell the other warpgroup, also of what was stored for its tensor cores, and wait until it tells the same."""
    fence_async_shared()
    _tell(told.index(MESSAGE + WARPGROUP))
    mbarrier.wait(told.index(MESSAGE + 1 - WARPGROUP), phase)


@gluon.jit  # type: ignore[untyped-decorator]
def _attend(args, WARPGROUP: gl.constexpr, ROWS: gl.constexpr, STAGES: gl.constexpr):  # type: ignore[no-untyped-def]
    """A warpgroup: weights of all even or all odd tiles, 256 dimensions of the output."""
    (
        q_ptr, context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, cache_scale, heads, q_len, part,
        row, tile, count, q_latent, q_rope, latents, ropes, weights, excesses, maxima, largests, sums, full, empty,
        told,
    ) = args  # fmt: skip
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    columns: gl.constexpr = gl.SliceLayout(0, layout)
    all_warps: gl.constexpr = gl.BlockedLayout([8], [32], [4], [0])
    OTHER: gl.constexpr = 1 - WARPGROUP
    largest = largests.index(WARPGROUP)
    queries = heads * q_len
    first_query = gl.program_id(0) * 64
    query = gl.arange(0, ROWS, layout=columns)
    segment = 0
    pair = 0
    corrections = 0
    turn = 0
    done = 0
    while done < count:
        context = gl.load(context_ptr + row)
        tiles = (context + 63) // 64
        last = gl.minimum(tiles, tile + count - done)
        if tile < last:
            always_visible = context - q_len + 1
            _load_queries(q_ptr, q_latent, q_rope, row, first_query, queries, WARPGROUP, ROWS)
            largest.store(gl.full([ROWS], -1e30, gl.float32, layout=columns))
            _meet(told, segment & 1, _QUERIES, WARPGROUP)
            total = _sums_of_threads(gl.zeros([64, ROWS], gl.float32, layout=layout), ROWS)
            weighted = gl.zeros([256, ROWS], gl.float32, layout=layout)
            for index in range(tile, last, 2):
                scores = gl.full([64, ROWS], float("-inf"), gl.float32, layout=layout)
                own = index + WARPGROUP
                if own < last:
                    slot = (turn + WARPGROUP) % STAGES
                    latent = latents.index(slot)
                    mbarrier.wait(full.index(slot), (turn + WARPGROUP) // STAGES & 1)
                    scores = _scores(latent, ropes.index(slot), q_latent, q_rope, turn, ROWS)
                    if own * 64 + 64 > always_visible:
                        # Computed here, as registers are scarce elsewhere. Causal, bottom-right.
                        visible = always_visible + (first_query + _opaque_zero(turn) + query) // heads
                        key = own * 64 + gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
                        scores = gl.where(key[:, None] < visible[None, :], scores, float("-inf"))
                        if own * 64 + 64 > context:
                            gl.thread_barrier()  # all warps have read the keys
                            _clear_behind_context(latent, context - own * 64)
                zero = _opaque_zero(turn)
                relative = scores * scale_log2 - largest.load(columns)[None, :]
                own_weights = gl.exp2(relative)
                excess = gl.max(gl.max(relative, 1).reshape([4, 16]), 1)
                mbarrier.wait(told.index(_SPENT + OTHER), (pair & 1) ^ 1)
                weights.index(WARPGROUP).store(own_weights.to(gl.float16))
                excesses.slice(4 * WARPGROUP, 4).store(excess)
                _meet(told, pair & 1, _WEIGHTS, WARPGROUP)
                if gl.max(excesses.load(all_warps), 0) > MAX_EXCESS:
                    before = largest.load(columns)
                    own_largest = gl.maximum(before, gl.max(scores, 0) * scale_log2)
                    maxima.index(WARPGROUP).store(own_largest)
                    _meet(told, corrections & 1, _MAXIMA, WARPGROUP)
                    after = gl.maximum(own_largest, maxima.index(OTHER).load(columns))
                    decay = gl.exp2(before - after)
                    weighted = weighted * decay[None, :]
                    total = total * gl.convert_layout(decay, gl.SliceLayout(0, total.type.layout))[None, :]
                    own_weights = gl.exp2(scores * scale_log2 - after[None, :])
                    largest.store(after)
                    weights.index(WARPGROUP).store(own_weights.to(gl.float16))
                    _meet(told, corrections & 1, _CORRECTED, WARPGROUP)
                    corrections += 1
                total += _sums_of_threads(own_weights, ROWS)
                for number in gl.static_range(2):
                    if index + number < last:
                        slot = (turn + number) % STAGES
                        if number != WARPGROUP:
                            mbarrier.wait(full.index(slot), (turn + number) // STAGES & 1)
                        weighted = _accumulate(
                            weighted, latents.index(slot), weights.index(number + zero), WARPGROUP, ROWS
                        )
                        _tell(empty.index(slot))
                _tell(told.index(_SPENT + WARPGROUP))
                turn += gl.minimum(last - index, 2)
                pair += 1
            own_sum = gl.convert_layout(gl.sum(total, 0), columns)
            sums.index(segment % 2 * 2 + WARPGROUP).store(own_sum)
            _meet(told, segment & 1, _SUMS, WARPGROUP)
            whole = (tile == 0) & (last == tiles)
            _finish(
                weighted, largest.load(columns), own_sum + sums.index(segment % 2 * 2 + OTHER).load(columns),
                cache_scale, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, queries, row, part, whole, first_query,
                WARPGROUP, ROWS,
            )  # fmt: skip
            done += last - tile
            segment += 1
        row += 1
        tile = 0


@gluon.jit
def _copy(  # type: ignore[no-untyped-def]
    latent_desc, rope_desc, table_ptr, table_stride, context_ptr, row, tile, count, latents, ropes, full, empty,
    STAGES: gl.constexpr,
):  # fmt: skip
    """A warp that copies the part's tiles, one after another, into buffers as they become free."""
    turn = 0
    done = 0
    while done < count:
        tiles = (gl.load(context_ptr + row) + 63) // 64
        last = gl.minimum(tiles, tile + count - done)
        if tile < last:
            table_row = table_ptr + row.to(gl.int64) * table_stride
            block = gl.load(table_row + tile)
            for index in range(tile, last):
                token = block * 64
                block = gl.load(table_row + gl.minimum(index + 1, last - 1))
                slot = turn % STAGES
                mbarrier.wait(empty.index(slot), (turn // STAGES & 1) ^ 1)
                mbarrier.expect(full.index(slot), 64 * 576)
                tma.async_copy_global_to_shared(rope_desc, [token, 512], full.index(slot), ropes.index(slot))
                for piece in gl.static_range(4):
                    landing = latents.index(slot * 4 + piece)
                    tma.async_copy_global_to_shared(latent_desc, [token, piece * 128], full.index(slot), landing)
                turn += 1
            done += last - tile
        row += 1
        tile = 0


@gluon.jit(do_not_specialize=["table_stride", "heads", "q_len"])
def attend_part_fp8(  # type: ignore[no-untyped-def]
    latent_desc,  # TMA descriptor of the cache [blocks * 64, 576], boxes of 64 tokens by 128 values
    rope_desc,  # the same, boxes of 64 tokens by 64 values
    q_ptr,  # [rows, queries, 576], queries = q_len * heads
    table_ptr,  # int32 [rows, max_blocks] with stride
    context_ptr,  # int32 [rows]
    parts_ptr,  # int32 [parts, 4], see `MlaPlan`
    out_ptr,  # [rows, queries, 512]
    lse_ptr,  # float32 [rows, queries], natural logarithm
    part_out_ptr,  # float32 [parts + rows - 1, queries, 512]
    part_lse_ptr,  # float32 [parts + rows - 1, queries]
    scale_log2,  # scale * cache_scale / ln 2: exp2 is the device's native exponential
    cache_scale,  # what cached values were divided by
    table_stride,
    heads,
    q_len,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Attention of up to ROWS queries over one part of all key tiles. Grid: (query tiles, parts)."""
    wide: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    weights_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * ROWS, element_bitwidth=16, rank=2)
    flat: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    latents = gl.allocate_shared_memory(latent_desc.dtype, [STAGES * 4, 64, 128], latent_desc.layout)
    ropes = gl.allocate_shared_memory(rope_desc.dtype, [STAGES, 64, 64], rope_desc.layout)
    q_latent = gl.allocate_shared_memory(gl.float16, [1, ROWS, 512], wide)
    q_rope = gl.allocate_shared_memory(gl.float16, [1, ROWS, 64], wide)
    weights = gl.allocate_shared_memory(gl.float16, [2, 64, ROWS], weights_layout)
    excesses = gl.allocate_shared_memory(gl.float32, [8], flat)
    maxima = gl.allocate_shared_memory(gl.float32, [2, ROWS], flat)
    largests = gl.allocate_shared_memory(gl.float32, [2, ROWS], flat)
    sums = gl.allocate_shared_memory(gl.float32, [4, ROWS], flat)  # of two rows in turns
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    told = gl.allocate_shared_memory(gl.int64, [_MESSAGES, 1], mbarrier.MBarrierLayout())
    latent_words = latents._reinterpret(gl.int32, [STAGES, 64, 128], gl.NVMMASharedLayout(128, 32, 2))
    rope_words = ropes._reinterpret(gl.int32, [STAGES, 64, 16], gl.NVMMASharedLayout(64, 32, 2))
    for slot in gl.static_range(STAGES):
        mbarrier.init(full.index(slot), count=1)
        mbarrier.init(empty.index(slot), count=2)
    for message in gl.static_range(_MESSAGES):
        mbarrier.init(told.index(message), count=1)
    fence_async_shared()
    gdc_wait()  # what follows reads what the kernel before has written
    gdc_launch_dependents()  # the merge may be launched; it waits for the end of this kernel
    part = gl.program_id(1)
    row = gl.load(parts_ptr + part * 4)
    tile = gl.load(parts_ptr + part * 4 + 1)
    count = gl.load(parts_ptr + part * 4 + 2)
    args = (
        q_ptr, context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, cache_scale, heads, q_len, part,
        row, tile, count, q_latent, q_rope, latent_words, rope_words, weights, excesses, maxima, largests,
        sums, full, empty, told,
    )  # fmt: skip
    copy_args = (
        latent_desc, rope_desc, table_ptr, table_stride, context_ptr, row, tile, count, latents, ropes, full, empty,
        STAGES,
    )  # fmt: skip
    gl.warp_specialize(
        [(_attend, (args, 0, ROWS, STAGES)), (_attend, (args, 1, ROWS, STAGES)), (_copy, copy_args)],
        [4, 1],
        [240, 24],
    )


@register(
    "mla_decode",
    name="gluon_hopper_fp8",
    band=Band.SPECIALIZED,
    platforms=(Platform("cuda", min_arch=90, max_arch=90),),
    dtypes=(torch.bfloat16, torch.float16),
    traits={"block_size": exactly(BLOCK_SIZE), "dense_cache": exactly(1), "cache_bits": exactly(8)},
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
    """Launch two kernels. As the public `mla_decode`. Queries of more than 65504 become infinite."""
    queries = q.shape[1] * q.shape[2]
    own_rows = next((own for own in STAGES if queries <= own), QUERIES)

    def inputs(q: Tensor) -> tuple[object, ...]:
        return descriptor(kv_cache, BLOCK_SIZE, 128), descriptor(kv_cache, BLOCK_SIZE, ROPE_DIM), q

    options = {"ROWS": own_rows, "STAGES": STAGES[own_rows], "num_warps": WARPS, "maxnreg": ENTRY_REGISTERS}
    scalars = (scale * cache_scale / math.log(2), cache_scale)
    attend_in_parts(
        attend_part_fp8, inputs, scalars, q, block_table, context_lens, out=out, lse=lse, plan=plan, **options
    )
