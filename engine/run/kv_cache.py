"""The paged KV cache: one pool of blocks per layer, whose rows the scheduler hands out."""

import math

import torch

from ..models.config import LlamaConfig


class KVCache:
    """Key and value blocks of all layers, allocated once."""

    def __init__(
        self,
        config: LlamaConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        padding_blocks: int = 0,
    ) -> None:
        """`num_blocks` blocks of `block_size` tokens; raises ValueError naming the one that is below 1.

        `padding_blocks` more lie behind them, for rows that no request has.
        """
        for name, value in (("num_blocks", num_blocks), ("block_size", block_size)):
            if value < 1:
                raise ValueError(f"{name}={value} is invalid: give at least 1")
        self.num_blocks = num_blocks
        self.block_size = block_size
        blocks = num_blocks + padding_blocks
        shape = (config.num_layers, 2, blocks, block_size, config.num_kv_heads, config.head_dim)
        # Zeroed: attention may read the unused end of a block before masking it, and garbage could be NaN.
        self.pool = pool = torch.zeros(shape, dtype=dtype, device=device)
        """[layers, 2 (keys, values), num_blocks + padding_blocks, block_size, kv heads, head_dim]"""
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = [(layer[0], layer[1]) for layer in pool]
        """For each layer its keys and values, both [num_blocks + padding_blocks, block_size, kv heads, head_dim]."""

    @staticmethod
    def bytes_per_block(config: LlamaConfig, block_size: int, dtype: torch.dtype) -> int:
        """Memory of one block over all layers, in bytes: divide a memory budget by it to get `num_blocks`."""
        return math.prod((config.num_layers, 2, block_size, config.num_kv_heads, config.head_dim, dtype.itemsize))
