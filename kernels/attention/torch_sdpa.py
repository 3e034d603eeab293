"""`paged_attention` on the CPU through torch's fused `scaled_dot_product_attention`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..device import Platform
from ..kernel import Band
from ..registry import register
from .batch_plan import DecodeGroup, PrefillRow, plan_batch
from .plan import AttentionPlan

_GATHER_BYTES = 16 * 2**20
"""Bound of the gathered keys and values of a decode group: mapping fresh memory for more costs more than attention."""

_QUERY_TILE = 256
"""Queries of a prefill row that share a mask: bounds its size and skips keys that none of them sees."""


@register(
    "paged_attention",
    name="torch_sdpa",
    band=Band.PORTABLE,
    platforms=(Platform("cpu"),),
    dtypes=(torch.float32, torch.bfloat16, torch.float16),
)
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
    """Decode rows in padded batches, prefill rows one at a time."""
    block_size, kv_heads, head_dim = k_cache.shape[1:]
    batch = plan_batch(
        block_table,
        context_lens,
        query_start,
        tokens=q.shape[0],
        num_blocks=k_cache.shape[0],
        block_size=block_size,
        group_tokens=_GATHER_BYTES // (2 * kv_heads * head_dim * q.element_size()),
    )
    # The heads that share a key-value head become a dimension of their own: [tokens, kv_heads, group, head_dim].
    queries, outputs = q.unflatten(1, (kv_heads, -1)), out.unflatten(1, (kv_heads, -1))
    for group in batch.decode:
        _decode(queries, k_cache, v_cache, group, scale, outputs)
    for row in batch.prefill:
        _prefill(queries, k_cache, v_cache, row, scale, outputs)


def _decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, group: DecodeGroup, scale: float, out: Tensor) -> None:
    """One call for the group. The heads that share a key-value head stand where SDPA expects query positions."""
    rows = len(group.tokens)
    keys = _gather(k_cache, group).transpose(1, 2)
    values = _gather(v_cache, group).transpose(1, 2)
    queries = q[group.tokens]
    result = scaled_dot_product_attention(queries, keys, values, attn_mask=group.visible, scale=scale)
    if rows == 1:
        out[group.tokens[0]] = result[0]
    else:
        out[group.tokens] = result


def _gather(cache: Tensor, group: DecodeGroup) -> Tensor:
    """[rows, length, kv_heads, head_dim]; padded positions are zero, since a mask does not stop a stale NaN."""
    gathered: Tensor = cache.index_select(0, group.blocks).flatten(0, 1)
    if group.padding is not None:
        gathered.index_fill_(0, group.padding, 0)
    rows: Tensor = gathered.unflatten(0, (len(group.tokens), -1))
    return rows[:, : group.length]


def _prefill(q: Tensor, k_cache: Tensor, v_cache: Tensor, row: PrefillRow, scale: float, out: Tensor) -> None:
    kv_heads, group = q.shape[1:3]
    # [kv_heads, group, context, head_dim], shared by the group without a copy
    keys = k_cache.index_select(0, row.blocks).flatten(0, 1)[: row.context].transpose(0, 1).unsqueeze(1)
    values = v_cache.index_select(0, row.blocks).flatten(0, 1)[: row.context].transpose(0, 1).unsqueeze(1)
    keys, values = keys.expand(kv_heads, group, -1, -1), values.expand(kv_heads, group, -1, -1)
    if row.last - row.first == row.context:
        queries = q[row.first : row.last].permute(1, 2, 0, 3)
        result = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)
        out[row.first : row.last] = result.permute(2, 0, 1, 3)
        return
    for first in range(row.first, row.last, _QUERY_TILE):
        last = min(first + _QUERY_TILE, row.last)
        visible = row.context - (row.last - last)
        mask = torch.ones(last - first, visible, dtype=torch.bool).tril_(visible - (last - first))
        queries = q[first:last].permute(1, 2, 0, 3)
        result = scaled_dot_product_attention(
            queries, keys[:, :, :visible], values[:, :, :visible], attn_mask=mask, scale=scale
        )
        out[first:last] = result.permute(2, 0, 1, 3)
