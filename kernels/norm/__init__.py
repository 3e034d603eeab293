"""Root-mean-square normalisation, with the addition of the residual stream before it."""

from __future__ import annotations

from torch import Tensor

from ..arguments import check_dtype, check_same_device, check_shape
from ..registry import REGISTRY

_OPERATION = REGISTRY.declare("rms_norm", traits=("hidden", "residual"), folder=__name__)


def rms_norm(
    x: Tensor, weight: Tensor, *, eps: float, residual: Tensor | None = None, kernel: str | None = None
) -> tuple[Tensor, Tensor]:
    """RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) of x, or of x + residual.

    x: [tokens, hidden], last dimension contiguous
    weight: [hidden], dtype of x
    eps: added to the mean square
    residual: shape and dtype of x, last dimension contiguous
    kernel: name of the kernel to use instead of the registry's choice

    Returns (normed, total), both [tokens, hidden] in x's dtype: total = x + residual, rounded to the dtype, or x itself
    if there is no residual; normed = total / sqrt(mean(total**2) + eps) * weight. Inputs are left as they are.
    Raises ValueError or TypeError naming the argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("x", x, "tokens", "hidden")
    tokens, hidden = x.shape
    check_shape("weight", weight, hidden)
    check_dtype("weight", weight, x.dtype)
    check_same_device(x=x, weight=weight)
    if residual is not None:
        check_shape("residual", residual, tokens, hidden)
        check_dtype("residual", residual, x.dtype)
        check_same_device(x=x, residual=residual)
    selection = _OPERATION.select(x.device, x.dtype, (hidden, int(residual is not None)), kernel)
    normed: Tensor
    total: Tensor
    normed, total = selection.kernel.run(x, weight, residual, eps=eps)
    return normed, total
