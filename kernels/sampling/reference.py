"""`sample_tokens` in plain torch: sort, cumulative sums, search. Reads the parameters on the host."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..kernel import Band
from ..registry import register

_CANDIDATES: Final = 1024
"""Most likely tokens that the filters look at first: a nucleus is nearly always smaller, and sorting is what costs."""


@register("sample_tokens", name="reference", band=Band.REFERENCE)
def sample_tokens(
    logits: Tensor, *, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> Tensor:
    """Any device and dtype; probabilities in float32, their sums in float64."""
    tokens = logits.argmax(dim=-1)
    sampled = (temperature > 0).nonzero().flatten()
    if not len(sampled):
        return tokens
    if len(sampled) < len(logits):
        logits = logits[sampled]
        temperature, top_k, top_p, min_p, uniform = (
            parameter[sampled] for parameter in (temperature, top_k, top_p, min_p, uniform)
        )
    scaled = logits.float()
    # The maximum is subtracted before the division, so that a tiny temperature cannot overflow.
    shifted = scaled - scaled.amax(dim=-1, keepdim=True)
    probabilities = torch.softmax(shifted / temperature[:, None], dim=-1)
    filtered = ((top_k > 0) | (top_p < 1) | (min_p > 0)).nonzero().flatten()
    if len(filtered):
        some = probabilities[filtered]
        thresholds = _thresholds(some, top_k[filtered], top_p[filtered, None], min_p[filtered, None])
        probabilities[filtered] = some * (some >= thresholds)
    tokens[sampled] = _draw(probabilities, uniform)
    return tokens


def _thresholds(probabilities: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """The probability, [n, 1], below which the filters drop a token; probabilities [n, vocab], top_p, min_p [n, 1].

    A threshold on the value keeps tokens of equal probability together, whatever order a sort gives them.
    """
    vocab = probabilities.shape[-1]
    kept = top_k.where((top_k > 0) & (top_k < vocab), vocab).long()
    last_kept = kept[:, None] - 1
    unlimited = (kept == vocab)[:, None]
    total = probabilities.sum(dim=-1, keepdim=True, dtype=torch.float64)
    few = int(kept.where(kept < vocab, 0).max()) <= _CANDIDATES < vocab
    for count in (_CANDIDATES, vocab) if few else (vocab,):
        ordered = (probabilities.topk(count) if count < vocab else probabilities.sort(descending=True)).values
        cumulative = ordered.cumsum(dim=-1, dtype=torch.float64)
        last = last_kept.clamp(max=count - 1)
        wanted = top_p * torch.where(unlimited, total, cumulative.gather(1, last))
        if count == vocab or bool((~unlimited | (top_p == 1) | (cumulative[:, -1:] >= wanted)).all()):
            break
    nucleus = torch.where(top_p < 1, torch.minimum(torch.searchsorted(cumulative, wanted), last), last)
    threshold = torch.where(unlimited & (top_p == 1), 0.0, ordered.gather(1, nucleus))
    return torch.maximum(threshold, ordered[:, :1] * min_p)


def _draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution of each row (in vocabulary order) at `uniform` [n]. Returns int64 [n]."""
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # The next float below the total keeps rounding from reaching past the last token that has any probability.
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    return tokens.clamp(max=probabilities.shape[-1] - 1)  # NaN logits must not lead to a token that does not exist
