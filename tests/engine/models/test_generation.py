"""Greedy tokens of scheduler, runner and model equal those of transformers, however the work is cut."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tokenspeed.scheduler import SchedulerConfig

from .tiny import FAMILIES, VOCABULARY, Engine, Pair, reference

pytestmark = pytest.mark.serve

FULL = os.environ.get("TOKENSPEED_PARITY") == "full"
"""Every family in every setting (`make parity`); otherwise each family in one setting and a few in all."""

NEW_TOKENS = 64 if FULL else 16
BLOCK_SIZE = 16


def prompts() -> list[NDArray[np.int32]]:
    """Of different lengths; the last three share a prefix of two blocks."""
    rng = np.random.default_rng(3)
    own = [rng.integers(0, VOCABULARY, n, dtype=np.int32) for n in (1, 15, 33)]
    shared = rng.integers(0, VOCABULARY, 2 * BLOCK_SIZE, dtype=np.int32)
    return own + [np.concatenate([shared, rng.integers(0, VOCABULARY, n, dtype=np.int32)]) for n in (1, 9, 16)]


def config(
    budget: int, *, num_blocks: int = 64, num_host_blocks: int = 0, max_draft_tokens: int = 0
) -> SchedulerConfig:
    return SchedulerConfig(
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_running=min(budget, 8),
        max_step_tokens=budget,
        overlap_depth=1,
        prefix_cache=True,
        num_host_blocks=num_host_blocks,
        max_draft_tokens=max_draft_tokens,
    )


@pytest.fixture(scope="session")
def expected(pairs: Callable[[str], Pair]) -> Callable[[str], list[list[int]]]:
    known: dict[str, list[list[int]]] = {}

    def tokens(family: str) -> list[list[int]]:
        if family not in known:
            known[family] = reference(pairs(family).theirs, prompts(), NEW_TOKENS)
        return known[family]

    return tokens


SOME = FAMILIES if FULL else ["deepseek-v3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_together_with_chunks_of_seven(
    pairs: Callable[[str], Pair], expected: Callable[[str], list[list[int]]], family: str
) -> None:
    engine = Engine(pairs(family).ours, config(7), buckets=(4, 8))
    assert engine.generate(prompts(), NEW_TOKENS) == expected(family)
    assert engine.scheduler.stats().held_blocks == 0


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("budget", [1, 512])
def test_together_with_other_chunks(
    pairs: Callable[[str], Pair], expected: Callable[[str], list[list[int]]], family: str, budget: int
) -> None:
    engine = Engine(pairs(family).ours, config(budget))
    assert engine.generate(prompts(), NEW_TOKENS) == expected(family)


@pytest.mark.parametrize("family", SOME)
def test_alone_and_again_out_of_the_prefix_cache(
    pairs: Callable[[str], Pair], expected: Callable[[str], list[list[int]]], family: str
) -> None:
    engine = Engine(pairs(family).ours, config(512))
    for _ in range(2):
        for prompt, tokens in zip(prompts(), expected(family), strict=True):
            assert engine.generate([prompt], NEW_TOKENS) == [tokens]
    # Twice two more prompts that share two blocks, and the third one's own third block, when all are repeated.
    assert engine.scheduler.stats().prefix_hit_tokens >= (2 + 3) * 2 * BLOCK_SIZE


@pytest.mark.parametrize("family", SOME)
def test_retraction_and_copies_to_the_host_change_nothing(pairs: Callable[[str], Pair], family: str) -> None:
    pair = pairs(family)
    rng = np.random.default_rng(4)
    short = [rng.integers(0, VOCABULARY, BLOCK_SIZE - 1, dtype=np.int32) for _ in range(4)]
    # They begin with one block each and end with three.
    tokens = reference(pair.theirs, short, 2 * BLOCK_SIZE)
    for num_host_blocks in (0, 32):
        engine = Engine(pair.ours, config(64, num_blocks=6, num_host_blocks=num_host_blocks))
        for _ in range(2):
            assert engine.generate(short, 2 * BLOCK_SIZE) == tokens
        stats = engine.scheduler.stats()
        assert stats.retractions > 0
        assert (stats.spills > 0 and stats.fetches > 0) == (num_host_blocks > 0)


@pytest.mark.parametrize("family", ["llama", "deepseek-v3", "glm-4.7-flash"])
def test_only_planned_slots_of_the_cache_are_written(pairs: Callable[[str], Pair], family: str) -> None:
    engine = Engine(pairs(family).ours, config(8, num_blocks=8), buckets=(4,))
    prompt = np.arange(20, dtype=np.int32)
    engine.generate([prompt], 6)
    for pool in engine.runner.cache.pools:  # NaN before the first step
        written = ~pool.isnan().flatten(3).all(-1)
        partly = ~pool.isnan().flatten(3).any(-1)
        assert written.equal(partly)
        assert written[:, :8].sum(dim=(1, 2)).tolist() == [20 + 6 - 1] * len(pool)
        assert not written[:, 8, 4:].any()  # three of four rows pad a step, each in its slot of the null block


@pytest.mark.parametrize("buckets", [(), (8,)])
@pytest.mark.parametrize("family", ["qwen3-moe", "deepseek-v3", "glm-4.7-flash"])
def test_drafts_change_no_token(
    pairs: Callable[[str], Pair], expected: Callable[[str], list[list[int]]], family: str, buckets: tuple[int, ...]
) -> None:
    tokens = expected(family)

    def drafts(number: int, known: int) -> list[int]:
        right = tokens[number][known : known + 3]
        return [token if i < known % 4 else (token + 1) % VOCABULARY for i, token in enumerate(right)]

    engine = Engine(pairs(family).ours, config(64, max_draft_tokens=3), buckets)
    engine.runner.capture()
    assert engine.generate(prompts(), NEW_TOKENS, drafts) == tokens
    assert engine.scheduler.stats().steps < 2 + NEW_TOKENS
