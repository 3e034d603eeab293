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
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ..constraints import exactly
from ..device import Platform
from ..kernel import Band
from ..registry import register
from . import LATENT_DIM, ROPE_DIM
from .gluon_hopper_tile import _EVEN_LEFT, _EVEN_RIGHT, _ODD_LEFT, _ODD_RIGHT
from .gluon_hopper_warpgroups import _follow, _lead
from .gluon_launch import BLOCK_SIZE, QUERIES, attend_in_parts, descriptor
from .plan import MlaPlan

HALF = LATENT_DIM // 2
WARPS = 4
"""Warps of the leader; the follower has as many, and one warp copies."""
ENTRY_REGISTERS = 168
"""A thread's share of the register file at launch with 12 warps; `setmaxnreg` then gives the producer's away."""


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
    """Launch the two kernels. Arguments as in the public `mla_decode`."""

    def inputs(q: Tensor) -> tuple[object, ...]:
        halves, ropes = descriptor(kv_cache, BLOCK_SIZE, HALF), descriptor(kv_cache, BLOCK_SIZE, ROPE_DIM)
        return halves, ropes, descriptor(q, QUERIES, HALF), q

    options = {"num_warps": WARPS, "maxnreg": ENTRY_REGISTERS}
    scalars = (scale / math.log(2),)
    attend_in_parts(attend_part, inputs, scalars, q, block_table, context_lens, out=out, lse=lse, plan=plan, **options)
