"""What a token adds to the cache, layer by layer: described by the model, allocated by `run`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """A tensor of one layer's cache: `shape` values of `dtype` for each token."""

    name: str
    """Unique within the layer: "keys", "values", "latent"."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class CacheLayout:
    """The cache of a whole model. All layers share the block table: block b of a request is block b of every layer."""

    layers: tuple[tuple[CacheTensor, ...], ...]
    """For each layer its tensors. A layer without a cache has none."""

    @cached_property
    def bytes_per_token(self) -> int:
        """Memory of one token over all layers, in bytes."""
        return sum(tensor.bytes_per_token for layer in self.layers for tensor in layer)

    @property
    def block_size(self) -> int:
        """Tokens of a block, if nobody asks for another number: the kernels for latents are made for 64."""
        return 64 if any(tensor.name == "latent" for layer in self.layers for tensor in layer) else 16

    def bytes_per_block(self, block_size: int) -> int:
        """Memory of one block over all layers, in bytes: divide a memory budget by it to get `num_blocks`."""
        return self.bytes_per_token * block_size


def keys_and_values(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> CacheLayout:
    """Grouped-query attention: in every layer `keys` and `values`, both [kv_heads, head_dim]."""
    layer = tuple(CacheTensor(name, (kv_heads, head_dim), dtype) for name in ("keys", "values"))
    return CacheLayout((layer,) * layers)
