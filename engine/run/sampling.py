"""The random numbers that tokens are drawn with.

The random number of a token depends only on the request's seed and on the token's position in the sequence, never on
what else is in the batch or on how often the request was retracted and recomputed: a counter-based generator, not a
stream.
"""

import numpy as np
from numpy.typing import NDArray


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
