"""Cases of `mla_decode`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ...mla import CACHED_DIM, LATENT_DIM, mla_decode, plan_mla_decode
from .case import DTYPES, LSE_TOLERANCE, TOLERANCES, Case, MakeCase, Results, dense_attention, page


def makers() -> Iterator[tuple[str, MakeCase]]:
    """Heads and new tokens that take narrow and wide tiles, full and not; extreme scores; an empty context; and, as a
    device has more multiprocessors than these contexts have tiles, plans of two parts, whose tiles follow each other.
    """
    for dtype in DTYPES:
        for heads, q_len in ((16, 1), (16, 2), (32, 1), (16, 4), (128, 1), (20, 7)):
            yield "mla_decode", partial(_case, heads, q_len, 1.0, dtype)
        yield "mla_decode", partial(_case, 16, 1, 50.0, dtype)
        yield "mla_decode", partial(_case, 64, 1, 50.0, dtype)
        for heads, q_len in ((16, 1), (128, 1), (20, 7)):
            yield "mla_decode", partial(_case, heads, q_len, 1.0, dtype, cache_scale=0.02)
        for heads, cache_scale in ((16, None), (128, None), (16, 0.02), (32, 0.02), (128, 0.02)):
            yield "mla_decode", partial(_case, heads, 1, 1.0, dtype, cache_scale=cache_scale, programs=2)


def _case(
    heads: int,
    q_len: int,
    magnitude: float,
    dtype: torch.dtype,
    device: torch.device,
    random: torch.Generator,
    cache_scale: float | None = None,
    programs: int | None = None,
) -> Case:
    """With a `cache_scale` the cache holds 8-bit values, and the exact result is that of those values.

    programs: parts of the plan; None for no plan
    """
    lengths = [1, 63, 64, 65, 0, 127, 400, 300]
    paged = page(lengths, 64, (CACHED_DIM,), dtype, random)
    q = (magnitude * torch.randn(len(lengths), q_len, heads, CACHED_DIM, generator=random)).to(dtype)
    scale = CACHED_DIM**-0.5
    cache, contexts = paged.cache, paged.contexts
    if cache_scale is not None:
        cache = (paged.cache.float() / cache_scale).to(torch.float8_e4m3fn)
        rounded = [(context.float() / cache_scale).to(torch.float8_e4m3fn) for context in paged.contexts]
        contexts = [context.double() * cache_scale for context in rounded]
    exact = []
    for row, context in enumerate(contexts):
        exact.append(dense_attention(q[row], context, context[:, :LATENT_DIM], scale))
    exact_out, exact_lse = (torch.stack(parts).to(device) for parts in zip(*exact, strict=True))
    placed = tuple(tensor.to(device) for tensor in (q, cache, paged.block_table, paged.context_lens))
    scales = {"scale": scale, "cache_scale": cache_scale or 1.0}
    plan = None
    if programs is not None:
        plan = plan_mla_decode(placed[3], q_len=q_len, heads=heads, max_context=max(lengths), programs=programs)

    def run(kernel: str) -> Results:
        out = torch.full((*q.shape[:-1], LATENT_DIM), torch.nan, dtype=dtype, device=device)
        lse = torch.full(q.shape[:-1], torch.nan, device=device)
        return mla_decode(*placed, plan=plan, out=out, lse=lse, kernel=kernel, **scales)

    scores = "" if magnitude == 1.0 else f", scores around +-{magnitude:.0f}"
    bits = 8 * cache.element_size()
    description = f"{heads} heads, {q_len} new tokens{scores}" + (", 8-bit cache" if bits == 8 else "")
    if programs is not None:
        description += f", {programs} parts"
    traits, tolerances = (heads, q_len, 64, 1, bits), (TOLERANCES[dtype], LSE_TOLERANCE)
    return Case("mla_decode", description, dtype, traits, run, (exact_out, exact_lse), tolerances)
