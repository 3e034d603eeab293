"""The paged KV cache: pools of blocks, laid out as the model says, whose rows the scheduler hands out."""

import torch

from ..models.cache_layout import CacheLayout


class KVCache:
    """Blocks of all layers, allocated once."""

    def __init__(
        self,
        layout: CacheLayout,
        num_blocks: int,
        block_size: int,
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
        self.layout = layout
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.device = device
        kinds = [(tensor.shape, tensor.dtype) for layer in layout.layers for tensor in layer]
        blocks = num_blocks + padding_blocks
        # Zeroed: attention may read the unused end of a block before masking it, and garbage could be NaN.
        pools = {
            (shape, dtype): torch.zeros(
                (kinds.count((shape, dtype)), blocks, block_size, *shape), dtype=dtype, device=device
            )
            for shape, dtype in dict.fromkeys(kinds)
        }
        self.pools: tuple[torch.Tensor, ...] = tuple(pools.values())
        """Cached tensors of one shape and dtype together: [tensors, num_blocks + padding_blocks, block_size, *shape].
        """
        unused = {kind: iter(pool) for kind, pool in pools.items()}
        self.layers: list[dict[str, torch.Tensor]] = [
            {tensor.name: next(unused[tensor.shape, tensor.dtype]) for tensor in layer} for layer in layout.layers
        ]
        """For each layer its tensors by name, each [num_blocks + padding_blocks, block_size, *shape]."""
