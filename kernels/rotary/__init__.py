"""Rotary position embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_dtype, check_same_device, check_shape
from ..registry import REGISTRY

_OPERATION = REGISTRY.declare("rotary", traits=("heads", "head_dim"), folder=__name__)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, *, kernel: str | None = None) -> Tensor:
    """Rotate pairs of values by their token's angles (Su et al. 2021, arXiv:2104.09864).

    Pairs are (value i, value i + head_dim / 2), the convention of Llama checkpoints in Hugging Face's layout. Queries
    and keys that are neighbours in one tensor turn in one call. The angles depend on the position only: a model gathers
    them once for a step and uses them in all layers.

    x: [tokens, heads, head_dim], head_dim even, last dimension contiguous
    cos, sin: float32 [tokens, head_dim / 2], contiguous
    kernel: name of the kernel to use instead of the registry's choice

    Returns [tokens, heads, head_dim], contiguous, in x's dtype; computed in float32 (float64 if x is) and rounded once.
    Raises ValueError or TypeError naming the argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("x", x, "tokens", "heads", "head_dim")
    tokens, heads, head_dim = x.shape
    if head_dim % 2:
        raise ValueError(f"x has head_dim {head_dim}; it must be even, for values turn in pairs")
    for name, tensor in (("cos", cos), ("sin", sin)):
        check_shape(name, tensor, tokens, head_dim // 2)
        check_dtype(name, tensor, torch.float32)
    check_same_device(x=x, cos=cos, sin=sin)
    selection = _OPERATION.select(x.device, x.dtype, (heads, head_dim), kernel)
    turned: Tensor = selection.kernel.run(x, cos, sin)
    return turned
