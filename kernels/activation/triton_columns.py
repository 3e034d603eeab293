"""`silu_mul` in Triton: a program computes a stretch of one row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import Band
from ..registry import register
from ..triton_support import DTYPES, PLATFORMS, next_power_of_two

COLUMNS = 1024


@triton.jit  # type: ignore[untyped-decorator]
def gate_columns(
    gate_up_ptr: tl.tensor,  # [tokens, 2 * width] with stride
    out_ptr: tl.tensor,  # [tokens, width]
    stride: tl.tensor,
    width: tl.tensor,
    COLUMNS: tl.constexpr,
) -> None:
    """Grid: (tokens, width / COLUMNS)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    gate = tl.load(gate_up_ptr + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * stride + width + column, mask=inside, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * width + column, product.to(out_ptr.dtype.element_ty), mask=inside)


@register("silu_mul", name="triton_columns", band=Band.PORTABLE, platforms=PLATFORMS, dtypes=DTYPES)
def silu_mul(gate_up: Tensor) -> Tensor:
    """One launch. Arguments as in the public `silu_mul`."""
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(tokens, width, dtype=gate_up.dtype, device=gate_up.device)
    if out.numel() == 0:
        return out
    source = gate_up if gate_up.stride(1) == 1 else gate_up.contiguous()
    columns = min(COLUMNS, next_power_of_two(width))
    with torch.cuda.device_of(gate_up):  # Triton launches on the current device, which need not be gate_up's
        gate_columns[(tokens, triton.cdiv(width, columns))](
            source, out, source.stride(0), width, COLUMNS=columns, num_warps=4
        )
    return out
