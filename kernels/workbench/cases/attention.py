"""Cases of `paged_attention`: decode rows and prefill chunks together, and decode alone over longer contexts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ...attention import paged_attention
from .case import DTYPES, Case, MakeCase, RelativeError, Results, dense_attention, page, tolerance

# New tokens and context of each row.
_MIXED = ([1, 1, 1, 1, 17, 40, 1], [1, 63, 64, 65, 17, 150, 270])
_DECODE = ([1, 1, 1, 1], [700, 1, 256, 257])
_CHUNK = ([130], [190])


def makers() -> Iterator[tuple[str, MakeCase]]:
    """Groups of 1 to 16 heads, head dimensions that are and are not powers of two, blocks of several sizes."""
    for dtype in DTYPES:
        for heads, kv_heads, head_dim, block_size in ((9, 3, 64, 16), (16, 4, 128, 64), (4, 4, 80, 48)):
            yield "paged_attention", partial(_case, heads, kv_heads, head_dim, block_size, _MIXED, dtype)
        yield "paged_attention", partial(_case, 32, 2, 128, 16, _DECODE, dtype)
        yield "paged_attention", partial(_case, 8, 2, 64, 16, _CHUNK, dtype)


def _case(
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    rows: tuple[list[int], list[int]],
    dtype: torch.dtype,
    device: torch.device,
    random: torch.Generator,
) -> Case:
    new, lengths = rows
    paged = page(lengths, block_size, (2, kv_heads, head_dim), dtype, random)
    q = torch.randn(sum(new), heads, head_dim, generator=random).to(dtype)
    scale = head_dim**-0.5
    exact = []
    for row, queries in enumerate(q.split(new)):
        keys, values = paged.contexts[row].repeat_interleave(heads // kv_heads, dim=2).unbind(1)
        exact.append(dense_attention(queries, keys, values, scale)[0])
    starts = torch.tensor([0, *new]).cumsum(0).int()
    k_cache, v_cache = (half.contiguous().to(device) for half in paged.cache.unbind(2))
    inputs = (q, k_cache, v_cache, paged.block_table, paged.context_lens, starts)
    placed = tuple(tensor.to(device) for tensor in inputs)

    def run(kernel: str) -> Results:
        out = torch.full(q.shape, torch.nan, dtype=dtype, device=device)
        return (paged_attention(*placed, scale=scale, out=out, kernel=kernel),)

    shape = f"{heads} heads on {kv_heads}, head_dim {head_dim}, blocks of {block_size}"
    description = f"{shape}, {len(new)} rows of {sum(new)} tokens"
    # The weights are rounded as well as the result: 2.35e-3 expected, but a token of few values, or one that sees few
    # keys, may be above.
    allowed = tolerance(dtype, RelativeError(2.5e-3, 3e-3))
    traits = (heads, kv_heads, head_dim, block_size, "heads_adjoin")
    return Case("paged_attention", description, dtype, traits, run, (torch.cat(exact).to(device),), (allowed,))
