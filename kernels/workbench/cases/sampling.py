"""Cases of `sample_tokens`: rows with different parameters in one batch, against the filters' definition in plain
Python."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import accumulate

import torch

from ...sampling import sample_tokens
from .case import DTYPES, EXACT, Case, MakeCase, Results

# temperature, top_k, top_p, min_p
_ROWS = [
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.3, 0, 0.6, 0.0),
    (1.0, 40, 0.9, 0.0),
    (0.9, 0, 1.0, 0.1),
    (1.0, 20, 0.8, 0.05),
    (0.0, 3, 0.5, 0.2),
    (2.0, 10_000_000, 0.99, 0.0),
    (1e-4, 0, 1.0, 0.0),
    (1.0, 1, 1.0, 0.0),
]


def makers() -> Iterator[tuple[str, MakeCase]]:
    """A vocabulary that is smaller than a block, and one that is larger and not a multiple of it."""
    for dtype in DTYPES:
        for vocab in (50, 5000):
            yield "sample_tokens", partial(_case, vocab, dtype)


def _kept(probabilities: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """The tokens that the filters keep, in the order of the definition."""
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    least = 0.0
    if 0 < top_k < len(order):
        order = order[:top_k]
        least = probabilities[order[-1]]
    if top_p < 1:
        mass = math.fsum(probabilities[token] for token in order)
        sums = list(accumulate(probabilities[token] for token in order))
        last = next((index for index, total in enumerate(sums) if total >= top_p * mass), len(order) - 1)
        least = max(least, probabilities[order[last]])
    least = max(least, min_p * probabilities[order[0]])
    return {token for token, probability in enumerate(probabilities) if probability >= least}


def _case(vocab: int, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> Case:
    logits = (torch.randn(len(_ROWS), vocab + 3, generator=random) * 3).to(dtype)[:, :vocab]
    tokens, uniform = [], []
    for row, (temperature, top_k, top_p, min_p) in zip(logits.double().tolist(), _ROWS, strict=True):
        largest = max(row)
        if temperature == 0:
            tokens.append(row.index(largest))
            uniform.append(0.5)
            continue
        powers = [math.exp((logit - largest) / temperature) for logit in row]
        total = math.fsum(powers)
        probabilities = [power / total for power in powers]
        kept = _kept(probabilities, top_k, float(torch.tensor(top_p)), float(torch.tensor(min_p)))
        mass = math.fsum(probabilities[token] for token in kept)
        # Aim at the middle of a likely token, which no rounding of the sums before it can miss.
        likely = [token for token in sorted(kept) if probabilities[token] > 1e-3]
        token = likely[int(torch.randint(len(likely), (1,), generator=random))]
        before = math.fsum(probabilities[other] for other in kept if other < token)
        tokens.append(token)
        uniform.append((before + probabilities[token] / 2) / mass)
    columns = [torch.tensor(column) for column in zip(*_ROWS, strict=True)]
    parameters = {
        "temperature": columns[0].float().to(device),
        "top_k": columns[1].int().to(device),
        "top_p": columns[2].float().to(device),
        "min_p": columns[3].float().to(device),
        "uniform": torch.tensor(uniform, dtype=torch.float64, device=device),
    }
    placed = logits.to(device)

    def run(kernel: str) -> Results:
        return (sample_tokens(placed, **parameters, kernel=kernel)[:, None],)

    exact = torch.tensor(tokens, device=device).double()[:, None]
    return Case("sample_tokens", f"{len(_ROWS)} rows of {vocab}", dtype, (vocab,), run, (exact,), (EXACT,))
