"""Mixture of experts: routing tokens, multiplying groups of rows, and the feed-forward layer made of both."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_dtype, check_same_device, check_shape
from ..registry import REGISTRY

SCORINGS = ("softmax", "sigmoid")
"""How `moe_route` turns logits into scores: over all experts, or each by itself."""

_ROUTE = REGISTRY.declare("moe_route", traits=("experts", "top_k", "scoring", "groups"), folder=__name__)
_GEMM = REGISTRY.declare("grouped_gemm", traits=("groups", "columns", "inner"), folder=__name__)
_MLP = REGISTRY.declare("moe_mlp", traits=("experts", "top_k", "hidden", "width"), folder=__name__)


def moe_route(
    logits: Tensor,
    top_k: int,
    *,
    scoring: str,
    renormalize: bool,
    scale: float = 1.0,
    bias: Tensor | None = None,
    groups: int = 1,
    top_groups: int = 1,
    kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose the experts of each token and their weights.

    Scores are softmax(logits) as in Mixtral (arXiv:2401.04088) or sigmoid(logits) as in DeepSeek-V3 (arXiv:2412.19437);
    the `top_k` experts with the largest score + bias are chosen, the lower number among equals.

    logits: [tokens, experts], any float dtype; computed in float32
    scoring: "softmax" or "sigmoid"
    renormalize: whether the chosen experts' scores are divided by their sum (plus 1e-20, for scores that vanish)
    scale: factor of the weights after that
    bias: float32 [experts], finite, added to choose only, never to the weights; None adds nothing
    groups: neighbouring experts form so many groups, of which a token takes `top_groups` and chooses among their
        experts alone. A group's score is its largest score for softmax (DeepSeek-V2, arXiv:2405.04434), for sigmoid
        the sum of its two largest scores + bias (DeepSeek-V3)
    kernel: name of the kernel to use instead of the registry's choice

    Of a row with NaN the choice is arbitrary, but its experts are different and in range.
    Returns weights float32 [tokens, top_k] and experts int32 [tokens, top_k], largest score + bias first.
    Raises ValueError or TypeError naming the argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("logits", logits, "tokens", "experts")
    experts = logits.shape[1]
    if scoring not in SCORINGS:
        raise ValueError(f"scoring={scoring!r} is unknown; give one of {', '.join(SCORINGS)}")
    if not 1 <= top_k <= experts:
        raise ValueError(f"top_k={top_k}; it must be 1..{experts}, the experts of logits")
    if bias is not None:
        check_shape("bias", bias, experts)
        check_dtype("bias", bias, torch.float32)
        check_same_device(logits=logits, bias=bias)
    if groups < 1 or experts % groups:
        raise ValueError(f"groups={groups}; it must divide the {experts} experts of logits")
    if not 1 <= top_groups <= groups:
        raise ValueError(f"top_groups={top_groups}; it must be 1..{groups}, the groups")
    if top_k > experts // groups * top_groups:
        raise ValueError(
            f"top_k={top_k}; {top_groups} of {groups} groups have {experts // groups * top_groups} experts"
        )
    if top_groups == groups:
        groups = top_groups = 1
    selection = _ROUTE.select(logits.device, logits.dtype, (experts, top_k, scoring, groups), kernel)
    weights: Tensor
    chosen: Tensor
    weights, chosen = selection.kernel.run(
        logits,
        top_k,
        scoring=scoring,
        renormalize=renormalize,
        scale=scale,
        bias=bias,
        groups=groups,
        top_groups=top_groups,
    )
    return weights, chosen


def grouped_gemm(x: Tensor, weight: Tensor, offsets: Tensor, *, kernel: str | None = None) -> Tensor:
    """Multiply consecutive rows by the matrix of their group: out[r] = weight[g] @ x[r] for offsets[g] <= r <
    offsets[g + 1].

    x: [rows, inner]
    weight: [groups, columns, inner], dtype of x
    offsets: int32 [groups + 1], from 0 on, not decreasing, at most rows; groups may be empty
    kernel: name of the kernel to use instead of the registry's choice

    Returns [rows, columns] in x's dtype; rows from the last offset on are undefined. How many rows a group has is read
    on the device: nothing is synchronised, except by the reference. Raises ValueError or TypeError naming the
    argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("x", x, "rows", "inner")
    check_shape("weight", weight, "groups", "columns", x.shape[1])
    groups, columns, inner = weight.shape
    check_shape("offsets", offsets, groups + 1)
    check_dtype("weight", weight, x.dtype)
    check_dtype("offsets", offsets, torch.int32)
    check_same_device(x=x, weight=weight, offsets=offsets)
    product: Tensor = _GEMM.select(x.device, x.dtype, (groups, columns, inner), kernel).kernel.run(x, weight, offsets)
    return product


def moe_mlp(
    x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor, *, kernel: str | None = None
) -> Tensor:
    """The feed-forward layers of each token's experts, summed by weight:
    sum over k of weights[t, k] * down[e] @ (silu(gate) * up), where (gate, up) = gate_up[e] @ x[t], e = experts[t, k].

    x: [tokens, hidden]
    gate_up: [experts, 2 * width, hidden], dtype of x: the gate's rows, then the factors'
    down: [experts, hidden, width], dtype of x
    weights, experts: float32 and int32 [tokens, top_k], as `moe_route` returns them; experts of a token are different.
        A choice of -1 is left out: of an expert that another rank holds
    kernel: name of the kernel to use instead of the registry's choice

    Returns [tokens, hidden] in x's dtype; products are accumulated in float32. Raises ValueError or TypeError naming
    the argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("x", x, "tokens", "hidden")
    tokens, hidden = x.shape
    check_shape("down", down, "experts", hidden, "width")
    number, _, width = down.shape
    check_shape("gate_up", gate_up, number, 2 * width, hidden)
    check_shape("weights", weights, tokens, "top_k")
    check_shape("experts", experts, tokens, weights.shape[1])
    check_dtype("gate_up", gate_up, x.dtype)
    check_dtype("down", down, x.dtype)
    check_dtype("weights", weights, torch.float32)
    check_dtype("experts", experts, torch.int32)
    check_same_device(x=x, gate_up=gate_up, down=down, weights=weights, experts=experts)
    traits = (number, weights.shape[1], hidden, width)
    result: Tensor = _MLP.select(x.device, x.dtype, traits, kernel).kernel.run(x, gate_up, down, weights, experts)
    return result
