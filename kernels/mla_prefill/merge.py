"""Joining results of attention over two sets of keys."""

from __future__ import annotations

import torch
from torch import Tensor


def merge_attention(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> None:
    """Merge the result over other keys into `out` and `lse`, in place.

    out, other_out: [queries, heads, values]; lse, other_lse: float32 [queries, heads], natural logarithms of the sums
    of exponentiated scores, -inf where nothing was seen. Computed in float32. Queries that saw nothing in both keep out
    0 and lse -inf.
    """
    largest = torch.maximum(lse, other_lse)
    shift = torch.where(largest.isneginf(), 0.0, largest)
    weight, other_weight = (lse - shift).exp_(), (other_lse - shift).exp_()
    total = weight + other_weight
    share = torch.where(total > 0, other_weight / total, 0.0)[..., None]
    out.copy_(torch.lerp(out.float(), other_out.float(), share))
    torch.add(shift, total.log_(), out=lse)
