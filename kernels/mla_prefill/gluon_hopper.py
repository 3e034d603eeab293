"""`mla_prefill` for Hopper in Gluon: two warpgroups of 64 queries each share key tiles that a third warp copies.

The structure is that of FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608): the scores of the next key tile are
multiplied while the weights of this one are computed, and the weights stay in registers. The 192 values of queries and
keys are two pieces of 128 and 64, as shapes of tiles must be powers of two.
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

from ..constraints import exactly
from ..device import Platform
from ..kernel import Band
from ..registry import register
from . import NOPE_DIM, ROPE_DIM, VALUE_DIM

QUERIES = 64
"""Queries of a warpgroup; a program has two."""
KEYS = 128
"""Keys of a tile."""
WARPS = 4
ENTRY_REGISTERS = 168

_SCORES = gl.constexpr(gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 16]))
_ROWS = gl.constexpr(gl.SliceLayout(1, _SCORES.value))
_WEIGHTS = gl.constexpr(gl.DotOperandLayout(0, _SCORES.value, 2))


@gluon.jit  # type: ignore[untyped-decorator]
def _bounds(q_starts_ptr, kv_starts_ptr, CAUSAL: gl.constexpr):  # type: ignore[no-untyped-def]
    """Of this program's tile: first query, number of queries of its row, the row's queries' and keys' begins, keys that
    the tile sees."""
    row = gl.program_id(2)
    # The last queries see most: begin with them.
    first = (gl.num_programs(0) - 1 - gl.program_id(0)) * 128
    q_start = gl.load(q_starts_ptr + row)
    queries = gl.load(q_starts_ptr + row + 1) - q_start
    kv_start = gl.load(kv_starts_ptr + row)
    keys = gl.load(kv_starts_ptr + row + 1) - kv_start
    seen = keys
    if CAUSAL:
        seen = gl.minimum(keys, gl.maximum(keys - queries + first + 128, 0))
    return first, queries, q_start, kv_start, keys, gl.where(first < queries, seen, 0)


@gluon.jit
def _produce(  # type: ignore[no-untyped-def]
    q_nope_desc, q_rope_desc, k_nope_desc, k_rope_desc, v_desc, head, q_row, kv_start, seen, q_nope, q_rope, k_nope,
    k_rope, v, q_full, k_full, k_empty, v_full, v_empty,
):  # fmt: skip
    """Copy the queries, then the key and value tiles in turns into two buffers."""
    column = head * 192
    if seen > 0:
        mbarrier.expect(q_full, 2 * (q_nope_desc.block_type.nbytes + q_rope_desc.block_type.nbytes))
        for half in gl.static_range(2):
            tma.async_copy_global_to_shared(q_nope_desc, [q_row + half * 64, column], q_full, q_nope.index(half))
            tma.async_copy_global_to_shared(q_rope_desc, [q_row + half * 64, column + 128], q_full, q_rope.index(half))
    for tile in range(0, gl.cdiv(seen, 128)):
        stage = tile % 2
        phase = (tile // 2 & 1) ^ 1
        token = kv_start + tile * 128
        mbarrier.wait(k_empty.index(stage), phase)
        mbarrier.expect(k_full.index(stage), k_nope_desc.block_type.nbytes + k_rope_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(k_nope_desc, [token, column], k_full.index(stage), k_nope.index(stage))
        tma.async_copy_global_to_shared(k_rope_desc, [token, column + 128], k_full.index(stage), k_rope.index(stage))
        mbarrier.wait(v_empty.index(stage), phase)
        mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(v_desc, [token, head * 128], v_full.index(stage), v.index(stage))


@gluon.jit  # type: ignore[untyped-decorator]
def _clear_behind(values, valid, cleared, WARPGROUP: gl.constexpr):  # type: ignore[no-untyped-def]
    """Zero the tile's tokens from `valid` on, which belong to another row: a zero weight would not stop its NaN.

    Each warpgroup clears half of the columns.
    """
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    token = gl.arange(0, 128, layout=gl.SliceLayout(1, layout))
    half = values.slice(WARPGROUP * 64, 64, dim=1)
    old = half.load(layout)
    half.store(gl.where((token < valid)[:, None], old, gl.zeros_like(old)))
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.arrive(cleared, count=1)
    mbarrier.wait(cleared, 0)


@gluon.jit
def _multiply_scores(q_nope, q_rope, k_nope, k_rope):  # type: ignore[no-untyped-def]
    scores = gl.zeros([64, 128], gl.float32, layout=_SCORES)
    scores = warpgroup_mma(q_rope, k_rope.permute((1, 0)), scores, use_acc=False, is_async=True)
    return warpgroup_mma(q_nope, k_nope.permute((1, 0)), scores, is_async=True)


@gluon.jit
def _weigh(scores, largest, total, visible, all_visible, tile, scale_log2):  # type: ignore[no-untyped-def]
    """Online softmax: weights, the factor for earlier results, and the new largest score and sum of weights."""
    if tile * 128 + 128 > all_visible:
        key = tile * 128 + gl.arange(0, 128, layout=gl.SliceLayout(0, _SCORES))
        scores = gl.where(key[None, :] < visible[:, None], scores, float("-inf"))
    new_largest = gl.maximum(largest, gl.max(scores, 1) * scale_log2)
    decay = gl.exp2(largest - new_largest)
    weights = gl.exp2(scores * scale_log2 - new_largest[:, None])
    return weights, decay, new_largest, total * decay + gl.sum(weights, 1)


@gluon.jit  # type: ignore[untyped-decorator]
def _consume(  # type: ignore[no-untyped-def]
    args, WARPGROUP: gl.constexpr
):
    """Attention of one warpgroup's 64 queries."""
    (
        out_ptr, lse_ptr, scale_log2, heads, head, first, queries, q_row, keys, seen, causal, q_nope, q_rope, k_nope,
        k_rope, v, q_full, k_full, k_empty, v_full, v_empty, cleared,
    ) = args  # fmt: skip
    dtype: gl.constexpr = v.dtype
    number = first + WARPGROUP * 64 + gl.arange(0, 64, layout=_ROWS)
    visible = gl.where(causal != 0, gl.minimum(keys, keys - queries + number + 1), keys)
    all_visible = gl.where(causal != 0, gl.minimum(keys, keys - queries + first + WARPGROUP * 64 + 1), keys)
    largest = gl.full([64], -1e30, gl.float32, layout=_ROWS)
    total = gl.zeros([64], gl.float32, layout=_ROWS)
    weighted = gl.zeros([64, 128], gl.float32, layout=_SCORES)
    own_nope = q_nope.index(WARPGROUP)
    own_rope = q_rope.index(WARPGROUP)
    tiles = gl.cdiv(seen, 128)
    if tiles > 0:
        mbarrier.wait(q_full, 0)
        mbarrier.wait(k_full.index(0), 0)
        pending_scores = _multiply_scores(own_nope, own_rope, k_nope.index(0), k_rope.index(0))
        scores = warpgroup_mma_wait(0, deps=(pending_scores,))
        gl.thread_barrier()
        mbarrier.arrive(k_empty.index(0), count=1)
        weights, decay, largest, total = _weigh(scores, largest, total, visible, all_visible, 0, scale_log2)
        operand = gl.convert_layout(weights.to(dtype), _WEIGHTS)
        for tile in range(1, tiles):
            stage = tile % 2
            before = (tile - 1) % 2
            mbarrier.wait(k_full.index(stage), tile // 2 & 1)
            pending_scores = _multiply_scores(own_nope, own_rope, k_nope.index(stage), k_rope.index(stage))
            mbarrier.wait(v_full.index(before), (tile - 1) // 2 & 1)
            pending = warpgroup_mma(operand, v.index(before), weighted, is_async=True)
            scores = warpgroup_mma_wait(1, deps=(pending_scores,))
            gl.thread_barrier()
            mbarrier.arrive(k_empty.index(stage), count=1)
            weights, decay, largest, total = _weigh(scores, largest, total, visible, all_visible, tile, scale_log2)
            weighted, operand = warpgroup_mma_wait(0, deps=(pending, operand))
            gl.thread_barrier()
            mbarrier.arrive(v_empty.index(before), count=1)
            weighted = weighted * decay[:, None]
            operand = gl.convert_layout(weights.to(dtype), _WEIGHTS)
        final = (tiles - 1) % 2
        mbarrier.wait(v_full.index(final), (tiles - 1) // 2 & 1)
        if tiles * 128 > keys:
            _clear_behind(v.index(final), keys - (tiles - 1) * 128, cleared, WARPGROUP)
        pending = warpgroup_mma(operand, v.index(final), weighted, is_async=True)
        weighted, operand = warpgroup_mma_wait(0, deps=(pending, operand))
    has_seen = total > 0
    divisor = gl.where(has_seen, total, 1.0)
    # exp2 was used: from binary to natural logarithm
    lse = gl.where(has_seen, (largest + gl.log2(divisor)) * 0.6931471805599453, float("-inf"))
    is_query = number < queries
    target = (q_row + WARPGROUP * 64 + gl.arange(0, 64, layout=_ROWS)).to(gl.int64) * heads + head
    gl.store(lse_ptr + target, lse, mask=is_query)
    column = gl.arange(0, 128, layout=gl.SliceLayout(0, _SCORES))
    out = (weighted * (1.0 / divisor)[:, None]).to(dtype)
    gl.store(out_ptr + (target * 128)[:, None] + column[None, :], out, mask=is_query[:, None])


@gluon.jit(do_not_specialize=["heads"])  # type: ignore[untyped-decorator]
def attend_tile(  # type: ignore[no-untyped-def]
    q_nope_desc,  # TMA descriptor of q [queries, heads * 192], boxes of 64 by 128
    q_rope_desc,  # the same, boxes of 64 by 64
    k_nope_desc,  # of k [keys, heads * 192], boxes of 128 by 128
    k_rope_desc,  # the same, boxes of 128 by 64
    v_desc,  # of v [keys, heads * 128], boxes of 128 by 128
    q_starts_ptr,  # int32 [rows + 1]
    kv_starts_ptr,  # int32 [rows + 1]
    out_ptr,  # [queries, heads, 128]
    lse_ptr,  # float32 [queries, heads]
    scale_log2,  # scale / ln 2
    heads,
    CAUSAL: gl.constexpr,
):
    """Attention of 128 queries of one head of one row. Grid: (tiles of the longest row's queries, heads, rows)."""
    dtype: gl.constexpr = v_desc.dtype
    head = gl.program_id(1)
    first, queries, q_start, kv_start, keys, seen = _bounds(q_starts_ptr, kv_starts_ptr, CAUSAL)
    q_nope = gl.allocate_shared_memory(dtype, [2, 64, 128], q_nope_desc.layout)
    q_rope = gl.allocate_shared_memory(dtype, [2, 64, 64], q_rope_desc.layout)
    k_nope = gl.allocate_shared_memory(dtype, [2, 128, 128], k_nope_desc.layout)
    k_rope = gl.allocate_shared_memory(dtype, [2, 128, 64], k_rope_desc.layout)
    v = gl.allocate_shared_memory(dtype, [2, 128, 128], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    cleared = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    mbarrier.init(cleared, count=2)
    for stage in gl.static_range(2):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=2)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(v_empty.index(stage), count=2)
    fence_async_shared()
    causal = gl.to_tensor(1 if CAUSAL else 0)
    consumer_args = (
        out_ptr, lse_ptr, scale_log2, heads, head, first, queries, q_start + first, keys, seen, causal, q_nope, q_rope,
        k_nope, k_rope, v, q_full, k_full, k_empty, v_full, v_empty, cleared,
    )  # fmt: skip
    producer_args = (
        q_nope_desc, q_rope_desc, k_nope_desc, k_rope_desc, v_desc, head, q_start + first, kv_start, seen, q_nope,
        q_rope, k_nope, k_rope, v, q_full, k_full, k_empty, v_full, v_empty,
    )  # fmt: skip
    gl.warp_specialize(
        [(_consume, (consumer_args, _FIRST)), (_consume, (consumer_args, _SECOND)), (_produce, producer_args)],
        [4, 1],
        [240, 24],
    )


_FIRST, _SECOND = gl.constexpr(0), gl.constexpr(1)


@register(
    "mla_prefill",
    name="gluon_hopper",
    band=Band.SPECIALIZED,
    platforms=(Platform("cuda", min_arch=90, max_arch=90),),
    dtypes=(torch.bfloat16, torch.float16),
    traits={"aligned": exactly(1)},
)
def mla_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_starts: Tensor,
    kv_starts: Tensor,
    *,
    scale: float,
    causal: bool,
    max_queries: int,
    out: Tensor,
    lse: Tensor,
) -> None:
    """Launch one kernel. Arguments as in the public `mla_prefill`."""
    rows, heads = q_starts.shape[0] - 1, q.shape[1]
    if rows * max_queries == 0:
        return
    flat_q, flat_k, flat_v = q.flatten(1), k.flatten(1), v.flatten(1)
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        attend_tile[(triton.cdiv(max_queries, 2 * QUERIES), heads, rows)](
            _descriptor(flat_q, QUERIES, NOPE_DIM),
            _descriptor(flat_q, QUERIES, ROPE_DIM),
            _descriptor(flat_k, KEYS, NOPE_DIM),
            _descriptor(flat_k, KEYS, ROPE_DIM),
            _descriptor(flat_v, KEYS, VALUE_DIM),
            q_starts.contiguous(),
            kv_starts.contiguous(),
            out,
            lse,
            scale / math.log(2),
            heads,
            CAUSAL=causal,
            num_warps=WARPS,
            maxnreg=ENTRY_REGISTERS,
        )


def _descriptor(values: Tensor, rows: int, columns: int) -> TensorDescriptor:
    element = gl.bfloat16 if values.dtype == torch.bfloat16 else gl.float16
    layout = gl.NVMMASharedLayout.get_default_for([rows, columns], element)
    return TensorDescriptor.from_tensor(values, [rows, columns], layout)
