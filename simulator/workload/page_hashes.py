"""Identities of KV blocks: 64-bit chain hashes made from what a trace says about prefixes.

A chain hash names all tokens from the start of the prompt to the end of its block, so equal hashes mean equal prefixes.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import WorkloadError

NO_HASHES: Final = np.empty(0, dtype=np.uint64)
"""[0] of a call whose blocks are never shared."""


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014), element by element: it spreads the bits."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@lru_cache(maxsize=4096)
def scope_salt(scope: int) -> np.uint64:
    """A number that keeps the hashes of one scope (a session, a shared prompt, a whole trace) apart from others."""
    return np.uint64(mix(mix(np.array([scope], dtype=np.uint64)))[0])


def numbered_blocks(scope: int, first: int, count: int) -> NDArray[np.uint64]:
    """[count] hashes of blocks `first`, `first + 1`, ... of a text that belongs to `scope` alone."""
    return mix(np.arange(first, first + count, dtype=np.uint64) ^ scope_salt(scope))


def split_ratio(trace_block_size: int, block_size: int) -> int:
    """Scheduler blocks per block of the trace. Raises WorkloadError if `block_size` does not divide it."""
    if block_size < 1 or trace_block_size % block_size != 0:
        fits = [size for size in (16, 32, 64) if trace_block_size % size == 0]
        raise WorkloadError(
            f"block_size is {block_size} but the trace hashes prefixes in blocks of {trace_block_size} tokens, which "
            f"it must divide; use --block-size {' or '.join(str(size) for size in fits) or trace_block_size}"
        )
    return trace_block_size // block_size


def expand(ids: NDArray[np.int64], ratio: int, scope: int, blocks: int) -> NDArray[np.uint64]:
    """Chain hashes of scheduler blocks from the chain ids of a trace's larger blocks.

    ids: [n] one id for each block of the trace; ratio: scheduler blocks in each; scope: ids of different scopes never
    match; blocks: how many to return at most. Returns [min(n * ratio, blocks)].
    """
    needed = ids[: -(-blocks // ratio)].astype(np.uint64)
    numbered = needed[:, None] * np.uint64(ratio) + np.arange(ratio, dtype=np.uint64)
    return mix(numbered.reshape(-1)[:blocks] ^ scope_salt(scope))


def extended(
    requests: Sequence[tuple[NDArray[np.int64], int, int]],
    trace_block_size: int,
    block_size: int,
    scope: int,
) -> list[NDArray[np.uint64]]:
    """Chain hashes of one agent's calls, in order: (chain ids of the prompt's trace blocks, prompt, output tokens).

    Where the next prompt repeats a call's and is long enough to hold its answer, the call's hashes also name the blocks
    that its output fills; they are a view of the next call's. Otherwise they name the prompt's full blocks.
    """
    ratio = trace_block_size // block_size
    result: list[NDArray[np.uint64]] = []
    successor: tuple[NDArray[np.int64], int] | None = None
    for ids, prompt, output in reversed(requests):
        known = min(len(ids), prompt // trace_block_size)
        blocks = prompt // block_size
        extends = (
            successor is not None
            and known > 0
            and len(successor[0]) >= known
            and bool(successor[0][known - 1] == ids[known - 1])
        )
        if extends and successor is not None:
            whole = successor[1] >= prompt + output
            blocks = (prompt + output) // block_size if whole else min(blocks, known * ratio)
            result.append(result[-1][:blocks])
        else:
            result.append(expand(ids, ratio, scope, blocks))
        successor = ids, prompt
    result.reverse()
    return result
