"""`rms_norm` in plain torch."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import rms_norm as torch_rms_norm

from ..kernel import Band
from ..registry import register


@register("rms_norm", name="reference", band=Band.REFERENCE)
def rms_norm(x: Tensor, weight: Tensor, residual: Tensor | None, *, eps: float) -> tuple[Tensor, Tensor]:
    """Any device and dtype."""
    total = x if residual is None else x + residual
    return torch_rms_norm(total, weight.shape, weight, eps), total
