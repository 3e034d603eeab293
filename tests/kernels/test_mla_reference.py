"""MLA decode: the definition against loops in float64, the meaning of lse, and refused arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenspeed.kernels import mla_decode

pytestmark = pytest.mark.serve

MakeBatch = Callable[..., Any]
RelativeError = Callable[[Tensor, Tensor], float]


def by_loops(batch: Any) -> tuple[Tensor, Tensor]:
    """One query, head and cached token at a time, in float64."""
    rows, q_len, heads, _ = batch.q.shape
    block_size = batch.kv_cache.shape[1]
    out, lse = torch.zeros(rows, q_len, heads, 512).double(), torch.full((rows, q_len, heads), -torch.inf).double()
    for row, context in enumerate(batch.context_lens.tolist()):
        for query in range(q_len):
            tokens = [
                batch.kv_cache[batch.block_table[row, position // block_size].long(), position % block_size].double()
                for position in range(context - q_len + query + 1)
            ]
            for head in range(heads if tokens else 0):
                scores = torch.stack([batch.q[row, query, head].double() @ token for token in tokens]) * batch.scale
                lse[row, query, head] = scores.exp().sum().log()
                weights = scores.exp() / scores.exp().sum()
                out[row, query, head] = sum(w * token[:512] for w, token in zip(weights, tokens, strict=True))
    return out, lse


def test_reference_is_the_definition(make_mla_batch: MakeBatch, relative_error: RelativeError) -> None:
    batch = make_mla_batch([5, 9, 2, 0, 1], q_len=3, heads=2, block_size=4)
    (out, lse), (expected_out, expected_lse) = batch.oracle(), by_loops(batch)
    assert relative_error(out, expected_out) < 1e-14
    seen = expected_lse.isfinite()
    assert torch.equal(lse.isneginf(), ~seen)
    assert relative_error(lse[seen], expected_lse[seen]) < 1e-7  # lse is float32


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2.5e-3)])
def test_reference_rounds_only_its_result(
    make_mla_batch: MakeBatch, relative_error: RelativeError, dtype: torch.dtype, tolerance: float
) -> None:
    batch = make_mla_batch([1, 63, 64, 65, 200], q_len=2, dtype=dtype)
    out, lse = batch.poisoned_results()
    inputs = (batch.q, batch.kv_cache, batch.block_table, batch.context_lens)
    mla_decode(*inputs, scale=batch.scale, out=out, lse=lse, kernel="reference")
    expected_out, expected_lse = batch.oracle()
    assert relative_error(out, expected_out) < tolerance
    assert torch.allclose(lse, expected_lse, atol=1e-5)


def test_queries_that_see_nothing_give_zero_and_minus_infinity(make_mla_batch: MakeBatch) -> None:
    batch = make_mla_batch([0, 1, 2], q_len=2)
    out, lse = mla_decode(batch.q, batch.kv_cache, batch.block_table, batch.context_lens, scale=batch.scale)
    empty = torch.tensor([[True, True], [True, False], [False, False]])
    assert (out[empty] == 0).all() and lse[empty].isneginf().all()
    assert out[~empty].isfinite().all() and lse[~empty].isfinite().all()


def test_lse_merges_the_parts_of_a_context(make_mla_batch: MakeBatch, relative_error: RelativeError) -> None:
    batch = make_mla_batch([192, 130])
    whole, whole_lse = batch.oracle()
    head = replace(batch, context_lens=torch.tensor([64, 64], dtype=torch.int32))
    tail = replace(batch, block_table=batch.block_table[:, 1:], context_lens=batch.context_lens - 64)
    (head_out, head_lse), (tail_out, tail_lse) = head.oracle(), tail.oracle()
    lse = torch.logaddexp(head_lse, tail_lse)
    merged = head_out * (head_lse - lse).exp()[..., None] + tail_out * (tail_lse - lse).exp()[..., None]
    assert relative_error(lse, whole_lse) < 1e-6
    assert relative_error(merged, whole) < 1e-6


def test_wrong_arguments_are_named(make_mla_batch: MakeBatch) -> None:
    batch = make_mla_batch([100, 30])
    for change, error, message in (
        ({"q": batch.q[..., :512]}, ValueError, r"q has shape \[2, 1, 16, 512\]; .* \[rows, q_len, heads, 576\]"),
        ({"kv_cache": batch.kv_cache[None]}, ValueError, r"kv_cache has shape .* \[blocks, block_size, 576\]"),
        ({"kv_cache": batch.kv_cache.mT.contiguous().mT}, ValueError, r"kv_cache has strides .* must adjoin"),
        ({"kv_cache": batch.kv_cache.half()}, TypeError, r"kv_cache has dtype torch.float16"),
        ({"block_table": batch.block_table[:1]}, ValueError, r"block_table has shape \[1, 3\]; .* \[2, max_blocks\]"),
        ({"block_table": batch.block_table.mT.contiguous().mT}, ValueError, r"block_table has strides .* adjoin"),
        ({"context_lens": batch.context_lens.long()}, TypeError, r"context_lens has dtype torch.int64"),
        ({"context_lens": batch.context_lens + 500}, ValueError, r"context_lens\[0\] = 600; it must be 0\.\.192"),
    ):
        wrong = replace(batch, **change)
        inputs = (wrong.q, wrong.kv_cache, wrong.block_table, wrong.context_lens)
        with pytest.raises(error, match=message):
            mla_decode(*inputs, scale=batch.scale)
    inputs = (batch.q, batch.kv_cache, batch.block_table, batch.context_lens)
    with pytest.raises(TypeError, match=r"lse has dtype torch.float64; it must be torch.float32"):
        mla_decode(*inputs, scale=1.0, lse=torch.empty(2, 1, 16).double())
    with pytest.raises(ValueError, match=r"out has strides .* must be contiguous"):
        mla_decode(*inputs, scale=1.0, out=torch.empty(2, 1, 512, 16).mT)
