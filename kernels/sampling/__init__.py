"""Choosing tokens from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_dtype, check_same_device, check_shape
from ..registry import REGISTRY

_OPERATION = REGISTRY.declare("sample_tokens", traits=("vocab",), folder=__name__)


def sample_tokens(
    logits: Tensor,
    *,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    uniform: Tensor,
    kernel: str | None = None,
) -> Tensor:
    """One token for each row: the most likely one, or one drawn from the filtered distribution.

    The filters apply in this order: temperature, top_k, top_p (nucleus: Holtzman et al. 2019, arXiv:1904.09751) over
    what top_k left, min_p (arXiv:2407.01082). Tokens as likely as the last one kept are kept too, so that the result
    does not depend on how equals are sorted. The token is found by inverting the cumulative distribution, in the order
    of the vocabulary, at `uniform`: equal inputs give equal tokens, whatever else is in the batch.

    logits: [rows, vocab], any float dtype
    temperature: float32 [rows]; 0 takes the most likely token and ignores the filters
    top_k: int32 [rows]: keep this many most likely tokens; 0 keeps all
    top_p: float32 [rows], above 0 and at most 1: keep the fewest most likely tokens whose probabilities reach this sum
    min_p: float32 [rows], 0 up to, not including, 1: drop tokens less likely than this part of the most likely one
    uniform: float64 [rows], 0 up to, not including, 1
    kernel: name of the kernel to use instead of the registry's choice

    Returns int64 [rows], always tokens that exist, even for logits that are NaN. Raises ValueError or TypeError naming
    the argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("logits", logits, "rows", "vocab")
    rows, vocab = logits.shape
    if vocab == 0:
        raise ValueError("logits has no column; there is no token to choose")
    parameters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "uniform": uniform}
    for name, tensor in parameters.items():
        check_shape(name, tensor, rows)
        check_dtype(name, tensor, {"top_k": torch.int32, "uniform": torch.float64}.get(name, torch.float32))
    check_same_device(logits=logits, **parameters)
    selection = _OPERATION.select(logits.device, logits.dtype, (vocab,), kernel)
    tokens: Tensor = selection.kernel.run(logits, **parameters)
    return tokens
