"""The host tier: what is copied when, what comes back, and what the driver may report."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tokenspeed.scheduler import (
    CopyBatch,
    CopyKind,
    CopyView,
    EventKind,
    PageView,
    Policy,
    Scheduler,
    SchedulerConfig,
    UnknownCopy,
)

BLOCK = 4


def prompt(length: int, seed: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 30_000, length, dtype=np.int32)


def scheduler_with(policy: str | Policy = "default", **changes: float | bool) -> Scheduler:
    settings: dict[str, float | bool] = {
        "num_blocks": 16,
        "block_size": BLOCK,
        "max_running": 4,
        "max_step_tokens": 32,
        "overlap_depth": 0,
        "num_host_blocks": 64,
    }
    return Scheduler(SchedulerConfig(**(settings | changes)), policy=policy)  # type: ignore[arg-type]


class Driver:
    """Runs steps at once and copies after `delay` steps, newest first."""

    def __init__(self, scheduler: Scheduler, delay: int = 0) -> None:
        self.scheduler = scheduler
        self.delay = delay
        self.queue: list[tuple[int, CopyBatch]] = []
        self.events: list[tuple[int, int, int]] = []
        self.steps = 0

    def run(self, steps: int = 5_000) -> list[tuple[int, int, int]]:
        """Until nothing is left to do; returns the events since the last call."""
        self.events = []
        for _ in range(steps):
            plan = self.scheduler.plan()
            copies = self.scheduler.copies()
            if copies is not None:
                self.queue.append((self.steps + self.delay, copies))
            self.steps += 1
            if plan is not None:
                self.scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
            due = [batch for at, batch in self.queue if at < self.steps]
            self.queue = [(at, batch) for at, batch in self.queue if at >= self.steps]
            for batch in due[::-1]:
                self.scheduler.transfer_done(batch.ids[::-1])
            self.events += self.scheduler.events()
            self.scheduler.check()
            if plan is None and copies is None and not due and not self.queue:
                return self.events
        raise AssertionError("this does not end")

    def admitted(self) -> dict[int, int]:
        """Tokens found by request, at its last admission."""
        return {request: value for kind, request, value in self.events if kind == EventKind.ADMITTED}


@pytest.mark.parametrize("delay", [0, 7])
def test_a_session_that_was_evicted_comes_back_from_the_host(delay: int) -> None:
    driver = Driver(scheduler_with(), delay)
    first = prompt(40, 0)
    for request_id in range(4):
        driver.scheduler.submit(request_id, first if request_id == 0 else prompt(40, request_id), 2)
        driver.run()
    driver.scheduler.submit(9, np.concatenate([first, prompt(4, 9)]), 2)
    driver.run()
    stats = driver.scheduler.stats()
    assert driver.admitted() == {9: 40}
    assert 0 < stats.host_hit_tokens <= 40
    assert (EventKind.FETCHED, 9, stats.host_hit_tokens) in driver.events


def test_what_is_cheaper_to_compute_is_not_copied() -> None:
    driver = Driver(scheduler_with(host_copy_tokens_per_s=1.0, prefill_tokens_per_s=1e6))
    for request_id in range(6):
        driver.scheduler.submit(request_id, prompt(40, request_id % 3), 2)
        driver.run()
    stats = driver.scheduler.stats()
    assert (stats.spills, stats.fetches) == (0, 0)


class Eager(Policy):
    """Copies whatever it may to the host."""

    def spill(self, page: PageView, copy: CopyView) -> bool:
        return True


def test_a_long_queue_on_the_link_makes_computing_cheaper() -> None:
    # Alone the copy of 40 tokens takes 40 ms and the computation 60; behind another of its size the copy takes 80.
    figures = {"host_copy_tokens_per_s": 1e3, "prefill_tokens_per_s": 40 / 0.06}
    scheduler = scheduler_with(Eager(), num_blocks=60, num_host_blocks=200, **figures)
    driver = Driver(scheduler)
    for request_id in range(12):
        scheduler.submit(request_id, prompt(41, request_id), 1)
        driver.run()
    for request_id in (0, 1):
        scheduler.submit(20 + request_id, prompt(41, request_id), 1)
    scheduler.plan()
    copies = scheduler.copies()
    assert copies is not None
    assert copies.num_tokens[copies.kinds == CopyKind.FETCH].sum() == 40, "those of the first request"
    admitted = [event for event in scheduler.events() if event[0] == EventKind.ADMITTED]
    assert admitted == [(EventKind.ADMITTED, 21, 0)], "the second begins to compute at once"


def test_a_retracted_request_gets_back_all_that_it_had_computed() -> None:
    driver = Driver(scheduler_with(num_blocks=20, max_step_tokens=64), delay=1)
    for request_id in range(3):
        driver.scheduler.submit(request_id, prompt(17 + request_id, request_id), 40)
    events = driver.run()
    dropped: dict[int, int] = {}
    found = []
    for kind, request_id, value in events:
        if kind == EventKind.RETRACTED:
            dropped[request_id] = value
        elif kind == EventKind.ADMITTED and request_id in dropped:
            found.append((value, dropped.pop(request_id)))
    assert found
    assert all(value == had for value, had in found), "nothing was computed twice, partial pages included"
    stats = driver.scheduler.stats()
    assert stats.tails_matched > 0
    assert {request for kind, request, _ in events if kind == EventKind.FINISHED} == {0, 1, 2}


def test_the_host_drops_what_was_used_least_recently() -> None:
    driver = Driver(scheduler_with(num_host_blocks=12, kv_events=True))
    for request_id in range(6):
        driver.scheduler.submit(request_id, prompt(40, request_id), 2)
        driver.run()
    stats = driver.scheduler.stats()
    assert stats.host_evictions > 0
    assert stats.host_used_blocks <= 12
    driver.scheduler.submit(10, prompt(40, 0), 2)
    driver.run()
    assert driver.admitted() == {10: 0}, "the oldest session is gone from both tiers"


@pytest.mark.parametrize("delay", [0, 3])
def test_a_router_that_follows_the_events_knows_what_is_where(delay: int) -> None:
    driver = Driver(scheduler_with(kv_events=True, num_host_blocks=20), delay)
    tiers: dict[str, set[int]] = {"device": set(), "host": set()}
    for request_id in range(12):
        driver.scheduler.submit_hashed(request_id, 40, np.arange(10, dtype=np.uint64) + 100 * (request_id % 5) + 1, 2)
        for kind, page, name in driver.run():
            tier = tiers["device" if kind in (EventKind.KV_STORED, EventKind.KV_REMOVED) else "host"]
            if kind in (EventKind.KV_STORED, EventKind.HOST_STORED):
                assert name not in tier
                assert name % 100 == page + 1
                tier.add(name)
            elif kind in (EventKind.KV_REMOVED, EventKind.HOST_REMOVED):
                tier.remove(name)
        stats = driver.scheduler.stats()
        assert len(tiers["device"]) == stats.cached_blocks
        assert len(tiers["host"]) == stats.host_used_blocks


def test_wrong_copy_ids_are_refused_and_change_nothing() -> None:
    scheduler = scheduler_with(num_blocks=32)
    with pytest.raises(UnknownCopy, match="copy 1 is not under way"):
        scheduler.transfer_done(np.array([1]))
    for request_id in range(3):
        scheduler.submit(request_id, prompt(40, request_id), 2)
    copies = None
    while copies is None:
        plan = scheduler.plan()
        if plan is not None:
            scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
        copies = scheduler.copies()
    assert len(copies) >= 2
    assert set(copies.kinds.tolist()) == {CopyKind.SPILL}
    assert len({*copies.blocks.tolist()}) == len({*copies.host_pages.tolist()}) == len(copies)
    assert (copies.num_tokens == BLOCK).all()
    one, other = copies.ids[:2].tolist()
    before = scheduler.snapshot()
    for bad, reason in (([one, one], "twice"), ([one, 10**9], "not under way"), ([-1], "not under way")):
        with pytest.raises(UnknownCopy, match=reason):
            scheduler.transfer_done(np.array(bad))
    assert scheduler.snapshot() == before
    scheduler.transfer_done(np.array([other]))
    with pytest.raises(UnknownCopy, match=f"copy {other} is not under way"):
        scheduler.transfer_done(np.array([one, other]))
    scheduler.transfer_done(np.array([one]))
    scheduler.transfer_done(np.array([], dtype=np.int64))
    scheduler.check()


def test_an_abort_while_pages_are_on_their_way_harms_nobody() -> None:
    scheduler = scheduler_with()
    driver = Driver(scheduler)
    for request_id in range(4):
        scheduler.submit(request_id, prompt(40, request_id), 2)
        driver.run()
    scheduler.submit(8, prompt(40, 0), 2)
    scheduler.submit(9, prompt(40, 0), 2)
    assert scheduler.plan() is None
    copies = scheduler.copies()
    assert copies is not None and (copies.kinds == CopyKind.FETCH).any()
    scheduler.abort(8)
    scheduler.check()
    driver.queue.append((0, copies))
    events = driver.run()
    assert [request for kind, request, _ in events if kind == EventKind.FINISHED] == [9]
    assert scheduler.stats().held_blocks == 0


def test_those_behind_pass_while_the_head_of_the_line_waits_for_its_copies() -> None:
    scheduler = scheduler_with(num_blocks=40)
    driver = Driver(scheduler)
    for request_id in range(8):
        scheduler.submit(request_id, prompt(40, request_id), 2)
        driver.run()
    scheduler.submit(8, prompt(40, 0), 2)
    scheduler.submit(9, prompt(8, 99), 2)
    plan = scheduler.plan()
    assert plan is not None and plan.request_ids.tolist() == [9]
    assert scheduler.stats().waiting == 1


def test_config_errors_of_the_host_tier_name_the_field() -> None:
    for field, value in (("num_host_blocks", -1), ("max_retractions", -1)):
        with pytest.raises(ValueError, match=rf"{field} is {value}"):
            scheduler_with(**{field: value})  # type: ignore[arg-type]
    for field in ("host_copy_tokens_per_s", "prefill_tokens_per_s"):
        with pytest.raises(ValueError, match=rf"{field} is 0.0"):
            scheduler_with(**{field: 0.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prefix_cache is off"):
        scheduler_with(prefix_cache=False)
