"""The definitions of `moe_route`, `grouped_gemm` and `moe_mlp` in plain torch. The last two read values on the host."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import silu

from ..kernel import Band
from ..registry import register


@register("moe_route", name="reference", band=Band.REFERENCE)
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
    """Any device and dtype. A stable sort, for topk leaves the order of equals open."""
    scores = logits.float().softmax(-1) if scoring == "softmax" else logits.float().sigmoid()
    preference = scores if bias is None else scores + bias
    if groups > 1:
        grouped = preference.unflatten(1, (groups, -1))
        best = grouped.sort(dim=-1, descending=True).values[..., : 1 if scoring == "softmax" else 2].sum(-1)
        taken = best.sort(dim=-1, descending=True, stable=True).indices[:, :top_groups]
        open_groups = torch.zeros_like(best, dtype=torch.bool).scatter_(1, taken, True)
        preference = grouped.where(open_groups[..., None], -torch.inf).flatten(1)
    experts = preference.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = scores.gather(1, experts)
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * scale, experts.int()


@register("grouped_gemm", name="reference", band=Band.REFERENCE)
def grouped_gemm(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """Any device and dtype; one product for each group, in float32 or float64."""
    bounds = offsets.tolist()
    if bounds[0] != 0 or bounds[-1] > len(x) or any(a > b for a, b in pairwise(bounds)):
        raise ValueError(f"offsets are {bounds}; they must start at 0, not decrease and end by {len(x)}, x's rows")
    precision = torch.promote_types(x.dtype, torch.float32)
    out = torch.zeros(len(x), weight.shape[1], dtype=x.dtype, device=x.device)
    for group, (first, last) in enumerate(pairwise(bounds)):
        if first < last:
            out[first:last] = (x[first:last].to(precision) @ weight[group].to(precision).T).to(x.dtype)
    return out


@register("moe_mlp", name="reference", band=Band.REFERENCE)
def moe_mlp(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
    """Any device and dtype; expert by expert over the tokens that chose it, in float32 or float64."""
    number = len(down)
    if experts.numel() and not -1 <= int(experts.min()) <= int(experts.max()) < number:
        least, most = int(experts.min()), int(experts.max())
        raise ValueError(f"experts go from {least} to {most}; they must be 0..{number - 1}, or -1 for none")
    precision = torch.promote_types(x.dtype, torch.float32)
    out = torch.zeros(x.shape, dtype=precision, device=x.device)
    for expert in range(number):
        token, choice = (experts == expert).nonzero(as_tuple=True)
        if len(token):
            gate, up = (x[token].to(precision) @ gate_up[expert].to(precision).T).chunk(2, dim=-1)
            result = (silu(gate) * up) @ down[expert].to(precision).T
            out.index_add_(0, token, weights[token, choice, None].to(precision) * result)
    return out.to(x.dtype)
