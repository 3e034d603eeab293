"""Cases of `moe_route`, `grouped_gemm` and `moe_mlp`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch

from ...moe import grouped_gemm, moe_mlp, moe_route
from .case import DTYPES, EXACT, TOLERANCES, Case, MakeCase, RelativeError, Results, tolerance


def makers() -> Iterator[tuple[str, MakeCase]]:
    """Both scorings, with and without bias; groups that are empty, ragged and larger than a tile; few and many rows."""
    for dtype in DTYPES:
        for experts, top_k, scoring, extras in (
            (8, 2, "softmax", True),
            (60, 4, "softmax", False),
            (256, 8, "sigmoid", True),
        ):
            yield "moe_route", partial(_route_case, experts, top_k, scoring, extras, dtype)
        yield "grouped_gemm", partial(_gemm_case, [0, 1, 17, 40, 0, 3], 80, 96, dtype)
        yield "grouped_gemm", partial(_gemm_case, [150, 0, 70], 136, 72, dtype)
        for tokens, experts, top_k, hidden, width in ((33, 8, 2, 96, 80), (3, 16, 4, 64, 48), (70, 2, 2, 128, 64)):
            yield "moe_mlp", partial(_mlp_case, tokens, experts, top_k, hidden, width, dtype)


def _route_case(
    experts: int,
    top_k: int,
    scoring: str,
    extras: bool,
    dtype: torch.dtype,
    device: torch.device,
    random: torch.Generator,
) -> Case:
    """`extras`: bias (for sigmoid), renormalisation and a scale. The logits of a token lie evenly apart, so that no
    rounding changes which are the largest; some are equal."""
    tokens = 9
    even = torch.linspace(-4.0, 4.0, experts)
    logits = torch.stack([even[torch.randperm(experts, generator=random)] for _ in range(tokens)]).to(dtype)
    logits[:, 1] = logits[:, 0]
    bias = torch.randint(0, 2, (experts,), generator=random) * 0.5 if extras and scoring == "sigmoid" else None
    scale = 2.5 if extras else 1.0
    weights, chosen = [], []
    for row in logits.tolist():
        if scoring == "softmax":
            total = math.fsum(map(math.exp, row))
            scores = [math.exp(logit) / total for logit in row]
        else:
            scores = [1.0 / (1.0 + math.exp(-logit)) for logit in row]
        preference = scores if bias is None else [a + b for a, b in zip(scores, bias.tolist(), strict=True)]
        best = sorted(range(experts), key=lambda expert: (-preference[expert], expert))[:top_k]
        divisor = math.fsum(scores[expert] for expert in best) if extras else 1.0
        weights.append([scores[expert] / divisor * scale for expert in best])
        chosen.append(best)
    exact = (torch.tensor(weights, dtype=torch.float64, device=device), torch.tensor(chosen, device=device).double())
    placed = logits.to(device)
    placed_bias = None if bias is None else bias.float().to(device)

    def run(kernel: str) -> Results:
        return moe_route(
            placed, top_k, scoring=scoring, renormalize=extras, scale=scale, bias=placed_bias, kernel=kernel
        )

    description = f"{top_k} of {experts} by {scoring}{', renormalised' if extras else ''}"
    traits, allowed = (experts, top_k, scoring, 1), (TOLERANCES[torch.float32], EXACT)  # computed in float32
    return Case("moe_route", description, dtype, traits, run, exact, allowed)


def _gemm_case(
    sizes: list[int], columns: int, inner: int, dtype: torch.dtype, device: torch.device, random: torch.Generator
) -> Case:
    used = sum(sizes)
    x = torch.randn(used + 2, inner, generator=random).to(dtype)  # two rows belong to no group
    weight = torch.randn(len(sizes), columns, inner, generator=random).to(dtype)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    exact = torch.einsum("ri,rci->rc", x[:used].double(), weight.double()[group]).to(device)
    offsets = torch.tensor([0, *sizes]).cumsum(0).int()
    placed = [tensor.to(device) for tensor in (x, weight, offsets)]

    def run(kernel: str) -> Results:
        return (grouped_gemm(*placed, kernel=kernel)[:used],)

    description = f"groups of {', '.join(map(str, sizes))}, {inner} to {columns}"
    traits = (len(sizes), columns, inner)
    return Case("grouped_gemm", description, dtype, traits, run, (exact,), (TOLERANCES[dtype],))


def _mlp_case(
    tokens: int,
    experts: int,
    top_k: int,
    hidden: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    random: torch.Generator,
) -> Case:
    x = torch.randn(tokens, hidden, generator=random).to(dtype)
    gate_up = (torch.randn(experts, 2 * width, hidden, generator=random) * hidden**-0.5).to(dtype)
    down = (torch.randn(experts, hidden, width, generator=random) * width**-0.5).to(dtype)
    weights = torch.rand(tokens, top_k, generator=random)
    chosen = torch.stack([torch.randperm(experts, generator=random)[:top_k] for _ in range(tokens)])
    # Every expert for every token, and a matrix of weights that is zero where it was not chosen.
    gate, up = torch.einsum("th,ech->tec", x.double(), gate_up.double()).chunk(2, dim=-1)
    every = torch.einsum("tew,ehw->teh", gate / (1.0 + torch.exp(-gate)) * up, down.double())
    share = torch.zeros(tokens, experts, dtype=torch.float64).scatter_(1, chosen, weights.double())
    exact = torch.einsum("te,teh->th", share, every).to(device)
    placed = [tensor.to(device) for tensor in (x, gate_up, down, weights, chosen.int())]

    def run(kernel: str) -> Results:
        return (moe_mlp(*placed, kernel=kernel),)

    description = f"{tokens} tokens, {top_k} of {experts} experts, {hidden} to {width}"
    # What lies between the two products is rounded to the dtype, then each expert's result, then their sum: three
    # roundings, sqrt(3) * 1.66e-3 = 2.9e-3, and more where experts' results cancel. Results in float32 would be within
    # 2.5e-3, but a prompt would move a sixth more bytes.
    allowed = tolerance(dtype, RelativeError(3.5e-3, 4e-3))
    return Case("moe_mlp", description, dtype, (experts, top_k, hidden, width), run, (exact,), (allowed,))
