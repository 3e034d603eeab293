"""The sampler, which turns a batch of logits into tokens.

The random number of a token depends only on the request's seed and on the token's position in the sequence, never on
what else is in the batch or on how often the request was retracted and recomputed: a counter-based generator, not a
stream.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ...kernels import sample_tokens
from ..text.sampling_params import SamplingParams


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection that spreads every input bit."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seeds: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each (seed, position), both [n]; equal pairs give equal numbers."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = _mix(seeds.astype(np.uint64) + golden) + positions.astype(np.uint64) * golden
    mixed: NDArray[np.float64] = (_mix(_mix(state) + golden) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return mixed


def derive_seed(runner_seed: int, request_id: int) -> int:
    """The seed of a request that gave none: fixed by the runner's seed and the request id."""
    pair = np.array([runner_seed & (2**64 - 1)], dtype=np.uint64)
    mixed = _mix(_mix(pair) + np.array([request_id], dtype=np.int64).astype(np.uint64))
    return int(mixed.view(np.int64)[0])


class SamplingBatch:
    """The parameters of n rows as arrays, with the random number of each row drawn."""

    def __init__(self, params: Sequence[SamplingParams], seeds: Sequence[int], positions: NDArray[np.integer]) -> None:
        """`seeds`: [n] int64; `positions`: [n] position in its sequence of the token that each row samples."""
        self.rows = len(params)
        self.greedy = all(p.greedy for p in params)
        """Whether every row takes its most likely token."""
        self.temperature = np.array([p.temperature for p in params], dtype=np.float32)
        self.top_p = np.array([p.top_p for p in params], dtype=np.float32)
        self.top_k = np.array([p.top_k for p in params], dtype=np.int32)
        self.min_p = np.array([p.min_p for p in params], dtype=np.float32)
        self.uniform = uniform(np.array(seeds, dtype=np.int64), np.asarray(positions, dtype=np.int64))


def sample(logits: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """Choose one token for each row. `logits`: [n, vocab], any float type. Returns int64 [n] on the same device."""
    if batch.greedy:
        return logits.argmax(dim=-1)
    temperature, top_p, top_k, min_p, uniform = (
        torch.from_numpy(column).to(logits.device, non_blocking=True)
        for column in (batch.temperature, batch.top_p, batch.top_k, batch.min_p, batch.uniform)
    )
    return sample_tokens(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniform=uniform)
