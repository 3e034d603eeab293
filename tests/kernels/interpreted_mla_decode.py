"""The Triton kernels of MLA decode under Triton's interpreter, against the definition in float64.

`test_mla_triton.py` runs this file in a process of its own with TRITON_INTERPRET=1, which must be set before triton is
first imported and would change every other kernel of that process.

bfloat16 is left to devices: the interpreter computes with its bit patterns as if they were integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenspeed.kernels import explain, mla_decode, mla_prefill
from tokenspeed.kernels.mla import plan_mla_decode, triton_split_kv
from tokenspeed.kernels.mla.merge import merge_parts
from tokenspeed.kernels.mla.plan import MlaPlan, divide
from tokenspeed.kernels.mla.plan_kernel import fill_plan
from tokenspeed.kernels.mla.triton_split_kv import NARROW, WIDE, Tile
from tokenspeed.kernels.mla.tuning import Tuning

MakeBatch = Callable[..., Any]
RelativeError = Callable[[Tensor, Tensor], float]

RAGGED = [65, 1, 64, 0, 63, 200]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3}


def run(batch: Any, tile: Tile, splits: int) -> tuple[Tensor, Tensor]:
    """Run the kernels over results and a workspace that are NaN until written."""
    out, lse = batch.poisoned_results()
    rows, q_len, heads, _ = out.shape
    part_out = torch.full((rows, splits, q_len, heads, 512), torch.nan)
    part_lse = torch.full((rows, splits, q_len, heads), torch.nan)
    triton_split_kv.mla_decode(
        batch.q,
        batch.kv_cache,
        batch.block_table,
        batch.context_lens,
        scale=batch.scale,
        out=out,
        lse=lse,
        tile=tile,
        splits=splits,
        workspace=(part_out, part_lse),
    )
    return out, lse


def check(batch: Any, got: tuple[Tensor, Tensor], relative_error: RelativeError, factor: float = 1.0) -> None:
    (out, lse), (expected_out, expected_lse) = got, batch.oracle()
    assert relative_error(out, expected_out) < factor * TOLERANCE[batch.q.dtype]
    seen = expected_lse.isfinite()
    assert torch.equal(lse.isneginf(), ~seen)
    assert torch.allclose(lse[seen], expected_lse[seen], rtol=factor * 1e-6, atol=1e-5)
    assert (out[~seen] == 0).all()


@pytest.mark.parametrize(
    ("heads", "q_len", "splits", "dtype"),
    [
        (16, 1, 3, torch.float32),
        (16, 1, 8, torch.float16),  # at most 4 tiles in 8 splits: most are empty
        (16, 2, 3, torch.float16),
        (32, 1, 1, torch.float32),
    ],
)
def test_narrow_tiles(
    make_mla_batch: MakeBatch, relative_error: RelativeError, heads: int, q_len: int, splits: int, dtype: torch.dtype
) -> None:
    batch = make_mla_batch(RAGGED, heads=heads, q_len=q_len, dtype=dtype, seed=splits)
    check(batch, run(batch, NARROW, splits), relative_error)


@pytest.mark.parametrize(
    ("heads", "q_len", "splits", "dtype"),
    [(16, 4, 2, torch.float32), (32, 3, 1, torch.float16)],
)
def test_wide_tiles(
    make_mla_batch: MakeBatch, relative_error: RelativeError, heads: int, q_len: int, splits: int, dtype: torch.dtype
) -> None:
    batch = make_mla_batch(RAGGED, heads=heads, q_len=q_len, dtype=dtype, seed=q_len)
    check(batch, run(batch, WIDE, splits), relative_error)


@pytest.mark.parametrize("block_size", [16, 48, 128])
def test_blocks_smaller_and_larger_than_a_tile(
    make_mla_batch: MakeBatch, relative_error: RelativeError, block_size: int
) -> None:
    batch = make_mla_batch([130, 65, 1, 16], block_size=block_size)
    check(batch, run(batch, NARROW, 2), relative_error)


@pytest.mark.parametrize("splits", [1, 4])
def test_extreme_scores(make_mla_batch: MakeBatch, relative_error: RelativeError, splits: int) -> None:
    """Scores around +-100, which overflow the exponential without the running maximum."""
    batch = make_mla_batch([65, 200, 1], q_len=2, magnitude=100.0)
    check(batch, run(batch, NARROW, splits), relative_error, factor=20.0)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("rising", [False, True])
def test_the_largest_score_in_the_first_or_last_tile(
    make_mla_batch: MakeBatch, relative_error: RelativeError, rising: bool, splits: int
) -> None:
    """Whole tiles whose weights underflow next to another's, before or after it."""
    batch = make_mla_batch([256])
    batch.q[..., 0] = batch.q.abs()[..., 0] + 100.0
    order = batch.block_table[0, :4].long()
    steps = torch.tensor([-60.0, -20.0, 20.0, 60.0])
    batch.kv_cache[order, :, 0] = (steps if rising else steps.flip(0))[:, None]
    check(batch, run(batch, NARROW, splits), relative_error, factor=20.0)


