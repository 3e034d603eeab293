"""What a warpgroup of MLA decode on Hopper does with one tile: its scores, its messages, and the end of a row.

The layouts and names here are those of the schedule in `gluon_hopper`.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

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
