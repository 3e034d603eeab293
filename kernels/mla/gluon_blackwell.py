"""`mla_decode` for Blackwell in Gluon: tcgen05 with its accumulators in tensor memory. NEVER RUN.

There was no such device to run it on. It compiles for sm_100 and sm_103, the code was inspected, and its schedule was
emulated; whether it is right on a device, and how fast, is unknown. So it runs only where it is asked for by name.

A tile is 64 cached tokens, in shared memory once for keys and values. One warp copies tiles into two buffers with TMA;
four warps multiply and compute weights, so that one tile is loaded while the other is worked at:

    scores      queries x keys, 64 x 64 in tensor memory: three products over 256, 256 and 64 values
    weights     in registers, then to shared memory in the cache's dtype
    output      64 x 512 in tensor memory: rescaled for all tiles but a row's first, then one product for each half

Work is divided and merged as on Hopper, see `plan.py` and `merge.py`.
"""

from __future__ import annotations

import math

import torch
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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ..constraints import exactly
from ..device import Platform
from ..kernel import Band
from ..registry import register
from . import LATENT_DIM, ROPE_DIM
from .gluon_launch import BLOCK_SIZE, QUERIES, attend_in_parts, descriptor
from .plan import MlaPlan

HALF = LATENT_DIM // 2
WARPS = 4
"""Warps that multiply and compute weights: tensor memory is read by whole warpgroups. One warp more copies."""
PRODUCER_REGISTERS = gl.constexpr(40)

_SCORES = gl.constexpr(TensorMemoryLayout((64, 64), col_stride=1))
_OUT = gl.constexpr(TensorMemoryLayout((64, 256), col_stride=1))
# How many columns of the output are in registers at a time.
_PIECE = gl.constexpr(128)


@gluon.jit
def _produce(  # type: ignore[no-untyped-def]
    latent_desc, rope_desc, q_latent_desc, q_rope_desc, table_ptr, table_stride, context_ptr, queries, row, tile, count,
    q_latent, q_rope, latents, ropes, q_full, q_empty, full, empty,
):  # fmt: skip
    """Load each row's queries and its tiles, in the order in which they are worked at."""
    q_nbytes: gl.constexpr = 2 * q_latent_desc.block_type.nbytes + q_rope_desc.block_type.nbytes
    nbytes: gl.constexpr = 2 * latent_desc.block_type.nbytes + rope_desc.block_type.nbytes
    segment = 0
    turn = 0
    done = 0
    while done < count:
        tiles = (gl.load(context_ptr + row) + 63) // 64
        last = gl.minimum(tiles, tile + count - done)
        if tile < last:
            query = row * queries + gl.program_id(0) * 64
            mbarrier.wait(q_empty, (segment & 1) ^ 1)
            mbarrier.expect(q_full, q_nbytes)
            tma.async_copy_global_to_shared(q_latent_desc, [query, 0], q_full, q_latent.index(0))
            tma.async_copy_global_to_shared(q_latent_desc, [query, 256], q_full, q_latent.index(1))
            tma.async_copy_global_to_shared(q_rope_desc, [query, 512], q_full, q_rope)
            table_row = table_ptr + row.to(gl.int64) * table_stride
            block = gl.load(table_row + tile)
            for index in range(tile, last):
                token = block * 64
                block = gl.load(table_row + gl.minimum(index + 1, last - 1))
                buffer = turn & 1
                bar = full.index(buffer)
                mbarrier.wait(empty.index(buffer), ((turn >> 1) & 1) ^ 1)
                mbarrier.expect(bar, nbytes)
                tma.async_copy_global_to_shared(latent_desc, [token, 0], bar, latents.index(2 * buffer))
                tma.async_copy_global_to_shared(latent_desc, [token, 256], bar, latents.index(2 * buffer + 1))
                tma.async_copy_global_to_shared(rope_desc, [token, 512], bar, ropes.index(buffer))
                turn += 1
            done += last - tile
            segment += 1
        row += 1
        tile = 0


