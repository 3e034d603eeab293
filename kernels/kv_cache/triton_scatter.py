"""`write_kv` in Triton: a program copies the key and the value of one token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import Band
from ..registry import register
from ..triton_support import DTYPES, PLATFORMS, next_power_of_two

VALUES = 2048
"""Values of a token that a program copies at once."""


@triton.jit  # type: ignore[untyped-decorator]
def scatter_token(
    k_ptr: tl.tensor,  # [tokens, kv_heads, head_dim] with strides, and so are the others
    v_ptr: tl.tensor,
    k_cache_ptr: tl.tensor,  # [blocks, block_size, kv_heads, head_dim]
    v_cache_ptr: tl.tensor,
    slot_ptr: tl.tensor,  # int64 [tokens]
    k_token: tl.tensor,
    k_head: tl.tensor,
    v_token: tl.tensor,
    v_head: tl.tensor,
    k_block: tl.tensor,
    k_slot: tl.tensor,
    k_cached_head: tl.tensor,
    v_block: tl.tensor,
    v_slot: tl.tensor,
    v_cached_head: tl.tensor,
    slots: tl.tensor,
    block_size: tl.tensor,
    values: tl.tensor,
    head_dim: tl.tensor,
    VALUES: tl.constexpr,
) -> None:
    """Grid: (tokens, values / VALUES), values = kv_heads * head_dim. A slot outside the cache is left out."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + token)
    value = tl.program_id(1) * VALUES + tl.arange(0, VALUES)
    head, offset = value // head_dim, value % head_dim
    inside = (value < values) & (slot >= 0) & (slot < slots)
    block, position = slot // block_size, slot % block_size
    k = tl.load(k_ptr + token * k_token + head * k_head + offset, mask=inside)
    v = tl.load(v_ptr + token * v_token + head * v_head + offset, mask=inside)
    tl.store(k_cache_ptr + block * k_block + position * k_slot + head * k_cached_head + offset, k, mask=inside)
    tl.store(v_cache_ptr + block * v_block + position * v_slot + head * v_cached_head + offset, v, mask=inside)


@register("write_kv", name="triton_scatter", band=Band.PORTABLE, platforms=PLATFORMS, dtypes=DTYPES)
def write_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """One launch. Arguments as in the public `write_kv`; a slot outside the cache is left out, for the device cannot
    raise without making the host wait."""
    tokens, kv_heads, head_dim = k.shape
    values = kv_heads * head_dim
    if tokens * values == 0:
        return
    k, v = (tensor if tensor.stride(2) == 1 else tensor.contiguous() for tensor in (k, v))
    block = min(VALUES, next_power_of_two(values))
    with torch.cuda.device_of(k):  # Triton launches on the current device, which need not be k's
        scatter_token[(tokens, triton.cdiv(values, block))](
            k,
            v,
            k_cache,
            v_cache,
            slot_mapping.contiguous(),
            *k.stride()[:2],
            *v.stride()[:2],
            *k_cache.stride()[:3],
            *v_cache.stride()[:3],
            k_cache.shape[0] * k_cache.shape[1],
            k_cache.shape[1],
            values,
            head_dim,
            VALUES=block,
            num_warps=4,
        )
