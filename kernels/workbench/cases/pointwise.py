"""Cases of `rms_norm`, `rotary` and `silu_mul`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch

from ...activation import silu_mul
from ...norm import rms_norm
from ...rotary import rotary
from .case import DTYPES, EXACT, TOLERANCES, Case, MakeCase, Results


def makers() -> Iterator[tuple[str, MakeCase]]:
    """Sizes of models, and sizes that fill no block; inputs that are part of wider tensors."""
    for dtype in DTYPES:
        for tokens, hidden, residual in ((5, 576, False), (9, 7168, True), (2, 100, True)):
            yield "rms_norm", partial(_norm_case, tokens, hidden, residual, dtype)
        for tokens, heads, head_dim in ((7, 12, 64), (5, 5, 80), (2, 40, 128)):
            yield "rotary", partial(_rotary_case, tokens, heads, head_dim, dtype)
        for tokens, width in ((5, 1536), (9, 100)):
            yield "silu_mul", partial(_silu_case, tokens, width, dtype)


def _norm_case(
    tokens: int, hidden: int, residual: bool, dtype: torch.dtype, device: torch.device, random: torch.Generator
) -> Case:
    # The first row is nearly zero, so that eps matters; the last one is large.
    x = torch.randn(tokens, hidden + 8, generator=random)
    x[0] *= 1e-3
    x[-1] *= 30.0
    x = x.to(dtype)[:, :hidden]
    added = torch.randn(tokens, hidden, generator=random).to(dtype)
    added[0] *= 1e-3
    weight = torch.randn(hidden, generator=random).to(dtype)
    eps = 1e-5
    # The sum is rounded before it is normalised: layers after this one read the rounded sum as well.
    total = (x.double() + added.double()).to(dtype).double() if residual else x.double()
    mean_square = torch.tensor([math.fsum(value * value for value in row) / hidden for row in total.tolist()])
    normed = total * weight.double() / (mean_square.double()[:, None] + eps).sqrt()
    placed = [tensor.to(device) for tensor in (x, weight, added)]

    def run(kernel: str) -> Results:
        return rms_norm(placed[0], placed[1], eps=eps, residual=placed[2] if residual else None, kernel=kernel)

    description = f"{tokens} x {hidden}{', residual' if residual else ''}"
    exact = (normed.to(device), total.to(device))
    tolerances = (TOLERANCES[dtype], EXACT)
    return Case("rms_norm", description, dtype, (hidden, int(residual)), run, exact, tolerances)


def _rotary_case(
    tokens: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device, random: torch.Generator
) -> Case:
    x = torch.randn(tokens, heads + 2, head_dim, generator=random).to(dtype)[:, 1:-1]
    angles = torch.rand(tokens, head_dim // 2, generator=random) * 100.0
    cos, sin = angles.cos(), angles.sin()
    # A pair is a complex number, and turns by a factor.
    pairs = torch.complex(*x.double().unflatten(-1, (2, -1)).unbind(-2))
    turned = pairs * torch.complex(cos.double(), sin.double())[:, None]
    exact = torch.cat([turned.real, turned.imag], dim=-1).to(device)
    placed = [tensor.to(device) for tensor in (x, cos, sin)]

    def run(kernel: str) -> Results:
        return (rotary(*placed, kernel=kernel),)

    description = f"{tokens} tokens, {heads} heads, head_dim {head_dim}"
    return Case("rotary", description, dtype, (heads, head_dim), run, (exact,), (TOLERANCES[dtype],))


def _silu_case(tokens: int, width: int, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> Case:
    gate_up = torch.randn(tokens, 2 * width + 3, generator=random)
    gate_up[0] *= 50.0  # exponentials that overflow and underflow
    gate_up = gate_up.to(dtype)[:, : 2 * width]
    gate, up = gate_up.double().chunk(2, dim=-1)
    exact = (gate / (1.0 + torch.exp(-gate)) * up).to(device)
    placed = gate_up.to(device)

    def run(kernel: str) -> Results:
        return (silu_mul(placed, kernel=kernel),)

    return Case("silu_mul", f"{tokens} x {width}", dtype, (width,), run, (exact,), (TOLERANCES[dtype],))
