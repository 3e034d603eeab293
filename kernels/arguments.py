"""Checks of tensor arguments, with errors that name the argument, what it is and what it should be.

Only shapes, dtypes and devices are looked at: reading values would make an accelerator wait.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_shape(name: str, tensor: Tensor, *expected: int | str) -> None:
    """Raise ValueError unless the shape is `expected`; a string names a dimension of any size."""
    shape = tensor.shape
    fits = len(shape) == len(expected) and all(
        isinstance(want, str) or want == size for want, size in zip(expected, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} has shape {list(shape)}; it must be [{', '.join(map(str, expected))}]")


def check_dtype(name: str, tensor: Tensor, expected: torch.dtype) -> None:
    """Raise TypeError unless the dtype is `expected`."""
    if tensor.dtype != expected:
        raise TypeError(f"{name} has dtype {tensor.dtype}; it must be {expected} (convert with {name}.to({expected}))")


def check_same_device(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are on one device."""
    devices = {tensor.device for tensor in tensors.values()}
    if len(devices) > 1:
        placed = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"all tensors must be on one device; got {placed}")


def cache_layout(*caches: Tensor) -> str:
    """The trait `layout` of a cache [blocks, block_size, kv_heads, head_dim]: "heads_adjoin" if the values of a head
    adjoin in memory, whatever the strides of blocks, tokens and heads, else "strided"."""
    return "heads_adjoin" if all(cache.stride(-1) == 1 for cache in caches) else "strided"


def check_contexts(block_table: Tensor, context_lens: Tensor, block_size: int, num_blocks: int) -> None:
    """Raise ValueError unless each context fits its row of the block table and lies in blocks that the cache has.

    Reads values: for kernels that need the lengths on the host anyway.
    """
    capacity = block_table.shape[1] * block_size
    for row, context in enumerate(context_lens.tolist()):
        if not 0 <= context <= capacity:
            raise ValueError(
                f"context_lens[{row}] = {context}; it must be 0..{capacity}, what a row of block_table holds"
            )
    used = torch.arange(0, capacity, block_size, device=block_table.device) < context_lens[:, None]
    wrong = used & ((block_table < 0) | (block_table >= num_blocks))
    if wrong.any():
        row, index = wrong.nonzero()[0].tolist()
        block = int(block_table[row, index])
        raise ValueError(f"block_table[{row}, {index}] = {block}; it must be 0..{num_blocks - 1}, a block of the cache")


def check_query_start(starts: list[int], contexts: list[int], tokens: int) -> None:
    """Raise ValueError unless the rows partition the tokens and no row is longer than its context."""
    if starts[0] != 0 or starts[-1] != tokens:
        raise ValueError(f"query_start goes from {starts[0]} to {starts[-1]}; it must go from 0 to q's {tokens} tokens")
    for row, context in enumerate(contexts):
        length = starts[row + 1] - starts[row]
        if not 0 <= length <= context:
            raise ValueError(
                f"row {row} has {length} new tokens (query_start) and context_lens {context}; "
                "query_start must not decrease and context_lens must include the new tokens"
            )
