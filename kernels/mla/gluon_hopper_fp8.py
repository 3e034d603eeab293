"""`mla_decode` for Hopper over a cache of float8_e4m3fn: half the bytes, the same products in float16.

The warpgroups are those of `gluon_hopper`. In place of TMA copies, four warps load 8-bit values into registers, convert
them to float16, exactly and two in an instruction, and fill the buffers. (wgmma would multiply 8-bit values as keys,
but not as values: it wants them transposed.)
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
from . import ROPE_DIM
from .gluon_hopper import ENTRY_REGISTERS, HALF, WARPS
from .gluon_hopper_tile import _EVEN_LEFT, _EVEN_RIGHT, _ODD_LEFT, _ODD_RIGHT
from .gluon_hopper_warpgroups import _follow, _lead
from .gluon_launch import BLOCK_SIZE, QUERIES, attend_in_parts, descriptor
from .plan import MlaPlan


@gluon.jit
def _prefetch_tile(tile_ptr):  # type: ignore[no-untyped-def]
    """Bring 64 tokens, 36,864 adjacent bytes, to the L2 cache: what a warp's registers hold is too little in flight."""
    lane = gl.arange(0, 32, layout=gl.BlockedLayout([1], [32], [1], [0]))
    gl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], 1152; mov.u32 $0, 0;",
        "=r,l",
        [tile_ptr + lane * 1152],
        dtype=gl.int32,
        is_pure=False,
        pack=1,
    )


@gluon.jit  # type: ignore[untyped-decorator]
def _convert(args, HALF: gl.constexpr):  # type: ignore[no-untyped-def]
    """Fill the buffer of half tile HALF whenever it is empty, with all even or all odd tiles of the part."""
    (
        kv_ptr, kv_desc, q_desc, table_ptr, table_stride, context_ptr, queries, row, tile, count, q_latent, latents,
        ropes, q_full, q_empty, full, empty, landed,
    ) = args  # fmt: skip
    TILE: gl.constexpr = HALF // 2
    WITH_ROPE: gl.constexpr = HALF % 2 == TILE
    layout: gl.constexpr = gl.BlockedLayout([1, 16], [8, 4], [1, 1], [1, 0])
    nbytes: gl.constexpr = kv_desc.block_type.nbytes * (5 if WITH_ROPE else 4)
    # A half tile is four adjacent blocks of 64 columns. Its 8-bit values land in what will be the third and fourth,
    # and are converted from first to last: each block is written after what landed there has been read.
    bytes_ = latents._reinterpret(kv_desc.dtype, [32, 64, 64], kv_desc.layout)
    rope_bytes = ropes._reinterpret(kv_desc.dtype, [4, 64, 64], kv_desc.layout)
    blocks = latents._reinterpret(ropes.dtype, [16, 64, 64], ropes.layout)
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
                if WITH_ROPE:
                    _prefetch_tile(kv_ptr + block.to(gl.int64) * (64 * 576))
                mbarrier.wait(empty.index(HALF), (turn & 1) ^ 1)
                mbarrier.expect(landed.index(HALF), nbytes)
                for piece in gl.static_range(4):
                    column = HALF % 2 * 256 + piece * 64
                    landing = bytes_.index(HALF * 8 + 4 + piece)
                    tma.async_copy_global_to_shared(kv_desc, [token, column], landed.index(HALF), landing)
                if WITH_ROPE:
                    rope_landing = rope_bytes.index(TILE * 2 + 1)
                    tma.async_copy_global_to_shared(kv_desc, [token, 512], landed.index(HALF), rope_landing)
                mbarrier.wait(landed.index(HALF), turn & 1)
                for piece in gl.static_range(4):
                    values = bytes_.index(HALF * 8 + 4 + piece).load(layout)
                    gl.thread_barrier()
                    blocks.index(HALF * 4 + piece).store(values.to(ropes.dtype))
                if WITH_ROPE:
                    rope = rope_bytes.index(TILE * 2 + 1).load(layout)
                    gl.thread_barrier()
                    ropes.index(TILE).store(rope.to(ropes.dtype))
                fence_async_shared()
                gl.thread_barrier()
                mbarrier.arrive(full.index(HALF), count=1)
                turn += 1
            done += last - tile
            segment += 1
        row += 1
        tile = 0


@gluon.jit(do_not_specialize=["table_stride", "heads", "q_len"])
def attend_part_fp8(  # type: ignore[no-untyped-def]
    kv_desc,  # TMA descriptor of the cache [blocks * 64, 576], boxes of 64 tokens by 64 values
    q_desc,  # TMA descriptor of q [rows * queries, 576], boxes of 64 queries by 256 values
    q_ptr,  # float16 [rows, queries, 576], queries = q_len * heads
    kv_ptr,  # float8_e4m3fn [blocks * 64, 576]
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
):
    """Attention of 64 queries over one part of all key tiles. Grid: (query tiles, parts)."""
    dtype: gl.constexpr = q_desc.dtype
    tile_layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    row_layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    q_latent = gl.allocate_shared_memory(dtype, [2, 64, 256], tile_layout)
    latents = gl.allocate_shared_memory(dtype, [4, 64, 256], tile_layout)
    ropes = gl.allocate_shared_memory(dtype, [2, 64, 64], tile_layout)
    weights = gl.allocate_shared_memory(dtype, [2, 64, 64], tile_layout)
    maxima = gl.allocate_shared_memory(gl.float32, [2, 64], row_layout)
    sums = gl.allocate_shared_memory(gl.float32, [4, 64], row_layout)  # of two rows in turns
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    landed = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    told = gl.allocate_shared_memory(gl.int64, [6, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    mbarrier.init(q_empty, count=2)
    for half in gl.static_range(4):
        mbarrier.init(full.index(half), count=1)
        mbarrier.init(empty.index(half), count=1)
        mbarrier.init(landed.index(half), count=1)
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
        q_ptr, context_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, scale_log2, cache_scale, heads, q_len, part,
        row, tile, count, q_latent, latents, ropes, weights, maxima, sums, q_full, q_empty, full, empty, told,
    )  # fmt: skip
    args = (
        kv_ptr, kv_desc, q_desc, table_ptr, table_stride, context_ptr, heads * q_len, row, tile, count, q_latent,
        latents, ropes, q_full, q_empty, full, empty, landed,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (_lead, consumer_args),
            (_follow, consumer_args),
            (_convert, (args, _EVEN_LEFT)),
            (_convert, (args, _EVEN_RIGHT)),
            (_convert, (args, _ODD_LEFT)),
            (_convert, (args, _ODD_RIGHT)),
        ],
        [4, 1, 1, 1, 1],
        [216, 64, 64, 64, 64],
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
    """Launch two kernels, and before them a conversion of q to float16 if it is bfloat16. As the public `mla_decode`.

    Queries of more than 65504 become infinite.
    """

    def inputs(q: Tensor) -> tuple[object, ...]:
        return descriptor(kv_cache, BLOCK_SIZE, ROPE_DIM), descriptor(q, QUERIES, HALF), q, kv_cache

    options = {"num_warps": WARPS, "maxnreg": ENTRY_REGISTERS}
    scalars = (scale * cache_scale / math.log(2), cache_scale)
    attend_in_parts(
        attend_part_fp8,
        inputs,
        scalars,
        q.to(torch.float16),
        block_table,
        context_lens,
        out=out,
        lse=lse,
        plan=plan,
        **options,
    )
