"""The sampling parameters of the requests that hold a slot, as arrays, and the sampler that takes them on a device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ...kernels import sample_tokens
from ..text.sampling_params import GREEDY, SamplingParams
from .sampling import derive_seed, uniform
from .step_arrays import StepArrays


class SamplingTable:
    """What each slot's request asks of the sampler. Read from the request's parameters once, not at every step."""

    def __init__(self, slots: int, seed: int = 0) -> None:
        """`seed`: from which requests without a seed of their own derive one."""
        self._runner_seed = seed
        self._request = np.full(slots, -1, dtype=np.int64)
        self._temperature = np.zeros(slots, dtype=np.float32)
        self._top_p = np.ones(slots, dtype=np.float32)
        self._min_p = np.zeros(slots, dtype=np.float32)
        self._top_k = np.zeros(slots, dtype=np.int32)
        self._seed = np.zeros(slots, dtype=np.int64)

    def assign(
        self, slots: NDArray[np.integer], request_ids: NDArray[np.int64], sampling: Mapping[int, SamplingParams]
    ) -> None:
        """Say which request holds each slot, both [n]. A request that is not in `sampling` has ended: it is greedy."""
        for row in np.flatnonzero(self._request[slots] != request_ids).tolist():
            request = int(request_ids[row])
            if (params := sampling.get(request)) is None:
                self._set(int(slots[row]), GREEDY, 0)
            else:
                seed = derive_seed(self._runner_seed, request) if params.seed is None else params.seed
                self._set(int(slots[row]), params, seed)
                self._request[slots[row]] = request

    def _set(self, slot: int, params: SamplingParams, seed: int) -> None:
        self._request[slot] = -1
        self._temperature[slot] = params.temperature
        self._top_p[slot] = params.top_p
        self._min_p[slot] = params.min_p
        self._top_k[slot] = params.top_k
        self._seed[slot] = seed

    def write(
        self,
        slots: NDArray[np.integer],
        positions: NDArray[np.integer],
        into: StepArrays[NDArray[np.generic]],
        place: NDArray[np.integer] | None = None,
    ) -> None:
        """Fill n results of a step. `positions`: [n] place in its sequence of the token that is sampled; `place`: [n]
        which results these are, if not the first ones."""
        at = slice(len(slots)) if place is None else place
        into.temperature[at] = self._temperature[slots]
        into.top_p[at] = self._top_p[slots]
        into.min_p[at] = self._min_p[slots]
        into.top_k[at] = self._top_k[slots]
        into.uniform[at] = uniform(self._seed[slots], np.asarray(positions, dtype=np.int64))


def sample(logits: torch.Tensor, step: StepArrays[torch.Tensor]) -> torch.Tensor:
    """One token for each row of `logits`, [results, vocab]. Returns int64 [results]; nothing is synchronised."""
    return sample_tokens(
        logits,
        temperature=step.temperature,
        top_k=step.top_k,
        top_p=step.top_p,
        min_p=step.min_p,
        uniform=step.uniform,
    )
