"""`silu_mul` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from ..kernel import Band
from ..registry import register


@register("silu_mul", name="reference", band=Band.REFERENCE)
def silu_mul(gate_up: Tensor) -> Tensor:
    """Any device and dtype."""
    gate, up = gate_up.to(torch.promote_types(gate_up.dtype, torch.float32)).chunk(2, dim=-1)
    return (silu(gate) * up).to(gate_up.dtype)
