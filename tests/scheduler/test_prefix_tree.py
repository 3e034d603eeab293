"""The prefix cache as a tree: what is published, what is evicted first, and what names may not do."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tokenspeed.scheduler import Scheduler, SchedulerConfig

PAGE = 4


def scheduler_with(num_blocks: int) -> Scheduler:
    return Scheduler(SchedulerConfig(num_blocks=num_blocks, block_size=PAGE, max_running=4, max_step_tokens=64))


def finish(scheduler: Scheduler) -> None:
    """Drive until nothing is left to do, recounting everything after every step."""
    while (plan := scheduler.plan()) is not None:
        scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
        scheduler.check()


def hit(scheduler: Scheduler, tokens: list[int]) -> int:
    """Tokens of a prompt that a request finds in the cache; it is aborted without computing any."""
    before = scheduler.stats().prefix_hit_tokens
    scheduler.submit(999, np.array(tokens, dtype=np.int32), 1)
    scheduler.plan()
    scheduler.abort(999)
    return scheduler.stats().prefix_hit_tokens - before


def submit(scheduler: Scheduler, request: int, tokens: list[int]) -> None:
    assert scheduler.submit(request, np.array(tokens, dtype=np.int32), 1)
    finish(scheduler)


def test_the_longest_part_of_the_oldest_prefix_goes_first() -> None:
    scheduler = scheduler_with(num_blocks=10)
    old, new = [1] * 17, [2] * 17  # four whole pages each, 8 blocks cached
    submit(scheduler, 1, old)
    submit(scheduler, 2, new)
    submit(scheduler, 3, [3] * 17)  # 5 blocks: 2 are free, 3 are evicted
    assert scheduler.stats().evictions == 3
    assert hit(scheduler, new) == 4 * PAGE
    assert hit(scheduler, old) == PAGE


def test_a_shared_stem_outlives_its_branches() -> None:
    scheduler = scheduler_with(num_blocks=9)
    stem = [7] * 8
    submit(scheduler, 1, [*stem, *[1] * 9])  # stem: 2 pages, branch: 2 pages
    submit(scheduler, 2, [*stem, *[2] * 9])
    submit(scheduler, 3, [3] * 24)  # 6 blocks: 3 free, 3 evicted: one branch and a leaf of the other
    assert hit(scheduler, [*stem, *[2] * 9]) == 3 * PAGE
    assert hit(scheduler, [*stem, *[1] * 9]) == 2 * PAGE


def test_pages_behind_a_page_that_another_published_stay_private() -> None:
    """The last prompt page is always recomputed; if it is cached already, nothing can hang below the copy."""
    scheduler = scheduler_with(num_blocks=16)
    for request in (1, 2):
        scheduler.submit(request, np.full(2 * PAGE, 5, dtype=np.int32), 2 * PAGE + 1)
        finish(scheduler)
    assert scheduler.stats().cached_blocks == 4, "the second answer is the first one's continuation, cached once"


def test_a_name_that_appears_under_two_prefixes_is_used_under_one() -> None:
    """`submit_hashed` trusts its caller; names that leave out what is in front of a page cost hits and nothing else."""
    scheduler = scheduler_with(num_blocks=16)
    for request, first in ((1, 100), (2, 200), (3, 200), (4, 100)):
        scheduler.submit_hashed(request, 3 * PAGE + 1, np.array([first, 300, 400], dtype=np.uint64), 1)
        finish(scheduler)
    stats = scheduler.stats()
    assert stats.prefix_hit_tokens == PAGE + 3 * PAGE  # request 3: its first page; request 4: all
    assert stats.cached_blocks == 4


@pytest.mark.parametrize("seed", range(6))
def test_random_prefixes_under_pressure_keep_the_books(seed: int) -> None:
    rng = random.Random(seed)
    scheduler = scheduler_with(num_blocks=14)
    for request in range(60):
        tokens = [rng.randrange(2) for _ in range(rng.randint(1, 6))]
        scheduler.submit(request, np.repeat(np.array(tokens, dtype=np.int32), PAGE), rng.randint(1, 6))
        for _ in range(rng.randint(0, 3)):
            if (plan := scheduler.plan()) is not None:
                scheduler.land(plan.step, np.array([rng.randrange(2)] * plan.sampling_rows, dtype=np.int32))
                scheduler.check()
    finish(scheduler)
    stats = scheduler.stats()
    assert stats.evictions > 20 and stats.prefix_hit_tokens > 100
    assert stats.held_blocks == 0
