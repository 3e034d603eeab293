"""The definition of `mla_decode` in plain torch: one row at a time, the whole score matrix, softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_contexts
from ..kernel import Band
from ..registry import register
from . import LATENT_DIM, MlaPlan


@register("mla_decode", name="reference", band=Band.REFERENCE)
def mla_decode(
    q: Tensor,
    kv_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    out: Tensor,
    lse: Tensor,
    plan: MlaPlan | None = None,
    cache_scale: float = 1.0,
) -> None:
    """Any device and dtype; computes in float32, or float64 if the inputs are. Reads the lengths on the host."""
    precision = torch.promote_types(q.dtype, torch.float32)
    q_len, block_size = q.shape[1], kv_cache.shape[1]
    check_contexts(block_table, context_lens, block_size, kv_cache.shape[0])
    for row, context in enumerate(context_lens.tolist()):
        blocks = block_table[row, : -(-context // block_size)].long()
        cached = kv_cache[blocks].flatten(0, 1)[:context].to(precision) * cache_scale
        scores = torch.einsum("qhd,kd->qhk", q[row].to(precision), cached) * scale
        query_position = torch.arange(context - q_len, context, device=q.device)
        key_position = torch.arange(context, device=q.device)
        scores.masked_fill_(key_position > query_position[:, None, None], float("-inf"))
        weights = scores.softmax(-1)
        weights = weights.masked_fill(query_position[:, None, None] < 0, 0.0)  # nothing visible: softmax gave NaN
        out[row] = (weights @ cached[:, :LATENT_DIM]).to(out.dtype)
        lse[row] = scores.logsumexp(-1).float()
