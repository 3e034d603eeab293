"""Paged attention on the CPU: the definition against loops in float64, and the fast kernel against the definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenspeed.kernels import explain, paged_attention
from tokenspeed.kernels.attention.batch_plan import plan_batch

pytestmark = pytest.mark.serve

Rows = list[tuple[int, int]]
"""For each row its new tokens and its context, which includes them."""

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 5e-3}


@dataclass(frozen=True)
class Batch:
    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    block_table: Tensor
    context_lens: Tensor
    query_start: Tensor
    scale: float

    def run(self, kernel: str | None = None) -> Tensor:
        out = torch.full_like(self.q, torch.nan)
        inputs = (self.q, self.k_cache, self.v_cache, self.block_table, self.context_lens, self.query_start)
        returned = paged_attention(*inputs, scale=self.scale, out=out, kernel=kernel)
        assert returned is out
        return out

    def oracle(self) -> Tensor:
        """The definition in float64, on the inputs as rounded to their dtype."""
        exact = replace(self, q=self.q.double(), k_cache=self.k_cache.double(), v_cache=self.v_cache.double())
        return exact.run("reference")


def make_batch(
    rows: Rows,
    *,
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 16,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    magnitude: float = 1.0,
    seed: int = 0,
) -> Batch:
    """`magnitude` is the standard deviation of the scores. Blocks are shuffled; cache positions outside all contexts
    are NaN, and entries of the block table behind a context are out of range."""
    random = torch.Generator().manual_seed(seed)
    per_row = [-(-context // block_size) for _, context in rows]
    order = torch.randperm(sum(per_row) + 2, generator=random).int()
    block_table = torch.full((len(rows), max(per_row, default=0) + 1), 2**30, dtype=torch.int32)
    caches = torch.full((2, len(order), block_size, kv_heads, head_dim), torch.nan)
    used = 0
    for row, (_, context) in enumerate(rows):
        for index in range(per_row[row]):
            block = order[used]
            block_table[row, index] = block
            filled = min(block_size, context - index * block_size)
            caches[:, block, :filled] = torch.randn(2, filled, kv_heads, head_dim, generator=random)
            used += 1
    starts = torch.tensor([0, *(length for length, _ in rows)]).cumsum(0)
    q = torch.randn(int(starts[-1]), heads, head_dim, generator=random) * magnitude
    return Batch(
        q.to(dtype),
        caches[0].to(dtype),
        caches[1].to(dtype),
        block_table,
        torch.tensor([context for _, context in rows], dtype=torch.int32),
        starts.int(),
        head_dim**-0.5,
    )


def by_loops(batch: Batch) -> Tensor:
    """Attention one query and head at a time, addressing the cache token by token."""
    block_size, kv_heads = batch.k_cache.shape[1:3]
    out = torch.empty_like(batch.q)
    heads = batch.q.shape[1]
    for row, context in enumerate(batch.context_lens.tolist()):
        first, last = int(batch.query_start[row]), int(batch.query_start[row + 1])
        for token in range(first, last):
            visible = context - (last - token) + 1
            for head in range(heads):
                kv_head = head * kv_heads // heads
                scores, values = [], []
                for position in range(visible):
                    block = int(batch.block_table[row, position // block_size])
                    key = batch.k_cache[block, position % block_size, kv_head]
                    scores.append(float(batch.q[token, head] @ key) * batch.scale)
                    values.append(batch.v_cache[block, position % block_size, kv_head])
                weights = [math.exp(score - max(scores)) for score in scores]
                total = sum(weights)
                out[token, head] = sum(
                    (value * (weight / total) for value, weight in zip(values, weights, strict=True)),
                    start=torch.zeros_like(values[0]),
                )
    return out


def test_reference_is_the_definition(relative_error: Callable[[Tensor, Tensor], float]) -> None:
    batch = make_batch([(1, 5), (4, 4), (0, 3), (3, 9), (1, 1)], block_size=4, head_dim=8)
    exact = replace(batch, q=batch.q.double(), k_cache=batch.k_cache.double(), v_cache=batch.v_cache.double())
    assert relative_error(exact.run("reference"), by_loops(exact)) < 1e-14


@st.composite
def ragged_rows(draw: st.DrawFn) -> Rows:
    edges = st.sampled_from([1, 2, 15, 16, 17, 63, 64, 65, 130])
    rows = []
    for _ in range(draw(st.integers(1, 9))):
        context = draw(edges | st.integers(1, 400))
        length = draw(st.just(1) | st.integers(0, min(context, 40)) | st.just(context))
        rows.append((length, context))
    return rows


@settings(max_examples=100, deadline=None)
@given(
    rows=ragged_rows(),
    heads=st.sampled_from([(4, 4), (6, 2), (9, 3), (8, 1)]),
    block_size=st.sampled_from([4, 16, 64]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_ragged_batches_agree_with_the_reference(
    rows: Rows, heads: tuple[int, int], block_size: int, dtype: torch.dtype, seed: int
) -> None:
    batch = make_batch(rows, heads=heads[0], kv_heads=heads[1], block_size=block_size, dtype=dtype, seed=seed)
    got, expected = batch.run().double(), batch.oracle()
    # NaN, from a poisoned position or an unwritten result, makes the comparison false
    assert (got - expected).norm() <= TOLERANCE[dtype] * expected.norm() + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([(1, 1), (1, 63), (1, 64), (1, 65), (1, 700), (1, 3000)], id="decode-of-very-different-lengths"),
        pytest.param([(1, 1500)] * 12 + [(1, 1400)], id="more-decode-rows-than-one-group-gathers"),
        pytest.param([(300, 300)], id="prefill-without-prefix"),
        pytest.param([(600, 913)], id="prefill-chunk-over-several-query-tiles"),
        pytest.param([(1, 40), (17, 17), (1, 90), (33, 64), (2, 2), (1, 64)], id="mixed"),
    ],
)
def test_shapes_that_take_each_path(
    rows: Rows, dtype: torch.dtype, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    batch = make_batch(rows, heads=9, kv_heads=3, head_dim=64, block_size=64, dtype=dtype)
    assert relative_error(batch.run("torch_sdpa"), batch.oracle()) < TOLERANCE[dtype]


@pytest.mark.parametrize("magnitude", [50.0, 5e3])
def test_extreme_scores(magnitude: float, relative_error: Callable[[Tensor, Tensor], float]) -> None:
    batch = make_batch([(1, 130), (1, 65), (5, 70), (64, 64)], magnitude=magnitude)
    # scores carry float32's relative rounding, and the exponential turns their absolute error into a relative one
    assert relative_error(batch.run(), batch.oracle()) < 1e-6 * magnitude


def test_the_same_bits_twice() -> None:
    batch = make_batch([(1, 130), (1, 65), (5, 70), (64, 64), (1, 999)], dtype=torch.bfloat16)
    assert torch.equal(batch.run(), batch.run())


def test_one_requests_nan_stays_its_own() -> None:
    rows = [(1, 20), (1, 40), (3, 30)]
    batch = make_batch(rows)
    clean = batch.run()
    batch.k_cache[batch.block_table[1, 0].long()] = torch.nan
    dirty = batch.run()
    assert dirty[1].isnan().all()
    assert torch.equal(dirty[[0, 2, 3, 4]], clean[[0, 2, 3, 4]])


def test_strided_inputs_and_outputs(relative_error: Callable[[Tensor, Tensor], float]) -> None:
    batch = make_batch([(1, 20), (1, 40), (7, 30), (9, 9)])
    expected = batch.oracle()
    qkv = torch.zeros(len(batch.q), 10, 16)  # queries as a slice of a fused projection
    qkv[:, 2:8] = batch.q
    pool = torch.stack([batch.k_cache, batch.v_cache], dim=1)  # [blocks, 2, ...]
    strided = replace(batch, q=qkv[:, 2:8], k_cache=pool[:, 0], v_cache=pool[:, 1])
    assert relative_error(strided.run("torch_sdpa"), expected) < TOLERANCE[torch.float32]
    wide = torch.full((len(batch.q), 6, 20), torch.nan)
    inputs = (strided.q, strided.k_cache, strided.v_cache, batch.block_table, batch.context_lens, batch.query_start)
    paged_attention(*inputs, scale=batch.scale, out=wide[:, :, :16])
    assert relative_error(wide[:, :, :16], expected) < TOLERANCE[torch.float32]
    assert wide[:, :, 16:].isnan().all()


def test_tables_changed_in_place_are_read_again(relative_error: Callable[[Tensor, Tensor], float]) -> None:
    batch = make_batch([(1, 30), (1, 30), (4, 30)])
    batch.run()
    table = batch.block_table.numpy()  # torch's version counter does not see this write
    table[[0, 1]] = table[[1, 0]]
    assert relative_error(batch.run(), batch.oracle()) < TOLERANCE[torch.float32]
    batch.context_lens.numpy()[:] = [17, 22, 9]
    assert relative_error(batch.run(), batch.oracle()) < TOLERANCE[torch.float32]


def test_a_batch_without_tokens() -> None:
    assert make_batch([]).run().shape == (0, 6, 16)
    assert make_batch([(0, 7), (0, 0)]).run().shape == (0, 6, 16)


@settings(max_examples=60, deadline=None)
@given(contexts=st.lists(st.integers(1, 5000), min_size=1, max_size=40), group_tokens=st.integers(1, 20_000))
def test_decode_groups_partition_the_rows_and_bound_padding_and_size(contexts: list[int], group_tokens: int) -> None:
    block_size = 64
    rows = len(contexts)
    block_table = torch.arange(rows * 80, dtype=torch.int32).view(rows, 80)
    plan = plan_batch(
        block_table,
        torch.tensor(contexts, dtype=torch.int32),
        torch.arange(rows + 1, dtype=torch.int32),
        tokens=rows,
        num_blocks=block_table.numel(),
        block_size=block_size,
        group_tokens=group_tokens,
    )
    assert not plan.prefill
    assert sorted(token for group in plan.decode for token in group.tokens.tolist()) == list(range(rows))
    for group in plan.decode:
        longest = max(contexts[token] for token in group.tokens.tolist())
        shortest = min(contexts[token] for token in group.tokens.tolist())
        assert longest <= 256 or 2 * shortest >= longest
        assert len(group.tokens) <= 2 or len(group.tokens) * longest <= group_tokens


def test_the_fast_kernel_is_the_choice_on_the_cpu() -> None:
    shape: dict[str, Any] = {"heads": 9, "kv_heads": 3, "head_dim": 64, "block_size": 64, "layout": "heads_adjoin"}
    assert explain("paged_attention", device="cpu", dtype=torch.bfloat16, **shape).kernel.name == "torch_sdpa"
    assert explain("paged_attention", device="cpu", dtype=torch.float64, **shape).kernel.name == "reference"


@pytest.mark.parametrize("kernel", ["reference", "torch_sdpa"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"block_table": [[0, 4, 9], [1, -1, 9]]},
            r"block_table\[1, 1\] = -1; it must be 0\.\.5, a block of the cache",
        ),
        ({"block_table": [[0, 6, 9], [1, 2, 9]]}, r"block_table\[0, 1\] = 6; it must be 0\.\.5"),
        ({"context_lens": [100, 20]}, r"context_lens\[0\] = 100; it must be 0\.\.48"),
        ({"context_lens": [-1, 20]}, r"context_lens\[0\] = -1"),
        ({"context_lens": [0, 20]}, r"row 0 has 1 new tokens \(query_start\) and context_lens 0"),
        ({"query_start": [0, 3, 2]}, r"row 1 has -1 new tokens"),
        ({"query_start": [0, 1, 3]}, r"query_start goes from 0 to 3; it must go from 0 to q's 2 tokens"),
    ],
)
def test_contradicting_values_are_refused(change: dict[str, list[Any]], message: str, kernel: str) -> None:
    batch = make_batch([(1, 30), (1, 20)])
    changes: Any = {name: torch.tensor(value, dtype=torch.int32) for name, value in change.items()}
    changed = replace(batch, **changes)
    with pytest.raises(ValueError, match=message):
        changed.run(kernel)


def test_wrong_arguments_are_named() -> None:
    batch = make_batch([(1, 30), (1, 20)])
    change: Any
    for change, error, message in (
        ({"q": batch.q[0]}, ValueError, r"q has shape \[6, 16\]; it must be \[tokens, heads, head_dim\]"),
        ({"k_cache": batch.k_cache[..., :8]}, ValueError, r"k_cache has shape .*; it must be \[.*, kv_heads, 16\]"),
        ({"v_cache": batch.v_cache[1:]}, ValueError, r"v_cache has shape"),
        ({"q": batch.q[:, :5]}, ValueError, r"q has 5 heads and k_cache 2; q's must be a multiple"),
        ({"context_lens": batch.context_lens[:1]}, ValueError, r"context_lens has shape \[1\]; it must be \[2\]"),
        ({"query_start": batch.query_start[:2]}, ValueError, r"query_start has shape \[2\]; it must be \[3\]"),
        ({"block_table": batch.block_table.long()}, TypeError, r"block_table has dtype torch.int64; it must be"),
        ({"v_cache": batch.v_cache.half()}, TypeError, r"v_cache has dtype torch.float16; it must be torch.float32"),
        ({"context_lens": batch.context_lens.to("meta")}, ValueError, r"one device; got .*context_lens on meta"),
    ):
        with pytest.raises(error, match=message):
            replace(batch, **change).run()
    inputs = (batch.q, batch.k_cache, batch.v_cache, batch.block_table, batch.context_lens, batch.query_start)
    with pytest.raises(ValueError, match=r"out has shape \[1, 6, 16\]; it must be \[2, 6, 16\]"):
        paged_attention(*inputs, scale=1.0, out=torch.empty(1, 6, 16))
