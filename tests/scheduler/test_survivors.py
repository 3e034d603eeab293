"""Faults of the hand-written planner that an audit planted and that no test had noticed: each test notices one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.scheduler_world import World
from tokenspeed.scheduler import CopyKind, EventKind, Scheduler, SchedulerConfig, StepPlan


def planned(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.plan()
    assert plan is not None
    return plan


def land(scheduler: Scheduler, plan: StepPlan) -> None:
    scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
    scheduler.check()


def config(**more: Any) -> SchedulerConfig:
    size = {"num_blocks": 16, "block_size": 4, "max_running": 4, "max_step_tokens": 64, "overlap_depth": 0}
    return SchedulerConfig(**{**size, **more})


def prompt(length: int, first: int) -> np.ndarray:
    return np.concatenate([[first], np.zeros(length - 1)]).astype(np.int32)


def test_a_slot_is_not_given_away_while_a_step_in_flight_has_its_row() -> None:
    scheduler = Scheduler(config(max_running=1, overlap_depth=1))
    scheduler.submit(1, [1, 2], 4)
    first = planned(scheduler)
    scheduler.abort(1)
    scheduler.submit(2, [3], 1)
    assert scheduler.plan() is None, "the only slot is that of a row in flight"
    land(scheduler, first)
    assert planned(scheduler).request_ids.tolist() == [2]


def test_prompts_leave_the_budget_of_those_that_decode_behind_them() -> None:
    """Retracted, an old request computes its prompt again while younger ones decode."""
    scheduler = Scheduler(config(num_blocks=64, max_step_tokens=4, max_running=3))
    scheduler.submit(1, prompt(30, 1), 8)
    land(scheduler, planned(scheduler))
    scheduler.submit(2, prompt(1, 2), 8)
    land(scheduler, planned(scheduler))
    while (plan := scheduler.plan()) is not None:
        assert plan.tokens <= 4
        decodes = [r for r, n, o in zip(plan.request_ids, plan.num_tokens, plan.outputs, strict=True) if n == o == 1]
        assert len(decodes) >= min(plan.decode_rows, 1)
        land(scheduler, plan)
    for seed in range(4):
        world = World(config(num_blocks=6, max_step_tokens=5, max_running=4), seed)
        world.stops = 0
        for first in range(6):
            world.submit([first] * 5, 9)
        world.drain()
        assert world.retractions > 0


def test_who_is_retracted_gives_its_slot_back() -> None:
    world = World(config(num_blocks=7, max_running=3, max_retractions=3), 3)
    world.stops = 0
    for first in range(6):
        world.submit([first] * 4, 12)
    world.drain()
    assert world.retractions > 0
    for first in range(3):
        world.submit([first + 10], 2)
    world.plan()
    assert world.scheduler.stats().running == 3, "all slots are there again"


def test_a_cached_page_that_a_step_in_flight_may_read_is_not_taken() -> None:
    scheduler = Scheduler(config(num_blocks=3, overlap_depth=1, max_running=2))
    scheduler.submit(1, prompt(8, 1), 3)
    land(scheduler, planned(scheduler))
    flying = planned(scheduler)  # reads both full pages
    scheduler.abort(1)
    scheduler.submit(2, prompt(12, 2), 1)
    scheduler.plan()
    land(scheduler, flying)
    assert scheduler.stats().refusals == 0
    while (plan := scheduler.plan()) is not None:
        land(scheduler, plan)


def hosted(**more: Any) -> Scheduler:
    """Pages of two texts are on the host, copying is cheap and computing is dear."""
    size = {"num_blocks": 5, "num_host_blocks": 12, "host_copy_tokens_per_s": 1e9, "prefill_tokens_per_s": 1.0}
    scheduler = Scheduler(config(**{**size, **more}))
    for number, first in enumerate((1, 2)):
        scheduler.submit(number, prompt(13, first), 2)
        drain(scheduler)
    scheduler.events()
    return scheduler


def drain(scheduler: Scheduler) -> int:
    """How many rounds it takes until nothing happens any more."""
    for rounds in range(1000):
        plan, copies = scheduler.plan(), scheduler.copies()
        if copies is not None:
            scheduler.transfer_done(copies.ids)
        if plan is not None:
            land(scheduler, plan)
        if plan is None and copies is None:
            return rounds
    raise AssertionError("it never ends")


def test_a_page_on_its_way_is_not_matched_before_it_is_there() -> None:
    scheduler = hosted()
    fetches = scheduler.stats().fetches
    scheduler.submit(7, prompt(13, 1), 2)
    for _ in range(10):
        assert scheduler.plan() is None
        copies = scheduler.copies()
        if copies is None:
            break
        spills = [int(c) for c, kind in zip(copies.ids, copies.kinds, strict=True) if kind == CopyKind.SPILL]
        scheduler.transfer_done(spills)
    assert scheduler.stats().fetches > fetches
    scheduler.submit(8, prompt(13, 1), 2)
    assert scheduler.plan() is None, "both wait for the pages"
    assert scheduler.stats().refusals == 0 and not [e for e in scheduler.events() if e[0] == EventKind.ADMITTED]


def test_in_a_setting_that_retracts_often_every_text_is_its_own() -> None:
    """Block-table entries are sent again, rows get their own tokens: an account of a runner and a device notice."""
    retractions = 0
    for seed in range(6):
        world = World(config(num_blocks=7, max_running=4, max_step_tokens=12, overlap_depth=1, max_retractions=8), seed)
        world.stops = 0
        for first in range(6):
            world.submit([first] * 4, 12)
        world.drain()
        retractions += world.retractions
    assert retractions > 2


def test_copies_name_the_block_whose_content_is_wanted() -> None:
    """Two texts, so that a wrong block would hold the other one."""
    world = World(config(num_blocks=5, num_host_blocks=12, host_copy_tokens_per_s=1e9, prefill_tokens_per_s=1.0), 5)
    world.stops = 0
    for _ in range(3):
        for first in (1, 2):
            world.submit([first] * 13, 3)
            world.drain()
    stats = world.scheduler.stats()
    assert stats.spills > 3 and stats.host_hit_tokens > 8 and world.reads > 100


def test_waiting_for_a_prefix_that_does_not_advance_ends() -> None:
    """Who computes it waits itself for memory that an older one holds; after eight rounds the other goes ahead."""
    scheduler = Scheduler(config(num_blocks=64, max_running=4, max_step_tokens=4))
    scheduler.submit(1, prompt(4, 9), 60)
    land(scheduler, planned(scheduler))
    scheduler.submit(2, prompt(40, 2), 1)
    land(scheduler, planned(scheduler))
    scheduler.submit(3, prompt(40, 2), 1)
    rounds = 0
    while scheduler.stats().finished < 2:
        land(scheduler, planned(scheduler))
        rounds += 1
        assert rounds < 60
    assert scheduler.stats().prefix_hit_tokens >= 36, "it waited, and found what the other had computed"


@pytest.mark.parametrize("pages", [3, 4])
def test_pages_that_come_from_the_host_are_waited_for_and_that_ends(pages: int) -> None:
    scheduler = hosted(num_blocks=pages + 2)
    scheduler.submit(7, prompt(4 * pages + 1, 1), 2)
    scheduler.submit(8, prompt(4 * pages + 1, 2), 2)
    assert drain(scheduler) < 100
    assert scheduler.stats().finished == 4