@gluon.jit
def _clear_behind_context(half, visible_tokens):  # type: ignore[no-untyped-def]
    """Zero the half tile's tokens from `visible_tokens` on: a zero weight would not stop a stale NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    token = gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    for column in gl.static_range(0, 256, 64):
        piece = half.slice(column, 64, dim=1)
        values = piece.load(layout)
        piece.store(gl.where((token < visible_tokens)[:, None], values, gl.zeros_like(values)))


@gluon.jit  # type: ignore[untyped-decorator]
def _fence(SIDE: gl.constexpr):  # type: ignore[no-untyped-def]
    """Order accesses of tensor memory "before" or "after" the threads meet, as PTX asks; Gluon has no word for it."""
    gl.inline_asm_elementwise(
        "tcgen05.fence::" + SIDE + "_thread_sync; mov.u32 $0, 0;", "=r", [], gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _rescale(half, decay):  # type: ignore[no-untyped-def]
    """Multiply the rows of a half of the output by `decay`."""
    layout: gl.constexpr = get_tmem_reg_layout(gl.float32, (64, _PIECE), half.slice(0, _PIECE).layout, 4, "16x256b")
    factor = gl.convert_layout(decay, gl.SliceLayout(1, layout))[:, None]
    for column in gl.static_range(0, 256, _PIECE):
        piece = half.slice(column, _PIECE)
        piece.store(piece.load(layout) * factor)


@gluon.jit  # type: ignore[untyped-decorator]
def _store(  # type: ignore[no-untyped-def]
    half, factor, target_ptr, first_query, queries, first_column: gl.constexpr
):  # fmt: skip
    """Write a half of the output, its rows multiplied by `factor`, to [queries, 512] at `target_ptr`."""
    layout: gl.constexpr = get_tmem_reg_layout(gl.float32, (64, _PIECE), half.slice(0, _PIECE).layout, 4, "16x256b")
    number = first_query + gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    target = target_ptr + (number * 512)[:, None]
    factor = gl.convert_layout(factor, gl.SliceLayout(1, layout))[:, None]
    for column in gl.static_range(0, 256, _PIECE):
        values = half.slice(column, _PIECE).load(layout) * factor
        column_number = first_column + column + gl.arange(0, _PIECE, layout=gl.SliceLayout(0, layout))
        gl.store(target + column_number[None, :], values.to(target_ptr.dtype.element_ty), (number < queries)[:, None])


@gluon.jit
def _attend(  # type: ignore[no-untyped-def]
    context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, heads, q_len, part, row, tile, count,
    q_latent, q_rope, latents, ropes, weights, scores_memory, left, right, q_full, q_empty, full, empty, scores_done,
    out_done,
):  # fmt: skip
    """Multiply, weigh and store. A product is issued by one thread, so all must have done what it relies on."""
    layout: gl.constexpr = get_tmem_reg_layout(gl.float32, (64, 64), _SCORES, 4, "16x256b")
    rows: gl.constexpr = gl.SliceLayout(1, layout)
    queries = heads * q_len
    first_query = gl.program_id(0) * 64
    number = first_query + gl.arange(0, 64, layout=rows)
    segment = 0
    turn = 0
    done = 0
    while done < count:
        context = gl.load(context_ptr + row)
        tiles = (context + 63) // 64
        last = gl.minimum(tiles, tile + count - done)
        if tile < last:
            visible = context - q_len + number // heads + 1  # causal, bottom-right
            always_visible = context - q_len + 1
            largest = gl.full([64], -1e30, gl.float32, layout=rows)
            total = gl.zeros([64], gl.float32, layout=rows)
            mbarrier.wait(q_full, segment & 1)
            gl.thread_barrier()  # none still waits when the queries after these arrive
            for index in range(tile, last):
                buffer = turn & 1
                left_keys = latents.index(2 * buffer)
                right_keys = latents.index(2 * buffer + 1)
                mbarrier.wait(full.index(buffer), (turn >> 1) & 1)
                tcgen05_mma(q_latent.index(0), left_keys.permute((1, 0)), scores_memory, use_acc=False, mbarriers=[])
                tcgen05_mma(q_latent.index(1), right_keys.permute((1, 0)), scores_memory, mbarriers=[])
                tcgen05_mma(
                    q_rope, ropes.index(buffer).permute((1, 0)), scores_memory, mbarriers=[scores_done, q_empty],
                    mbarrier_preds=[True, index + 1 == last],
                )  # fmt: skip
                # All products before these have ended too: the tile before is in the output, its weights are free.
                mbarrier.wait(scores_done, turn & 1)
                _fence("after")
                scores = scores_memory.load(layout)
                if index * 64 + 64 > always_visible:
                    key = index * 64 + gl.arange(0, 64, layout=gl.SliceLayout(0, layout))
                    scores = gl.where(key[None, :] < visible[:, None], scores, float("-inf"))
                    if index * 64 + 64 > context:
                        _clear_behind_context(left_keys, context - index * 64)
                        _clear_behind_context(right_keys, context - index * 64)
                new_largest = gl.maximum(largest, gl.max(scores, 1) * scale_log2)
                decay = gl.exp2(largest - new_largest)
                new_weights = gl.exp2(scores * scale_log2 - new_largest[:, None])
                total = total * decay + gl.sum(new_weights, 1)
                largest = new_largest
                if index > tile:
                    _rescale(left, decay)
                    _rescale(right, decay)
                weights.store(new_weights.to(weights.dtype))
                fence_async_shared()
                _fence("before")
                gl.thread_barrier()
                _fence("after")
                tcgen05_mma(weights, left_keys, left, use_acc=index > tile, mbarriers=[])
                tcgen05_mma(
                    weights, right_keys, right, use_acc=index > tile, mbarriers=[out_done, empty.index(buffer)]
                )  # fmt: skip
                turn += 1
            mbarrier.wait(out_done, (turn - 1) & 1)
            _fence("after")
            seen = total > 0
            divisor = gl.where(seen, total, 1.0)
            # exp2 was used: from binary to natural logarithm
            lse = gl.where(seen, (largest + gl.log2(divisor)) * 0.6931471805599453, float("-inf"))
            if (tile == 0) & (last == tiles):
                target = row.to(gl.int64) * queries
                gl.store(lse_ptr + target + number, lse, mask=number < queries)
                _store(left, 1.0 / divisor, out_ptr + target * 512, first_query, queries, 0)
                _store(right, 1.0 / divisor, out_ptr + target * 512, first_query, queries, 256)
            else:
                target = (part + row).to(gl.int64) * queries
                gl.store(part_lse_ptr + target + number, lse, mask=number < queries)
                _store(left, 1.0 / divisor, part_out_ptr + target * 512, first_query, queries, 0)
                _store(right, 1.0 / divisor, part_out_ptr + target * 512, first_query, queries, 256)
            done += last - tile
            segment += 1
        row += 1
        tile = 0


@gluon.jit(do_not_specialize=["table_stride", "heads", "q_len"])
def attend_part(  # type: ignore[no-untyped-def]
    latent_desc,  # TMA descriptor of the cache [blocks * 64, 576], boxes of 64 tokens by 256 values
    rope_desc,  # the same, boxes of 64 tokens by 64 values
    q_latent_desc,  # TMA descriptor of q [rows * queries, 576], boxes of 64 queries by 256 values
    q_rope_desc,  # the same, boxes of 64 queries by 64 values
    table_ptr,  # int32 [rows, max_blocks] with stride
    context_ptr,  # int32 [rows]
    parts_ptr,  # int32 [parts, 4], see `MlaPlan`
    out_ptr,  # [rows, queries, 512], queries = q_len * heads
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
    # 229,376 bytes of tiles, all but 3 KiB of the shared memory.
    q_latent = gl.allocate_shared_memory(dtype, [2, 64, 256], half_layout)
    q_rope = gl.allocate_shared_memory(dtype, [64, 64], tile_layout)
    latents = gl.allocate_shared_memory(dtype, [4, 64, 256], half_layout)
    ropes = gl.allocate_shared_memory(dtype, [2, 64, 64], tile_layout)
    weights = gl.allocate_shared_memory(dtype, [64, 64], tile_layout)
    scores_memory = allocate_tensor_memory(gl.float32, [64, 64], _SCORES)
    left = allocate_tensor_memory(gl.float32, [64, 256], _OUT)
    right = allocate_tensor_memory(gl.float32, [64, 256], _OUT)
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    scores_done = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    out_done = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    mbarrier.init(q_empty, count=1)
    mbarrier.init(scores_done, count=1)
    mbarrier.init(out_done, count=1)
    for buffer in gl.static_range(2):
        mbarrier.init(full.index(buffer), count=1)
        mbarrier.init(empty.index(buffer), count=1)
    fence_async_shared()
    gdc_wait()  # what follows reads what the kernel before has written
    gdc_launch_dependents()  # the merge may be launched; it waits for the end of this kernel
    part = gl.program_id(1)
    row = gl.load(parts_ptr + part * 4)
    tile = gl.load(parts_ptr + part * 4 + 1)
    count = gl.load(parts_ptr + part * 4 + 2)
    attend_args = (
        context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, heads, q_len, part, row, tile, count,
        q_latent, q_rope, latents, ropes, weights, scores_memory, left, right, q_full, q_empty, full, empty,
        scores_done, out_done,
    )  # fmt: skip
    produce_args = (
        latent_desc, rope_desc, q_latent_desc, q_rope_desc, table_ptr, table_stride, context_ptr, heads * q_len, row,
        tile, count, q_latent, q_rope, latents, ropes, q_full, q_empty, full, empty,
    )  # fmt: skip
    gl.warp_specialize([(_attend, attend_args), (_produce, produce_args)], [1], [PRODUCER_REGISTERS])


@register(
    "mla_decode",
    name="gluon_blackwell",
    band=Band.SPECIALIZED,
    platforms=(Platform("cuda", min_arch=100, max_arch=103),),
    dtypes=(torch.bfloat16, torch.float16),
    traits={"block_size": exactly(BLOCK_SIZE), "dense_cache": exactly(1), "cache_bits": exactly(16)},
    only_by_name="compiled and inspected, never run on a device",
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
    """Launch the two kernels. Arguments as in the public `mla_decode`."""

    def inputs(q: Tensor) -> tuple[object, ...]:
        cache = descriptor(kv_cache, BLOCK_SIZE, HALF), descriptor(kv_cache, BLOCK_SIZE, ROPE_DIM)
        return *cache, descriptor(q, QUERIES, HALF), descriptor(q, QUERIES, ROPE_DIM)

    scalars = (scale / math.log(2),)
    attend_in_parts(
        attend_part, inputs, scalars, q, block_table, context_lens, out=out, lse=lse, plan=plan, num_warps=WARPS
    )
