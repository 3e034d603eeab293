"""The two warpgroups of MLA decode on Hopper that multiply; what they do in turns is drawn in `gluon_hopper`."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from .gluon_hopper_tile import (
    _EVEN_LEFT,
    _EVEN_MAX,
    _EVEN_RIGHT,
    _EVEN_SUM,
    _EVEN_WEIGHTS,
    _ODD_LEFT,
    _ODD_MAX,
    _ODD_RIGHT,
    _ODD_SUM,
    _ODD_WEIGHTS,
    _OUT,
    _OUT_ROWS,
    _SCORE_ROWS,
    _WEIGHTS,
    _finish,
    _load_rope_queries,
    _opaque_zero,
    _scores,
    _tell,
    _tell_weights,
)


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
