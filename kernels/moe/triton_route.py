"""`moe_route` in Triton: a program scores the experts of one token and takes the largest, one after another."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..constraints import at_most, exactly
from ..kernel import Band
from ..registry import register
from ..triton_support import DTYPES, PLATFORMS, next_power_of_two


@triton.jit  # type: ignore[untyped-decorator]
def route_token(
    logits_ptr: tl.tensor,  # [tokens, experts] with strides
    bias_ptr: tl.tensor,  # float32 [experts]
    weight_ptr: tl.tensor,  # float32 [tokens, top_k]
    expert_ptr: tl.tensor,  # int32 [tokens, top_k]
    token_stride: tl.tensor,
    expert_stride: tl.tensor,
    experts: tl.tensor,
    top_k: tl.tensor,
    scale: tl.tensor,
    SOFTMAX: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
) -> None:
    """Grid: (tokens,). EXPERTS and CHOICES are powers of two of at least `experts` and `top_k`."""
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, EXPERTS)
    inside = expert < experts
    source = logits_ptr + token * token_stride + expert * expert_stride
    logits = tl.load(source, mask=inside, other=float("-inf")).to(tl.float32)
    if SOFTMAX:
        powers = tl.exp(logits - tl.max(logits, 0))
        scores = powers / tl.sum(powers, 0)
    else:
        scores = 1.0 / (1.0 + tl.exp(-logits))
    preference = scores
    if HAS_BIAS:
        preference += tl.load(bias_ptr + expert, mask=inside, other=0.0)
    preference = tl.where(inside, preference, float("-inf"))
    choice = tl.arange(0, CHOICES)
    chosen = tl.zeros([CHOICES], tl.int32)
    weights = tl.zeros([CHOICES], tl.float32)
    for index in range(0, top_k):
        best = tl.argmax(preference, 0)  # the lower number among equals
        chosen = tl.where(choice == index, best, chosen)
        weights = tl.where(choice == index, tl.sum(tl.where(expert == best, scores, 0.0), 0), weights)
        preference = tl.where(expert == best, float("-inf"), preference)
    if RENORMALIZE:
        weights = weights / (tl.sum(weights, 0) + 1e-20)
    target = token * top_k + choice
    tl.store(weight_ptr + target, weights * scale, mask=choice < top_k)
    tl.store(expert_ptr + target, chosen, mask=choice < top_k)


@register(
    "moe_route",
    name="triton_argmax",
    band=Band.PORTABLE,
    platforms=PLATFORMS,
    dtypes=DTYPES,
    traits={"experts": at_most(2048), "top_k": at_most(32), "groups": exactly(1)},
)
def moe_route(
    logits: Tensor,
    top_k: int,
    *,
    scoring: str,
    renormalize: bool,
    scale: float,
    bias: Tensor | None,
    groups: int,
    top_groups: int,
) -> tuple[Tensor, Tensor]:
    """One launch. Arguments as in the public `moe_route`."""
    tokens, experts = logits.shape
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=logits.device)
    chosen = torch.empty(tokens, top_k, dtype=torch.int32, device=logits.device)
    if tokens == 0:
        return weights, chosen
    with torch.cuda.device_of(logits):  # Triton launches on the current device, which need not be logits'
        route_token[(tokens,)](
            logits,
            weights if bias is None else bias.contiguous(),
            weights,
            chosen,
            *logits.stride(),
            experts,
            top_k,
            scale,
            SOFTMAX=scoring == "softmax",
            HAS_BIAS=bias is not None,
            RENORMALIZE=renormalize,
            EXPERTS=next_power_of_two(experts),
            CHOICES=next_power_of_two(top_k),
            num_warps=1 if experts <= 256 else 4,
        )
    return weights, chosen
