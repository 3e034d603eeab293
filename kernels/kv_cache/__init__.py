"""Writing new keys and values into a paged KV cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import cache_layout, check_dtype, check_same_device, check_shape
from ..registry import REGISTRY

_OPERATION = REGISTRY.declare("write_kv", traits=("kv_heads", "head_dim", "block_size", "layout"), folder=__name__)


def write_kv(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    *,
    kernel: str | None = None,
) -> None:
    """Store the keys and values of new tokens in the cache, in place.

    k, v: [tokens, kv_heads, head_dim]
    k_cache, v_cache: [blocks, block_size, kv_heads, head_dim], dtype of k
    slot_mapping: int64 [tokens], block * block_size + offset; each slot at most once. A slot outside the cache raises
        ValueError on the CPU; on an accelerator, which cannot raise without making the host wait, its token is left out
    kernel: name of the kernel to use instead of the registry's choice

    Raises ValueError or TypeError naming the argument, UnknownKernel, KernelDoesNotFit.
    """
    check_shape("k", k, "tokens", "kv_heads", "head_dim")
    tokens, kv_heads, head_dim = k.shape
    check_shape("v", v, tokens, kv_heads, head_dim)
    check_shape("k_cache", k_cache, "blocks", "block_size", kv_heads, head_dim)
    blocks, block_size = k_cache.shape[:2]
    check_shape("v_cache", v_cache, blocks, block_size, kv_heads, head_dim)
    check_shape("slot_mapping", slot_mapping, tokens)
    check_dtype("v", v, k.dtype)
    check_dtype("k_cache", k_cache, k.dtype)
    check_dtype("v_cache", v_cache, k.dtype)
    check_dtype("slot_mapping", slot_mapping, torch.int64)
    check_same_device(k=k, v=v, k_cache=k_cache, v_cache=v_cache, slot_mapping=slot_mapping)
    traits = (kv_heads, head_dim, block_size, cache_layout(k_cache, v_cache))
    selection = _OPERATION.select(k.device, k.dtype, traits, kernel)
    selection.kernel.run(k, v, k_cache, v_cache, slot_mapping)
