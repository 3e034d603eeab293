"""`rotary` in Triton: a program turns some heads of one token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import Band
from ..registry import register
from ..triton_support import DTYPES, PLATFORMS, next_power_of_two

PAIRS = 1024
"""Pairs of a program: heads times half of head_dim."""


@triton.jit  # type: ignore[untyped-decorator]
def turn_pairs(
    x_ptr: tl.tensor,  # [tokens, heads, 2 * half] with strides
    cos_ptr: tl.tensor,  # float32 [tokens, half]
    sin_ptr: tl.tensor,  # float32 [tokens, half]
    out_ptr: tl.tensor,  # [tokens, heads, 2 * half]
    token_stride: tl.tensor,
    head_stride: tl.tensor,
    heads: tl.tensor,
    half: tl.tensor,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    """Grid: (tokens, heads / HEADS). HALF is a power of two of at least `half`."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, HALF)
    cos = tl.load(cos_ptr + token * half + pair, mask=pair < half, other=0.0)[None, :]
    sin = tl.load(sin_ptr + token * half + pair, mask=pair < half, other=0.0)[None, :]
    inside = (head < heads)[:, None] & (pair < half)[None, :]
    source = x_ptr + token * token_stride + head[:, None] * head_stride + pair[None, :]
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    target = out_ptr + (token * heads + head[:, None]) * (2 * half) + pair[None, :]
    tl.store(target, (first * cos - second * sin).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(target + half, (second * cos + first * sin).to(out_ptr.dtype.element_ty), mask=inside)


@register("rotary", name="triton_pairs", band=Band.PORTABLE, platforms=PLATFORMS, dtypes=DTYPES)
def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One launch. Arguments as in the public `rotary`."""
    tokens, heads, head_dim = x.shape
    out = torch.empty(tokens, heads, head_dim, dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    source = x if x.stride(2) == 1 else x.contiguous()
    half = head_dim // 2
    half_block = next_power_of_two(half)
    head_block = max(1, min(next_power_of_two(heads), PAIRS // half_block))
    with torch.cuda.device_of(x):  # Triton launches on the current device, which need not be x's
        turn_pairs[(tokens, triton.cdiv(heads, head_block))](
            source,
            cos.contiguous(),
            sin.contiguous(),
            out,
            source.stride(0),
            source.stride(1),
            heads,
            half,
            HEADS=head_block,
            HALF=half_block,
            num_warps=4,
        )
    return out
