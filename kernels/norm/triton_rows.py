"""`rms_norm` in Triton: one program holds one row, so that the addition, the mean and the scaling read it once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..constraints import at_most
from ..kernel import Band
from ..registry import register
from ..triton_support import DTYPES, PLATFORMS, next_power_of_two

LARGEST_ROW = 16_384
"""Values of a row that one program holds in registers."""


@triton.jit  # type: ignore[untyped-decorator]
def normalise_row(
    x_ptr: tl.tensor,  # [tokens, hidden] with stride
    residual_ptr: tl.tensor,  # [tokens, hidden] with stride
    weight_ptr: tl.tensor,  # [hidden]
    normed_ptr: tl.tensor,  # [tokens, hidden]
    total_ptr: tl.tensor,  # [tokens, hidden]
    x_stride: tl.tensor,
    residual_stride: tl.tensor,
    hidden: tl.tensor,
    eps: tl.tensor,
    HAS_RESIDUAL: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Grid: (tokens,). COLUMNS is a power of two of at least `hidden`."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < hidden
    total = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        total += tl.load(residual_ptr + row * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
        rounded = total.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * hidden + column, rounded, mask=inside)
        total = rounded.to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(total * total, 0) / hidden + eps)
    normed = total * scale * weight
    tl.store(normed_ptr + row * hidden + column, normed.to(normed_ptr.dtype.element_ty), mask=inside)


@register(
    "rms_norm",
    name="triton_rows",
    band=Band.PORTABLE,
    platforms=PLATFORMS,
    dtypes=DTYPES,
    traits={"hidden": at_most(LARGEST_ROW)},
)
def rms_norm(x: Tensor, weight: Tensor, residual: Tensor | None, *, eps: float) -> tuple[Tensor, Tensor]:
    """One launch. Arguments as in the public `rms_norm`."""
    tokens, hidden = x.shape
    source = _with_contiguous_rows(x)
    normed = torch.empty(tokens, hidden, dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(normed)
    if tokens * hidden == 0:
        return normed, total
    added = source if residual is None else _with_contiguous_rows(residual)
    columns = next_power_of_two(hidden)
    with torch.cuda.device_of(x):  # Triton launches on the current device, which need not be x's
        normalise_row[(tokens,)](
            source,
            added,
            weight.contiguous(),
            normed,
            total,
            source.stride(0),
            added.stride(0),
            hidden,
            eps,
            HAS_RESIDUAL=residual is not None,
            COLUMNS=columns,
            num_warps=max(1, min(16, columns // 512)),
        )
    return normed, total


def _with_contiguous_rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()
