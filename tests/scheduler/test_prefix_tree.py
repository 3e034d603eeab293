"""The prefix cache as a tree: what is published, what is evicted first, and what names may not do."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tokenspeed.scheduler import BadRequest, Scheduler, SchedulerConfig

PAGE = 4


def scheduler_with(num_blocks: int = 16, **more: Any) -> Scheduler:
    return Scheduler(SchedulerConfig(num_blocks=num_blocks, block_size=PAGE, max_running=4, max_step_tokens=64, **more))


def finish(scheduler: Scheduler) -> None:
    """Drive until nothing is left to do, recounting everything after every step."""
    while True:
        plan, copies = scheduler.plan(), scheduler.copies()
        if copies is not None:
            scheduler.transfer_done(copies.ids)
        if plan is not None:
            scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
        elif copies is None:
            return
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


@pytest.mark.parametrize("hashes", [[200, 300, 400], [300, 500, 600], [100, 400, 300], [7, 8, 7], [100, 200, 400]])
@pytest.mark.parametrize("when", ["computed", "cached", "on the host"])
def test_hashes_that_are_no_chain_with_what_is_known_are_refused(hashes: list[int], when: str) -> None:
    """A page's hash names its whole prefix: with another page in front of it, it is another page."""
    host = when == "on the host"
    # Copying is cheap, so that all that is evicted goes to the host.
    scheduler = (
        scheduler_with(num_blocks=4, num_host_blocks=8, host_copy_tokens_per_s=1e9) if host else scheduler_with()
    )
    known = np.array([100, 300, 400], dtype=np.uint64)
    assert scheduler.submit_hashed(1, 3 * PAGE + 1, known, 1)
    plan = scheduler.plan()
    assert plan is not None
    if when != "computed":
        scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
        finish(scheduler)
    if host:
        assert scheduler.submit(2, np.arange(4 * PAGE, dtype=np.int32), 1)
        finish(scheduler)
        assert scheduler.stats().host_used_blocks >= 3
    before = scheduler.snapshot()
    with pytest.raises(BadRequest, match=r"page_hashes\[\d\] is \d+, which"):
        scheduler.submit_hashed(3, 3 * PAGE + 1, np.array(hashes, dtype=np.uint64), 1)
    assert scheduler.snapshot() == before
    if when == "computed":
        scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
    assert scheduler.submit_hashed(4, 3 * PAGE + 1, known, 1)
    finish(scheduler)
    assert scheduler.stats().finished == (3 if host else 2)


@pytest.mark.parametrize("seed", range(4))
def test_ids_of_contents_never_end_in_a_refusal_by_the_machine(seed: int) -> None:
    """Two that wait may contradict each other unseen: nobody knows their pages yet. Whatever is admitted is planned."""
    rng = random.Random(seed)
    scheduler = scheduler_with(num_blocks=8, num_host_blocks=6, host_copy_tokens_per_s=1e9)
    refused = 0
    for request in range(150):
        pages = rng.sample(range(10), rng.randint(1, 5))
        try:
            scheduler.submit_hashed(request, PAGE * len(pages) + 1, np.array(pages, dtype=np.uint64), rng.randint(1, 6))
        except BadRequest:
            refused += 1
        if rng.random() < 0.3:
            finish(scheduler)
            scheduler.check()
    finish(scheduler)
    assert 20 < refused < 150


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
