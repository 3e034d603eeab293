"""Cases of `mla_prefill`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ...mla_prefill import HEAD_DIM, VALUE_DIM, mla_prefill
from .case import DTYPES, LSE_TOLERANCE, Case, MakeCase, RelativeError, Results, tolerance


def makers() -> Iterator[tuple[str, MakeCase]]:
    """Prompts behind prefixes of several lengths: causal, as the last chunk is, and over all keys, as those before."""
    for dtype in DTYPES:
        for causal in (True, False):
            yield "mla_prefill", partial(_case, 3, causal, dtype)


def _case(heads: int, causal: bool, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> Case:
    new, keys = [1, 64, 65, 130, 9], [1, 300, 65, 513, 4]
    scale = HEAD_DIM**-0.5
    q = torch.randn(sum(new), heads, HEAD_DIM, generator=random).to(dtype)
    k = torch.randn(sum(keys), heads, HEAD_DIM, generator=random).to(dtype)
    v = torch.randn(sum(keys), heads, VALUE_DIM, generator=random).to(dtype)
    exact = []
    for own_q, own_k, own_v in zip(q.split(new), k.split(keys), v.split(keys), strict=True):
        # Not causal: as if the new tokens came after all keys.
        later = 0 if causal else len(own_q)
        padded_k, padded_v = (torch.cat([own, own.new_zeros(later, *own.shape[1:])]) for own in (own_k, own_v))
        scores = torch.einsum("qhd,khd->qhk", own_q.double(), padded_k.double()) * scale
        position = torch.arange(len(padded_k))
        last = torch.arange(len(own_q)) + len(padded_k) - len(own_q)
        visible = (position <= last[:, None]) & (position < len(own_k))
        scores = scores.where(visible[:, None], -torch.inf)
        weights = scores.softmax(-1).where(visible[:, None], 0.0)
        exact.append((torch.einsum("qhk,khd->qhd", weights, padded_v.double()), scores.logsumexp(-1)))
    exact_out, exact_lse = (torch.cat(parts).to(device) for parts in zip(*exact, strict=True))
    starts = (torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (new, keys))
    placed = tuple(tensor.to(device) for tensor in (q, k, v, *starts))

    def run(kernel: str) -> Results:
        out = torch.full((*q.shape[:-1], VALUE_DIM), torch.nan, dtype=dtype, device=device)
        lse = torch.full(q.shape[:-1], torch.nan, device=device)
        common = {"scale": scale, "causal": causal, "max_queries": max(new)}
        return mla_prefill(*placed, out=out, lse=lse, kernel=kernel, **common)

    description = f"{heads} heads, {'causal' if causal else 'all keys'}"
    # The weights are rounded as well as the result: 2.35e-3 expected, but a token that sees few keys may be above.
    tolerances = (tolerance(dtype, RelativeError(2.5e-3, 3e-3)), LSE_TOLERANCE)
    return Case("mla_prefill", description, dtype, (heads, 1), run, (exact_out, exact_lse), tolerances)
