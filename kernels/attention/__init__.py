"""Grouped-query attention over a paged KV cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import cache_layout, check_dtype, check_same_device, check_shape
from ..registry import REGISTRY
from .plan import AttentionPlan, plan_paged_attention

__all__ = ["AttentionPlan", "paged_attention", "plan_paged_attention"]

_OPERATION = REGISTRY.declare(
    "paged_attention", traits=("heads", "kv_heads", "head_dim", "block_size", "layout"), folder=__name__
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
    plan: AttentionPlan | None = None,
    out: Tensor | None = None,
    kernel: str | None = None,
) -> Tensor:
    """Attention of a ragged batch of decode rows (one token) and prefill chunks (many) over their paged contexts.

    Row i owns the tokens `query_start[i]:query_start[i+1]` of `q`; they are the last ones of its context, whose keys
    and values are already in the cache. Query j of n sees the first `context_lens[i] - n + j + 1` positions (causal,
    bottom-right). Query head h reads key-value head `h // (heads // kv_heads)` (Ainslie et al. 2023,
    arXiv:2305.13245); the cache is paged as in Kwon et al. 2023 (arXiv:2309.06180).

    q: [tokens, heads, head_dim]
    k_cache, v_cache: [blocks, block_size, kv_heads, head_dim], dtype of q
    block_table: int32 [rows, max_blocks]; entries beyond a row's context are ignored
    context_lens: int32 [rows], tokens of the row's context INCLUDING its new ones
    query_start: int32 [rows + 1], from 0 to tokens, not decreasing
    scale: factor of the scores, usually head_dim ** -0.5
    plan: how to divide decode rows that all have the same number of tokens, from `plan_paged_attention`, made or
        refilled for these very `context_lens`; if not given, the work is divided by shapes alone. Then the bits of a
        row's result do not depend on its neighbours; with a plan they do. Kernels without a use for it ignore it
    out: where to write, shape and dtype of q; must not overlap an input
    kernel: name of the kernel to use instead of the registry's choice

    Returns [tokens, heads, head_dim]. What the cache holds outside a row's context, NaN included, does not touch the
    row's result. Raises ValueError or TypeError naming the argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("q", q, "tokens", "heads", "head_dim")
    tokens, heads, head_dim = q.shape
    check_shape("k_cache", k_cache, "blocks", "block_size", "kv_heads", head_dim)
    blocks, block_size, kv_heads, _ = k_cache.shape
    check_shape("v_cache", v_cache, blocks, block_size, kv_heads, head_dim)
    if kv_heads == 0 or heads % kv_heads != 0:
        raise ValueError(f"q has {heads} heads and k_cache {kv_heads}; q's must be a multiple of k_cache's")
    check_shape("block_table", block_table, "rows", "max_blocks")
    rows = block_table.shape[0]
    check_shape("context_lens", context_lens, rows)
    check_shape("query_start", query_start, rows + 1)
    check_dtype("k_cache", k_cache, q.dtype)
    check_dtype("v_cache", v_cache, q.dtype)
    check_dtype("block_table", block_table, torch.int32)
    check_dtype("context_lens", context_lens, torch.int32)
    check_dtype("query_start", query_start, torch.int32)
    check_same_device(
        q=q,
        k_cache=k_cache,
        v_cache=v_cache,
        block_table=block_table,
        context_lens=context_lens,
        query_start=query_start,
    )
    if plan is not None:
        plan.check(rows, tokens, heads, head_dim, q.device)
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    else:
        check_shape("out", out, tokens, heads, head_dim)
        check_dtype("out", out, q.dtype)
        check_same_device(q=q, out=out)
    traits = (heads, kv_heads, head_dim, block_size, cache_layout(k_cache, v_cache))
    selection = _OPERATION.select(q.device, q.dtype, traits, kernel)
    selection.kernel.run(q, k_cache, v_cache, block_table, context_lens, query_start, scale=scale, out=out, plan=plan)
    return out
