"""What a warpgroup of MLA decode on Hopper does with one tile of an 8-bit cache: operands, products, the end of a row.

Here is decided which byte is which thread's, and so in which order dimensions are rows of the output or are summed.
`gluon_hopper_fp8` has the schedule.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from .gluon_hopper_tile import _opaque_zero

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


@gluon.jit  # type: ignore[untyped-decorator]
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


@gluon.jit  # type: ignore[untyped-decorator]
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


@gluon.jit  # type: ignore[untyped-decorator]
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


@gluon.jit  # type: ignore[untyped-decorator]
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


@gluon.jit  # type: ignore[untyped-decorator]
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


@gluon.jit  # type: ignore[untyped-decorator]
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
