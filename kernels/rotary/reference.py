"""`rotary` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernel import Band
from ..registry import register


@register("rotary", name="reference", band=Band.REFERENCE)
def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Any device and dtype."""
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
