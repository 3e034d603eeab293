"""The operations around MLA as users call them: laws of their references, and errors that name the argument.

That references and kernels give exact results on fixed cases is `tokenspeed kernels --check`, which the tests of the
command run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.kernels import (
    grouped_gemm,
    moe_mlp,
    moe_route,
    rms_norm,
    rotary,
    sample_tokens,
    silu_mul,
)

pytestmark = pytest.mark.serve

SEEDS = st.integers(0, 2**32)


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@given(seed=SEEDS, tokens=st.integers(0, 5), hidden=st.integers(1, 70), scale=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_normed_rows_have_mean_square_one_whatever_their_scale(
    seed: int, tokens: int, hidden: int, scale: float
) -> None:
    x, residual = random(seed, 2, tokens, hidden)
    weight = torch.ones(hidden, dtype=torch.float64)
    normed, total = rms_norm(x * scale, weight, eps=1e-30, residual=residual)
    assert torch.equal(total, x * scale + residual)
    assert torch.allclose(normed.square().mean(-1), torch.ones(tokens, dtype=torch.float64))
    again, same = rms_norm(total, weight * 3, eps=1e-30)
    assert same is total
    assert torch.allclose(again, normed * 3)


@given(seed=SEEDS, heads=st.integers(1, 4), half=st.integers(1, 40), shift=st.integers(-50, 50))
@settings(max_examples=40, deadline=None)
def test_scores_of_rotated_vectors_depend_on_the_distance_only(seed: int, heads: int, half: int, shift: int) -> None:
    q, k = random(seed, 2, 1, heads, 2 * half)
    frequencies = torch.logspace(0, -3, half, dtype=torch.float64)

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        angles = (position * frequencies)[None]
        return rotary(x, angles.cos().float(), angles.sin().float())

    scores = (turned(q, 70) * turned(k, 60)).sum(-1)
    shifted = (turned(q, 70 + shift) * turned(k, 60 + shift)).sum(-1)
    assert torch.allclose(scores, shifted, atol=1e-5)
    assert torch.allclose(turned(q, 33).norm(dim=-1), q.norm(dim=-1), rtol=1e-6)  # cos and sin are rounded to float32
    assert torch.equal(turned(q, 0), q)


@given(seed=SEEDS, tokens=st.integers(0, 4), width=st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_silu_mul_is_the_gated_product(seed: int, tokens: int, width: int) -> None:
    gate_up = random(seed, tokens, 2 * width) * 5
    gate, up = gate_up[:, :width], gate_up[:, width:]
    assert torch.allclose(silu_mul(gate_up), gate * up * (1 + torch.tanh(gate / 2)) / 2)


@given(
    seed=SEEDS,
    experts=st.integers(1, 20),
    data=st.data(),
    scoring=st.sampled_from(["softmax", "sigmoid"]),
    biased=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_routing_takes_the_best_experts(
    seed: int, experts: int, data: st.DataObject, scoring: str, biased: bool
) -> None:
    top_k = data.draw(st.integers(1, experts))
    logits = random(seed, 6, experts).mul(2).round().div(2).float()  # with equals
    bias = random(seed + 1, experts).mul(2).round().float() if biased else None
    weights, chosen = moe_route(logits, top_k, scoring=scoring, renormalize=True, scale=2.0, bias=bias)
    raw, same = moe_route(logits, top_k, scoring=scoring, renormalize=False, bias=bias)
    assert torch.equal(chosen, same)
    assert torch.allclose(weights.sum(-1), torch.full((6,), 2.0))
    assert torch.allclose(weights, 2 * raw / raw.sum(-1, keepdim=True))
    preference = torch.softmax(logits, -1) if scoring == "softmax" else torch.sigmoid(logits)
    preference = preference if bias is None else preference + bias
    for token in range(6):
        taken = chosen[token].tolist()
        assert len(set(taken)) == top_k
        keys = [(-float(preference[token, expert]), expert) for expert in range(experts)]
        assert [keys[expert] for expert in taken] == sorted(keys)[:top_k]


@given(
    seed=SEEDS,
    groups=st.integers(2, 5),
    size=st.integers(2, 4),
    data=st.data(),
    scoring=st.sampled_from(["softmax", "sigmoid"]),
)
@settings(max_examples=60, deadline=None)
def test_routing_by_groups_chooses_in_the_best_groups_alone(
    seed: int, groups: int, size: int, data: st.DataObject, scoring: str
) -> None:
    top_groups = data.draw(st.integers(1, groups))
    top_k = data.draw(st.integers(1, size * top_groups))
    logits = random(seed, 4, groups * size).float()
    # Negative biases: a group that is left out must not come back because its masked scores are larger.
    bias = random(seed + 1, groups * size).float() - 3 if scoring == "sigmoid" else None
    common: dict[str, Any] = {"scoring": scoring, "renormalize": False, "bias": bias}
    weights, chosen = moe_route(logits, top_k, groups=groups, top_groups=top_groups, **common)
    scores = torch.softmax(logits, -1) if scoring == "softmax" else torch.sigmoid(logits)
    preference = (scores if bias is None else scores + bias).view(4, groups, size)
    for token in range(4):
        ranked = [sorted(group.tolist(), reverse=True) for group in preference[token]]
        best = [group[0] if scoring == "softmax" else group[0] + group[1] for group in ranked]
        taken = sorted(range(groups), key=lambda g: -best[g])[:top_groups]
        inside = [expert for expert in range(groups * size) if expert // size in taken]
        expected = sorted(inside, key=lambda e: -float(preference[token].flatten()[e]))[:top_k]
        assert chosen[token].tolist() == expected
        assert torch.equal(weights[token], scores[token, chosen[token].long()])


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_choose_different_experts_in_range(scoring: str, groups: int, poison: float) -> None:
    logits = random(3, 3, 8).float()
    clean, expected = moe_route(logits, 3, scoring=scoring, renormalize=True, groups=groups, top_groups=min(groups, 2))
    logits[1] = poison
    weights, chosen = moe_route(logits, 3, scoring=scoring, renormalize=True, groups=groups, top_groups=min(groups, 2))
    assert len(set(chosen[1].tolist())) == 3 and chosen[1].min() >= 0 and chosen[1].max() < 8
    assert torch.equal(chosen[::2], expected[::2]) and torch.equal(weights[::2], clean[::2])


def test_scores_that_vanish_give_no_nan() -> None:
    weights, _ = moe_route(torch.full((1, 4), -1000.0), 2, scoring="sigmoid", renormalize=True)
    assert torch.equal(weights, torch.zeros(1, 2))


def test_experts_of_two_ranks_add_up_to_those_of_one() -> None:
    x, gate_up, down = random(1, 5, 6), random(2, 4, 2 * 3, 6), random(3, 4, 6, 3)
    weights, chosen = moe_route(random(4, 5, 4), 2, scoring="softmax", renormalize=True)
    first = chosen.where(chosen < 3, -1)
    second = (chosen - 3).where(chosen >= 3, -1)
    parts = moe_mlp(x, gate_up[:3], down[:3], weights, first) + moe_mlp(x, gate_up[3:], down[3:], weights, second)
    assert torch.allclose(parts, moe_mlp(x, gate_up, down, weights, chosen))


@given(
    seed=SEEDS,
    tokens=st.integers(0, 6),
    experts=st.integers(1, 5),
    hidden=st.integers(1, 12),
    width=st.integers(1, 12),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_the_layer_of_experts_is_grouped_products_around_an_activation(
    seed: int, tokens: int, experts: int, hidden: int, width: int, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, experts))
    x, gate_up = random(seed, tokens, hidden), random(seed + 1, experts, 2 * width, hidden)
    down = random(seed + 2, experts, hidden, width)
    weights, chosen = moe_route(random(seed + 3, tokens, experts), top_k, scoring="softmax", renormalize=True)
    order = chosen.flatten().argsort(stable=True)
    offsets = torch.tensor([0, *torch.bincount(chosen.flatten(), minlength=experts).tolist()]).cumsum(0).int()
    activated = silu_mul(grouped_gemm(x[order // top_k], gate_up, offsets))
    results = torch.zeros(tokens * top_k, hidden, dtype=torch.float64)
    results[order] = grouped_gemm(activated, down, offsets)
    expected = (results.view(tokens, top_k, hidden) * weights[..., None]).sum(1)
    assert torch.allclose(moe_mlp(x, gate_up, down, weights, chosen), expected)


X = torch.zeros(4, 8)
INTS = torch.zeros(5, dtype=torch.int32)


def sampled(**changes: Any) -> object:
    parameters: dict[str, Any] = {
        "temperature": torch.ones(4),
        "top_k": torch.zeros(4, dtype=torch.int32),
        "top_p": torch.ones(4),
        "min_p": torch.zeros(4),
        "uniform": torch.zeros(4, dtype=torch.float64),
    }
    return sample_tokens(changes.pop("logits", X), **parameters | changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rms_norm(X, torch.ones(7), eps=1e-5), r"weight has shape \[7\]; it must be \[8\]"),
        (lambda: rms_norm(X, torch.ones(8).half(), eps=1e-5), r"weight has dtype torch.float16; it must be torch.fl"),
        (lambda: rms_norm(X, torch.ones(8), eps=1e-5, residual=X[:2]), r"residual has shape \[2, 8\]; it must be"),
        (lambda: rotary(X[:, None, :5], X[:, :2], X[:, :2]), r"x has head_dim 5; it must be even"),
        (lambda: rotary(X[:, None], X[:, :3], X[:, :4]), r"cos has shape \[4, 3\]; it must be \[4, 4\]"),
        (lambda: rotary(X[:, None], X[:, :4], X[:, :4].double()), r"sin has dtype torch.float64"),
        (lambda: silu_mul(X[:, :5]), r"gate_up has 5 columns; they must be even"),
        (lambda: moe_route(X, 9, scoring="softmax", renormalize=True), r"top_k=9; it must be 1..8"),
        (lambda: moe_route(X, 1, scoring="sigmoid", renormalize=True, groups=3), r"groups=3; it must divide the 8"),
        (lambda: moe_route(X, 3, scoring="sigmoid", renormalize=True, groups=4), r"top_k=3; 1 of 4 groups have 2"),
        (
            lambda: moe_route(X, 2, scoring="sigmoid", renormalize=True, groups=4, top_groups=5),
            r"top_groups=5; it must be 1..4",
        ),
        (lambda: moe_route(X, 2, scoring="relu", renormalize=True), r"scoring='relu' is unknown"),
        (lambda: moe_route(X, 2, scoring="sigmoid", renormalize=True, bias=X[0, :3]), r"bias has shape \[3\]"),
        (lambda: grouped_gemm(X, torch.zeros(4, 3, 7), INTS), r"weight has shape \[4, 3, 7\]; it must be"),
        (lambda: grouped_gemm(X, torch.zeros(4, 3, 8), INTS[:4]), r"offsets has shape \[4\]; it must be \[5\]"),
        (
            lambda: grouped_gemm(X, torch.zeros(4, 3, 8), INTS + 1),
            r"offsets are \[1, 1, 1, 1, 1\]; they must start at 0",
        ),
        (
            lambda: moe_mlp(X, torch.zeros(2, 6, 8), torch.zeros(2, 8, 3), torch.ones(4, 1), INTS[:4, None] + 2),
            r"experts go from 2 to 2; they must be 0..1",
        ),
        (lambda: sampled(top_k=torch.zeros(4)), r"top_k has dtype torch.float32; it must be torch.int32"),
        (lambda: sampled(uniform=torch.zeros(3, dtype=torch.float64)), r"uniform has shape \[3\]; it must be \[4\]"),
        (lambda: sampled(logits=X[:, :0]), r"logits has no column"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()
