"""Cases of `write_kv`: values arrive in their slots bit by bit, and everything else stays."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ...kv_cache import write_kv
from .case import DTYPES, EXACT, Case, MakeCase, Results


def makers() -> Iterator[tuple[str, MakeCase]]:
    """Caches of their own, and keys and values that take turns in one tensor."""
    for dtype in DTYPES:
        yield "write_kv", partial(_case, 8, 128, 16, False, dtype)
        yield "write_kv", partial(_case, 3, 80, 48, True, dtype)


def _case(
    kv_heads: int,
    head_dim: int,
    block_size: int,
    interleaved: bool,
    dtype: torch.dtype,
    device: torch.device,
    random: torch.Generator,
) -> Case:
    blocks, tokens = 9, 50
    # Part of a wider tensor, as the slices of a stacked projection are.
    k, v = torch.randn(tokens, 2, kv_heads, head_dim, generator=random).to(dtype).to(device).unbind(1)
    slots = torch.randperm(blocks * block_size, generator=random)[:tokens].to(device)
    before = torch.randn(2, blocks, block_size, kv_heads, head_dim, generator=random).to(dtype).to(device)
    expected = before.clone().flatten(1, 2)
    for token, slot in enumerate(slots.tolist()):
        expected[0, slot], expected[1, slot] = k[token], v[token]

    def run(kernel: str) -> Results:
        k_cache, v_cache = before.transpose(0, 1).contiguous().unbind(1) if interleaved else before.clone().unbind(0)
        write_kv(k, v, k_cache, v_cache, slots, kernel=kernel)
        return k_cache, v_cache

    exact = expected.unflatten(1, (blocks, block_size)).double().unbind(0)
    layout = ", keys and values in turns" if interleaved else ""
    description = f"{kv_heads} heads, head_dim {head_dim}, blocks of {block_size}{layout}"
    traits = (kv_heads, head_dim, block_size, "heads_adjoin")
    return Case("write_kv", description, dtype, traits, run, tuple(exact), (EXACT, EXACT))
