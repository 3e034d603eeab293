"""`write_kv` in plain torch."""

from __future__ import annotations

from torch import Tensor

from ..kernel import Band
from ..registry import register


@register("write_kv", name="reference", band=Band.REFERENCE)
def write_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """Any device and dtype. On the CPU a slot outside the cache raises ValueError."""
    block_size = k_cache.shape[1]
    for source, cache in ((k, k_cache), (v, v_cache)):
        try:
            if cache.stride(0) == block_size * cache.stride(1):
                cache.view(-1, *cache.shape[2:]).index_copy_(0, slot_mapping, source)
            else:  # the blocks of this cache do not adjoin, as in a tensor that interleaves keys and values
                block, offset = slot_mapping // block_size, slot_mapping % block_size
                # Unlike index_copy_, indexing counts negative blocks from the end: send them out of range instead.
                cache[block.where(block >= 0, cache.shape[0]), offset] = source
        except IndexError as error:
            slots = cache.shape[0] * block_size
            raise ValueError(f"slot_mapping holds a slot outside 0..{slots - 1}, the slots of the cache") from error
