"""The definition of `paged_attention` in plain torch: one row at a time, the whole score matrix, softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_contexts, check_query_start
from ..kernel import Band
from ..registry import register
from .plan import AttentionPlan


@register("paged_attention", name="reference", band=Band.REFERENCE)
def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    query_start: Tensor,
    *,
    scale: float,
    out: Tensor,
    plan: AttentionPlan | None = None,
) -> None:
    """Any device and dtype; computes in float32, or float64 if the inputs are. Reads the lengths on the host."""
    precision = torch.promote_types(q.dtype, torch.float32)
    block_size, group = k_cache.shape[1], q.shape[1] // k_cache.shape[2]
    starts, contexts = query_start.tolist(), context_lens.tolist()
    check_contexts(block_table, context_lens, block_size, k_cache.shape[0])
    check_query_start(starts, contexts, q.shape[0])
    for row, context in enumerate(contexts):
        first, last = starts[row], starts[row + 1]
        blocks = block_table[row, : -(-context // block_size)].long()
        keys = k_cache[blocks].flatten(0, 1)[:context].to(precision).repeat_interleave(group, dim=1)
        values = v_cache[blocks].flatten(0, 1)[:context].to(precision).repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q[first:last].to(precision), keys) * scale
        query_position = torch.arange(context - (last - first), context, device=q.device)
        key_position = torch.arange(context, device=q.device)
        scores.masked_fill_(key_position > query_position[:, None], float("-inf"))
        out[first:last] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(out.dtype)
