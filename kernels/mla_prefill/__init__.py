"""Multi-head latent attention (MLA) of a prompt: keys and values of each head, expanded from the latent cache.

With long cached prefixes the expanded keys and values of a whole context need not exist at once: `mla_prefill` runs
over the new tokens (causal) and over chunks of the prefix (not causal), and `merge_attention` joins the results.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_dtype, check_same_device, check_shape
from ..registry import REGISTRY
from .merge import merge_attention

__all__ = ["HEAD_DIM", "NOPE_DIM", "ROPE_DIM", "VALUE_DIM", "merge_attention", "mla_prefill", "mla_prefill_chunks"]

NOPE_DIM = 128
"""Values of a head's query or key without position: the first 128 of 192."""
ROPE_DIM = 64
"""Rotary values of a head's query or key: the last 64 of 192."""
HEAD_DIM = NOPE_DIM + ROPE_DIM
VALUE_DIM = 128
"""Values of a head's value."""

_OPERATION = REGISTRY.declare("mla_prefill", traits=("heads", "aligned"), folder=__name__)


def mla_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_starts: Tensor,
    kv_starts: Tensor,
    *,
    scale: float,
    causal: bool,
    max_queries: int,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of each row's queries over that row's keys, 192 values a head, and values, 128 a head.

    q: [queries, heads, 192], rows one after another
    k, v: [keys, heads, 192] and [keys, heads, 128], dtype of q
    q_starts, kv_starts: int32 [rows + 1], where each row's queries and keys begin, and in the end their number
    scale: factor of the scores, greater than 0
    causal: query j of a row with n queries and m keys sees the first m - n + j + 1 keys (bottom-right); else all m
    max_queries: bound of every row's number of queries; sizes the grid
    out, lse: where to write, contiguous, shaped and typed like the results
    kernel: name of the kernel to use instead of the registry's choice

    Returns out [queries, heads, 128] in q's dtype and lse float32 [queries, heads], the natural logarithm of the sum
    of exponentiated scores. A query that sees nothing has out 0 and lse -inf. Raises ValueError or TypeError naming the
    argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("q", q, "queries", "heads", HEAD_DIM)
    queries, heads, _ = q.shape
    check_shape("k", k, "keys", heads, HEAD_DIM)
    check_shape("v", v, k.shape[0], heads, VALUE_DIM)
    check_shape("q_starts", q_starts, "rows + 1")
    check_shape("kv_starts", kv_starts, q_starts.shape[0])
    for name, tensor in (("k", k), ("v", v)):
        check_dtype(name, tensor, q.dtype)
    for name, tensor in (("q_starts", q_starts), ("kv_starts", kv_starts)):
        check_dtype(name, tensor, torch.int32)
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be greater than 0")
    if out is None:
        out = q.new_empty(queries, heads, VALUE_DIM)
    if lse is None:
        lse = q.new_empty(queries, heads, dtype=torch.float32)
    check_shape("out", out, queries, heads, VALUE_DIM)
    check_shape("lse", lse, queries, heads)
    check_dtype("out", out, q.dtype)
    check_dtype("lse", lse, torch.float32)
    check_same_device(q=q, k=k, v=v, q_starts=q_starts, kv_starts=kv_starts, out=out, lse=lse)
    for name, tensor in (("q", q), ("k", k), ("v", v), ("out", out), ("lse", lse)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {list(tensor.stride())}; it must be contiguous")
    # What a bulk copy needs: a 16-byte boundary, and something to copy.
    aligned = int(all(tensor.data_ptr() % 16 == 0 and tensor.numel() > 0 for tensor in (q, k, v)))
    selection = _OPERATION.select(q.device, q.dtype, (heads, aligned), kernel)
    selection.kernel.run(
        q, k, v, q_starts, kv_starts, scale=scale, causal=causal, max_queries=max_queries, out=out, lse=lse
    )
    return out, lse


def mla_prefill_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_starts: Tensor,
    kv_starts: Tensor,
    prefix_chunks: Iterable[tuple[Tensor, Tensor, Tensor]],
    *,
    scale: float,
    max_queries: int,
    kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of new tokens over themselves (causal) and over a cached prefix that comes in chunks.

    prefix_chunks: k, v and kv_starts of each chunk, as for `mla_prefill`; a generator that expands one chunk at a time
        bounds the memory to a chunk. All of a row's chunks lie before its new tokens, in any order. Their results are
        merged in float32, so that the error does not grow with their number.

    Other arguments, results and errors as `mla_prefill`.
    """
    common: dict[str, Any] = {"scale": scale, "max_queries": max_queries, "kernel": kernel}
    out, lse = mla_prefill(q, k, v, q_starts, kv_starts, causal=True, **common)
    merged = out
    for chunk_k, chunk_v, chunk_starts in prefix_chunks:
        merged = merged.float()
        chunk_out, chunk_lse = mla_prefill(q, chunk_k, chunk_v, q_starts, chunk_starts, causal=False, **common)
        merge_attention(merged, lse, chunk_out, chunk_lse)
    return merged.to(q.dtype), lse
