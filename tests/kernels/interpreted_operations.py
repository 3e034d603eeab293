"""The Triton kernels around MLA under Triton's interpreter.

`test_operations_interpreted.py` runs this file in a process of its own with TRITON_INTERPRET=1, which must be set
before triton is first imported and would change every other kernel of that process.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenspeed.kernels import REGISTRY, grouped_gemm, paged_attention, plan_paged_attention, sample_tokens, write_kv
from tokenspeed.kernels.attention import triton_ragged
from tokenspeed.kernels.attention.triton_ragged import Tile
from tokenspeed.kernels.workbench.cases import case_makers
from tokenspeed.kernels.workbench.check import check_kernels

CPU = torch.device("cpu")
OPERATIONS = tuple(dict.fromkeys(name for name, _ in case_makers() if name != "mla_decode"))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_cases_of_the_check(operation: str) -> None:
    results = list(check_kernels(CPU, [operation]))
    assert [result for result in results if not result.passed] == []
    triton = {kernel.name for kernel in REGISTRY.operation(operation).kernels() if kernel.name.startswith("triton")}
    assert triton
    for dtype in (torch.float32, torch.float16):
        assert triton <= {result.kernel for result in results if result.dtype is dtype}


def ragged_batch(new: list[int], contexts: list[int], heads: int = 4, kv_heads: int = 2) -> tuple[Tensor, ...]:
    """Rows over shuffled blocks of 16 tokens; the cache is NaN outside the contexts."""
    random = torch.Generator().manual_seed(len(new))
    blocks = [-(-context // 16) for context in contexts]
    order = torch.randperm(sum(blocks) + 1, generator=random).int()
    caches = torch.full((2, len(order), 16, kv_heads, 32), torch.nan)
    table = torch.full((len(new), max(blocks)), 2**30, dtype=torch.int32)
    used = 0
    for row, (context, count) in enumerate(zip(contexts, blocks, strict=True)):
        table[row, :count] = order[used : used + count]
        position = torch.arange(context)
        values = torch.randn(2, context, kv_heads, 32, generator=random)
        caches[:, table[row, position // 16].long(), position % 16] = values
        used += count
    q = torch.randn(sum(new), heads, 32, generator=random)
    starts = torch.tensor([0, *new]).cumsum(0).int()
    return q, caches[0], caches[1], table, torch.tensor(contexts, dtype=torch.int32), starts


@pytest.mark.parametrize("splits", [1, 2, 7])
@pytest.mark.parametrize("tile", [Tile(16, 16, 1, 1), Tile(16, 32, 1, 1), Tile(64, 16, 1, 1)])
def test_attention_in_any_tile_and_number_of_splits(tile: Tile, splits: int) -> None:
    """Among them splits in which nothing is visible, and rows without a new token."""
    batch = ragged_batch([1, 0, 9, 33, 1], [1, 5, 9, 70, 65])
    out = torch.full(batch[0].shape, torch.nan)
    workspace = torch.full((splits, *batch[0].shape), torch.nan), torch.full((splits, *batch[0].shape[:2]), torch.nan)
    triton_ragged.paged_attention(*batch, scale=0.3, out=out, tile=tile, splits=splits, workspace=workspace)
    expected = paged_attention(*batch, scale=0.3, kernel="reference")
    assert torch.allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("splits", [1, 3])
def test_attention_leaves_padding_of_a_graph_alone(splits: int) -> None:
    """A graph captured for 5 rows and 8 tokens, replayed with 2 rows and 4 tokens."""
    q, k_cache, v_cache, table, contexts, _ = ragged_batch([1, 3, 0, 0, 0], [40, 20, 0, 0, 0])
    q = torch.cat([q, torch.full((4, 4, 32), torch.nan)])
    starts = torch.tensor([0, 1, 4, 4, 4, 4], dtype=torch.int32)
    out = torch.full(q.shape, 7.0)
    triton_ragged.paged_attention(
        q, k_cache, v_cache, table, contexts, starts, scale=0.3, out=out, splits=splits, tile=Tile(16, 16, 1, 1)
    )
    assert (out[4:] == 7.0).all()
    small = (q[:4], k_cache, v_cache, table[:2], contexts[:2], starts[:3])
    assert torch.allclose(out[:4], paged_attention(*small, scale=0.3, kernel="reference"), atol=2e-6)


@given(
    contexts=st.lists(st.sampled_from([0, 1, 5, 64, 65, 130]), min_size=1, max_size=4),
    row_tokens=st.integers(1, 3),
    programs=st.sampled_from([1, 2, 5, 9]),
)
@settings(max_examples=8, deadline=None)
def test_attention_by_a_plan(contexts: list[int], row_tokens: int, programs: int) -> None:
    """Rows that are cut, rows that share a part, empty ones, and contexts shorter than the new tokens of other rows."""
    contexts = [max(context, row_tokens) if context else 0 for context in contexts]
    q, k_cache, v_cache, table, lengths, starts = ragged_batch([row_tokens] * len(contexts), contexts or [0])
    plan = plan_paged_attention(
        lengths, row_tokens=row_tokens, heads=4, kv_heads=2, head_dim=32, max_context=320, programs=programs
    )
    plan.part_out.fill_(torch.nan)
    plan.part_lse.fill_(torch.nan)
    out = torch.full(q.shape, torch.nan)
    batch = (q, k_cache, v_cache, table, lengths, starts)
    paged_attention(*batch, scale=0.3, out=out, plan=plan, kernel="triton_ragged")
    seen = lengths.repeat_interleave(row_tokens) > 0
    rows = [row for row, context in enumerate(contexts) if context]
    if rows:
        starts = torch.arange(len(rows) + 1, dtype=torch.int32) * row_tokens
        whole = (q[seen], k_cache, v_cache, table[rows], lengths[rows], starts)
        assert torch.allclose(out[seen], paged_attention(*whole, scale=0.3, kernel="reference"), atol=2e-6)
    assert (out[~seen] == 0).all()


def test_a_plan_for_other_shapes_is_refused() -> None:
    batch = ragged_batch([1, 1], [5, 9])
    plan = plan_paged_attention(batch[4], row_tokens=1, heads=8, kv_heads=2, head_dim=32, max_context=64)
    with pytest.raises(ValueError, match="plan is for 2 rows of 1 tokens, 8 heads"):
        paged_attention(*batch, scale=0.3, plan=plan)
    with pytest.raises(ValueError, match="row_tokens is 0"):
        plan_paged_attention(batch[4], row_tokens=0, heads=4, kv_heads=2, head_dim=32, max_context=64)


def test_a_slot_outside_the_cache_is_left_out() -> None:
    cache = torch.zeros(2, 4, 1, 8)
    k = torch.arange(1.0, 5.0)[:, None, None].expand(4, 1, 8).contiguous()
    write_kv(k, k, cache, cache.clone(), torch.tensor([-1, 2, 8, 5]), kernel="triton_scatter")
    assert cache[..., 0].flatten().tolist() == [0, 0, 2, 0, 0, 4, 0, 0]


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), inner=st.integers(1, 40), columns=st.integers(1, 90))
@settings(max_examples=15, deadline=None)
def test_groups_of_any_sizes(sizes: list[int], inner: int, columns: int) -> None:
    x, weight = torch.randn(sum(sizes), inner), torch.randn(len(sizes), columns, inner)
    offsets = torch.tensor([0, *sizes]).cumsum(0).int()
    got = grouped_gemm(x, weight, offsets, kernel="triton_grouped")
    assert torch.allclose(got, grouped_gemm(x, weight, offsets, kernel="reference"), atol=1e-4)


def parameters(rows: list[tuple[float, int, float, float, float]]) -> dict[str, Any]:
    temperature, top_k, top_p, min_p, uniform = zip(*rows, strict=True)
    return {
        "temperature": torch.tensor(temperature),
        "top_k": torch.tensor(top_k, dtype=torch.int32),
        "top_p": torch.tensor(top_p),
        "min_p": torch.tensor(min_p),
        "uniform": torch.tensor(uniform, dtype=torch.float64),
    }


@given(
    seed=st.integers(0, 2**32),
    rows=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.5, 1.0, 1.7]),
            st.sampled_from([0, 1, 7, 60, 1000]),
            st.sampled_from([0.2, 0.77, 0.95, 1.0]),
            st.sampled_from([0.0, 0.03, 0.4]),
            st.floats(0, 1, exclude_max=True, width=32),
        ),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=12, deadline=None)
def test_sampling_agrees_with_the_definition(seed: int, rows: list[tuple[float, int, float, float, float]]) -> None:
    """Some logits are equal, also at the border of what the filters keep."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randint(-12, 12, (len(rows), 90), generator=random).float() / 3
    got = sample_tokens(logits, **parameters(rows), kernel="triton_select")
    expected = sample_tokens(logits, **parameters(rows), kernel="reference")
    # A random number on a border of the cumulative sum may fall to either side of it.
    nearby = [
        sample_tokens(logits, **parameters([(*row[:4], min(max(row[4] + step, 0.0), 1 - 2**-53)) for row in rows]))
        for step in (-1e-6, 1e-6)
    ]
    assert ((got == expected) | (got == nearby[0]) | (got == nearby[1])).all()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_unusable_logits_give_a_token_that_exists(value: float) -> None:
    logits = torch.full((3, 40), value)
    rows = [(0.0, 0, 1.0, 0.0, 0.5), (1.0, 3, 0.5, 0.1, 0.999), (1.0, 0, 1.0, 0.0, 0.0)]
    for kernel in ("triton_select", "reference"):
        tokens = sample_tokens(logits, **parameters(rows), kernel=kernel)
        assert ((tokens >= 0) & (tokens < 40)).all()
