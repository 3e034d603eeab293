"""The gated activation of feed-forward layers."""

from __future__ import annotations

from torch import Tensor

from ..arguments import check_shape
from ..registry import REGISTRY

_OPERATION = REGISTRY.declare("silu_mul", traits=("width",), folder=__name__)


def silu_mul(gate_up: Tensor, *, kernel: str | None = None) -> Tensor:
    """silu(gate) * up (SwiGLU: Shazeer 2020, arXiv:2002.05202), silu(x) = x / (1 + exp(-x)).

    gate_up: [tokens, 2 * width], the gate's values, then the factors; last dimension contiguous
    kernel: name of the kernel to use instead of the registry's choice

    Returns [tokens, width], contiguous, in gate_up's dtype; computed in float32 (float64 if gate_up is), rounded once.
    Raises ValueError naming the argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("gate_up", gate_up, "tokens", "2 * width")
    if gate_up.shape[1] % 2:
        raise ValueError(f"gate_up has {gate_up.shape[1]} columns; they must be even, gates and factors")
    selection = _OPERATION.select(gate_up.device, gate_up.dtype, (gate_up.shape[1] // 2,), kernel)
    product: Tensor = selection.kernel.run(gate_up)
    return product