def test_every_score_far_below_zero(make_mla_batch: MakeBatch, relative_error: RelativeError) -> None:
    """All exponentials underflow without the running maximum; lse is near the largest score, not -inf."""
    batch = make_mla_batch([65, 130])
    batch.q[..., 0] = 100.0
    batch.kv_cache[..., 0] = torch.where(batch.kv_cache[..., 0].isnan(), torch.nan, -100.0)
    out, lse = run(batch, NARROW, 2)
    assert (lse < -300).all()
    check(batch, (out, lse), relative_error, factor=20.0)


def test_the_same_bits_twice_and_alone(make_mla_batch: MakeBatch) -> None:
    batch = make_mla_batch(RAGGED, q_len=2, dtype=torch.float16)
    first, second = run(batch, NARROW, 3), run(batch, NARROW, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    alone = replace(
        batch, q=batch.q[5:], block_table=batch.block_table[5:].clone(), context_lens=batch.context_lens[5:].clone()
    )
    assert all(torch.equal(a, b[5:]) for a, b in zip(run(alone, NARROW, 3), first, strict=True))


def test_padded_caches_and_tables(make_mla_batch: MakeBatch, relative_error: RelativeError) -> None:
    """Tokens wider than 576 values, and a block table that is part of a wider one."""
    batch = make_mla_batch([65, 130, 1])
    blocks, block_size, _ = batch.kv_cache.shape
    pool = torch.full((blocks, block_size + 1, 640), torch.nan)
    pool[:, :block_size, :576] = batch.kv_cache
    table = torch.full((3, 9), 2**30, dtype=torch.int32)
    table[:, 2 : 2 + batch.block_table.shape[1]] = batch.block_table
    strided = replace(
        batch, kv_cache=pool[:, :block_size, :576], block_table=table[:, 2 : 2 + batch.block_table.shape[1]]
    )
    check(strided, run(strided, NARROW, 2), relative_error)


@pytest.mark.parametrize(
    ("heads", "q_len", "programs", "dtype", "tile"),
    [
        (16, 1, 1, torch.float32, None),
        (16, 1, 5, torch.float16, None),
        (16, 2, 7, torch.float32, NARROW),
        (16, 4, 3, torch.float32, WIDE),
        (16, 1, 6, torch.float32, replace(NARROW, keys=128)),  # parts begin and end within tiles
        (20, 7, 4, torch.float16, NARROW),
    ],
)
def test_parts_of_a_plan(
    make_mla_batch: MakeBatch,
    relative_error: RelativeError,
    heads: int,
    q_len: int,
    programs: int,
    dtype: torch.dtype,
    tile: Tile | None,
) -> None:
    """Parts with the end of a row, whole rows and the beginning of another; the plan's workspace is NaN before."""
    batch = make_mla_batch(RAGGED, heads=heads, q_len=q_len, dtype=dtype, seed=programs)
    plan = plan_mla_decode(
        batch.context_lens, q_len=q_len, heads=heads, max_context=256, programs=programs, tuning=Tuning(1, 1)
    )
    assert plan.parts.shape[0] == programs
    plan.part_out.fill_(torch.nan)
    plan.part_lse.fill_(torch.nan)
    out, lse = batch.poisoned_results()
    inputs = (batch.q, batch.kv_cache, batch.block_table, batch.context_lens)
    triton_split_kv.mla_decode(*inputs, scale=batch.scale, out=out, lse=lse, plan=plan, tile=tile)
    check(batch, (out, lse), relative_error)


@pytest.mark.parametrize("block_size", [16, 48, 128])
def test_parts_of_a_plan_over_blocks_smaller_and_larger_than_a_tile(
    make_mla_batch: MakeBatch, relative_error: RelativeError, block_size: int
) -> None:
    batch = make_mla_batch([130, 65, 1, 300], block_size=block_size)
    for keys in (64, 128):
        plan = plan_mla_decode(batch.context_lens, q_len=1, heads=16, max_context=384, programs=4)
        out, lse = batch.poisoned_results()
        inputs = (batch.q, batch.kv_cache, batch.block_table, batch.context_lens)
        tile = replace(NARROW, keys=keys)
        triton_split_kv.mla_decode(*inputs, scale=batch.scale, out=out, lse=lse, plan=plan, tile=tile)
        check(batch, (out, lse), relative_error)


def test_through_the_public_operation(make_mla_batch: MakeBatch, relative_error: RelativeError) -> None:
    """With its own choice of tile, splits and workspace."""
    for heads, q_len in ((16, 1), (16, 4)):
        batch = make_mla_batch([65, 200, 0], heads=heads, q_len=q_len)
        inputs = (batch.q, batch.kv_cache, batch.block_table, batch.context_lens)
        check(batch, mla_decode(*inputs, scale=batch.scale, kernel="triton_split_kv"), relative_error)
        plan = plan_mla_decode(batch.context_lens, q_len=q_len, heads=heads, max_context=256)
        check(batch, mla_decode(*inputs, scale=batch.scale, plan=plan, kernel="triton_split_kv"), relative_error)
    empty = mla_decode(batch.q[:0], batch.kv_cache, batch.block_table[:0], batch.context_lens[:0], scale=batch.scale)
    assert empty[0].shape == (0, 4, 16, 512)


@pytest.mark.parametrize("at_once", [1, 4])  # 1: rows with more than 4 slots take the second loop
@pytest.mark.parametrize("parts", [1, 2, 5, 40])
def test_merging_the_parts_of_a_plan(
    make_mla_batch: MakeBatch, relative_error: RelativeError, parts: int, at_once: int
) -> None:
    """The definition fills the slots, one stretch of a row in one part at a time; the kernel merges them."""
    contexts, queries = [900, 0, 64, 1, 200, 130, 0], 32
    batch = make_mla_batch(contexts, heads=16, q_len=2)
    plan = MlaPlan(
        torch.full((parts, 4), -1, dtype=torch.int32),
        torch.full((len(contexts) + 1, 4), -1, dtype=torch.int32),
        torch.full((parts + len(contexts) - 1, queries, 512), torch.nan),
        torch.full((parts + len(contexts) - 1, queries), torch.nan),
        Tuning(min_tiles=1, most_results=4096),
    )
    plan.fill(batch.context_lens)
    out, lse = batch.poisoned_results()
    for part, (row, tile, count, _) in enumerate(plan.parts.tolist()):
        while count > 0:
            tiles = -(-contexts[row] // 64)
            last = min(tiles, tile + count)
            if tile < last:
                stretch = attend_stretch(batch, row, tile * 64, min(last * 64, contexts[row]))
                if (tile, last) == (0, tiles):
                    out[row], lse[row] = stretch
                else:
                    assert plan.part_lse[part + row].isnan().all()  # no slot is taken twice
                    plan.part_out[part + row], plan.part_lse[part + row] = (half.flatten(0, 1) for half in stretch)
            count -= max(last - tile, 0)
            row, tile = row + 1, 0
    merge_parts[(3,)](
        plan.part_out,
        plan.part_lse,
        plan.cuts,
        out,
        lse,
        queries,
        QUERIES=2,
        COLUMNS=256,
        AT_ONCE=at_once,
        AFTER_LAUNCH=False,
    )
    check(batch, (out, lse), relative_error)


@pytest.mark.parametrize("seed", range(30))
def test_the_kernel_plans_like_the_definition(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    rows, parts, min_tiles, longest = (
        int(torch.randint(1, bound, (1,), generator=random)) for bound in (150, 133, 5, 3000)
    )
    least = 0 if seed % 2 else longest * 9 // 10  # rows of about the same length are laid at equal distances
    contexts = torch.randint(least, longest + 1, (rows,), generator=random).int()
    contexts[torch.rand(rows, generator=random) < 0.2] = 0
    queries = 16 * (1 + seed % 9)
    expected = torch.full((parts, 4), -1).int(), torch.full((rows + 1, 4), -1).int()
    got = expected[0].clone(), expected[1].clone()
    divide(contexts, *expected, queries, Tuning(min_tiles, 4096))
    sizes = {"GAP": 2, "EXTRA": 16, "PARTS": 256, "CHUNK": 64}
    fill_plan[(1,)](contexts, *got, rows, parts, queries, min_tiles, 4096, **sizes)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def attend_stretch(batch: Any, row: int, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Attention of a row's queries over positions first to last of its context."""
    _, q_len, _, _ = batch.q.shape
    context = int(batch.context_lens[row])
    position = torch.arange(first, last)
    cached = batch.kv_cache[batch.block_table[row, position // 64].long(), position % 64]
    scores = torch.einsum("qhd,kd->qhk", batch.q[row], cached) * batch.scale
    scores.masked_fill_(position > torch.arange(context - q_len, context)[:, None, None], -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ cached[:, :512], scores.logsumexp(-1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_prefill(relative_error: RelativeError, causal: bool, dtype: torch.dtype) -> None:
    """Rows of one query, rows longer than a tile, and one with more queries than keys."""
    new, keys, heads = [1, 70, 9], [64, 200, 4], 2
    random = torch.Generator().manual_seed(0)
    q = torch.randn(sum(new), heads, 192, generator=random).to(dtype)
    k = torch.randn(sum(keys), heads, 192, generator=random).to(dtype)
    v = torch.randn(sum(keys), heads, 128, generator=random).to(dtype)
    starts = [torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (new, keys)]
    common = {"scale": 192**-0.5, "causal": causal, "max_queries": max(new)}
    expected_out, expected_lse = mla_prefill(q.double(), k.double(), v.double(), *starts, kernel="reference", **common)
    out = torch.full((sum(new), heads, 128), torch.nan, dtype=dtype)
    lse = torch.full((sum(new), heads), torch.nan)
    mla_prefill(q, k, v, *starts, out=out, lse=lse, kernel="triton_flash", **common)
    assert relative_error(out, expected_out) < TOLERANCE[dtype]
    seen = expected_lse.isfinite()
    assert torch.equal(lse.isneginf(), ~seen)
    assert torch.allclose(lse[seen], expected_lse[seen], rtol=1e-6, atol=1e-5)


def test_bfloat16_is_refused_here() -> None:
    traits = {"heads": 16, "q_len": 1, "block_size": 64, "dense_cache": 1, "cache_bits": 16}
    selection = explain("mla_decode", device="cpu", dtype=torch.bfloat16, kernel=None, **traits)
    assert selection.kernel.name == "reference"
    assert "dtype bfloat16, needs one of float16, float32" in str(selection)
