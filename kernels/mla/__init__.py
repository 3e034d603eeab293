"""Multi-head latent attention (MLA) over a paged cache of compressed keys and values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..arguments import check_dtype, check_same_device, check_shape
from ..registry import REGISTRY
from .plan import MlaPlan, plan_mla_decode
from .tuning import Tuning

__all__ = ["CACHED_DIM", "LATENT_DIM", "ROPE_DIM", "MlaPlan", "Tuning", "mla_decode", "plan_mla_decode"]

LATENT_DIM = 512
"""Values of the compressed key-value latent of a token: the first 512 of its 576 cached values."""
ROPE_DIM = 64
"""Values of the shared rotary key of a token: the last 64 of its 576 cached values."""
CACHED_DIM = LATENT_DIM + ROPE_DIM
"""Cached values of a token, shared by all heads."""

_OPERATION = REGISTRY.declare(
    "mla_decode",
    traits=("heads", "q_len", "block_size", "dense_cache", "cache_bits"),
    derived={"queries": lambda traits: traits["heads"] * traits["q_len"]},
    folder=__name__,
)


def mla_decode(
    q: Tensor,
    kv_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    plan: MlaPlan | None = None,
    cache_scale: float = 1.0,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    kernel: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Absorbed MLA for rows of a few new tokens each (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    "Absorbed": the key up-projection is already in `q` and the value up-projection is still to be applied to `out`, so
    the 576 cached values of a token serve every head as key, and the first 512 of them as value. Query j of a row sees
    the first `context_lens[row] - q_len + j + 1` positions (causal, bottom-right).

    q: [rows, q_len, heads, 576]: 512 latent, then 64 rotary; with a float8_e4m3fn cache within +-65504, as it
        is multiplied in float16
    kv_cache: [blocks, block_size, 576], last dimension contiguous; dtype of q, or float8_e4m3fn
    block_table: int32 [rows, max_blocks]; entries beyond a row's context are ignored
    context_lens: int32 [rows], tokens of the row's context INCLUDING its new ones, at most max_blocks * block_size;
        0 for a padding row
    scale: factor of the scores, greater than 0 and finite
    plan: how to divide the work, from `plan_mla_decode`, made or refilled for these very `context_lens`; made in the
        call, or the work divided by shapes alone, if not given. Make it once for all layers of a step, and keep it for
        CUDA graphs.
    cache_scale: what the values were divided by when they were stored as float8_e4m3fn; 1.0 for a cache of q's dtype
    out, lse: where to write, contiguous, shaped and typed like the results
    kernel: name of the kernel to use instead of the registry's choice

    Returns out [rows, q_len, heads, 512] in q's dtype and lse float32 [rows, q_len, heads], the natural logarithm of
    the sum of exponentiated scores, with which results over parts of a context are merged. A query that sees nothing
    has out 0 and lse -inf. What the cache holds outside a row's context, NaN included, does not touch the row's result.
    Raises ValueError or TypeError naming the argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("q", q, "rows", "q_len", "heads", CACHED_DIM)
    rows, q_len, heads, _ = q.shape
    check_shape("kv_cache", kv_cache, "blocks", "block_size", CACHED_DIM)
    check_shape("block_table", block_table, rows, "max_blocks")
    check_shape("context_lens", context_lens, rows)
    if kv_cache.dtype != torch.float8_e4m3fn:
        if kv_cache.dtype != q.dtype:
            raise TypeError(f"kv_cache has dtype {kv_cache.dtype}; it must be {q.dtype}, as q, or torch.float8_e4m3fn")
        if cache_scale != 1.0:
            raise ValueError(f"cache_scale is {cache_scale}; it must be 1.0 for a cache of {kv_cache.dtype}")
    check_dtype("block_table", block_table, torch.int32)
    check_dtype("context_lens", context_lens, torch.int32)
    check_same_device(q=q, kv_cache=kv_cache, block_table=block_table, context_lens=context_lens)
    for name, factor in (("scale", scale), ("cache_scale", cache_scale)):
        if not 0 < factor < math.inf:
            raise ValueError(f"{name} is {factor}; it must be greater than 0 and finite")
    if plan is not None:
        plan.check(rows, q_len * heads, q.device)
    if kv_cache.stride(2) != 1:
        raise ValueError(
            f"kv_cache has strides {list(kv_cache.stride())}; the {CACHED_DIM} values of a token must adjoin"
        )
    if block_table.shape[1] > 1 and block_table.stride(1) != 1:
        raise ValueError(f"block_table has strides {list(block_table.stride())}; the entries of a row must adjoin")
    if out is None:
        out = q.new_empty(rows, q_len, heads, LATENT_DIM)
    if lse is None:
        lse = q.new_empty(rows, q_len, heads, dtype=torch.float32)
    check_shape("out", out, rows, q_len, heads, LATENT_DIM)
    check_shape("lse", lse, rows, q_len, heads)
    check_dtype("out", out, q.dtype)
    check_dtype("lse", lse, torch.float32)
    check_same_device(q=q, out=out, lse=lse)
    for name, tensor in (("out", out), ("lse", lse)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {list(tensor.stride())}; it must be contiguous")
    # What a bulk copy needs: tokens that adjoin, from a 16-byte boundary on.
    dense_cache = int(kv_cache.is_contiguous() and kv_cache.data_ptr() % 16 == 0 and kv_cache.numel() > 0)
    traits = (heads, q_len, kv_cache.shape[1], dense_cache, 8 * kv_cache.element_size())
    selection = _OPERATION.select(q.device, q.dtype, traits, kernel)
    selection.kernel.run(
        q,
        kv_cache,
        block_table,
        context_lens,
        scale=scale,
        out=out,
        lse=lse,
        plan=plan,
        cache_scale=cache_scale,
    )
    return out, lse
