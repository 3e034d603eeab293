"""What the planner promises: order, fairness to running requests, prefix reuse, retraction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest

from tokenspeed.scheduler import EventKind, Scheduler, SchedulerConfig, StepPlan


def prompt(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 30_000, length, dtype=np.int32)


def run(
    scheduler: Scheduler, each_step: Callable[[StepPlan], None] = lambda _: None, steps: int = 10_000
) -> list[tuple[int, int, int]]:
    """Drive until nothing is left to do; returns all events."""
    events, in_flight = [], deque[StepPlan]()
    for _ in range(steps):
        plan = scheduler.plan()
        if plan is not None:
            each_step(plan)
            in_flight.append(plan)
        if in_flight and (plan is None or len(in_flight) > scheduler.config.overlap_depth):
            oldest = in_flight.popleft()
            scheduler.land(oldest.step, np.zeros(oldest.sampling_rows, dtype=np.int32))
        elif plan is None:
            break
        events += scheduler.events()
    return events


def scheduler_with(**changes: int | bool) -> Scheduler:
    settings: dict[str, int | bool] = {
        "num_blocks": 64,
        "block_size": 4,
        "max_running": 8,
        "max_step_tokens": 32,
        "overlap_depth": 0,
    }
    return Scheduler(SchedulerConfig(**(settings | changes)))  # type: ignore[arg-type]


def test_requests_are_admitted_in_order_of_arrival() -> None:
    scheduler = scheduler_with(max_running=2)
    order = [30, 2, 17, 1, 9]
    for request_id in order:
        assert scheduler.submit(request_id, prompt(20, request_id), 4)
    events = run(scheduler)
    assert [r for kind, r, _ in events if kind == EventKind.ADMITTED] == order


def test_running_requests_get_a_token_in_every_step_while_long_prompts_arrive() -> None:
    scheduler = scheduler_with(num_blocks=80, max_running=16)
    for request_id in (1, 2):
        scheduler.submit(request_id, prompt(4, request_id), 100)
    first = scheduler.plan()
    assert first is not None
    scheduler.land(first.step, np.zeros(2, dtype=np.int32))
    for round_number in range(40):
        scheduler.submit(100 + round_number, prompt(32, 1000 + round_number), 1)  # fills the whole step budget
        plan = scheduler.plan()
        assert plan is not None
        assert {1, 2} <= set(plan.request_ids.tolist()), "a decoding request was left out"
        assert plan.tokens == 32, "the rest of the budget goes to the prompts"
        scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))


def test_next_turn_of_a_session_reuses_prompt_and_output() -> None:
    scheduler = scheduler_with()
    first_turn = prompt(21, 0)
    scheduler.submit(1, first_turn, 8)
    run(scheduler)
    output = np.zeros(8, dtype=np.int32)
    scheduler.submit(2, np.concatenate([first_turn, output, prompt(6, 1)]), 4)
    events = run(scheduler)
    # 28 of the 29 tokens have KV (the last output token was never fed back): 7 full blocks of 4.
    assert (EventKind.ADMITTED, 2, 28) in events


def test_last_prompt_token_is_always_computed() -> None:
    scheduler = scheduler_with()
    for request_id in (1, 2):
        scheduler.submit(request_id, prompt(16, 0), 2)
        events = run(scheduler)
    assert (EventKind.ADMITTED, 2, 12) in events


def test_prefix_cache_can_be_off() -> None:
    scheduler = scheduler_with(prefix_cache=False)
    for request_id in (1, 2):
        scheduler.submit(request_id, prompt(16, 0), 2)
        run(scheduler)
    stats = scheduler.stats()
    assert (stats.prefix_hit_tokens, stats.cached_blocks) == (0, 0)


def test_running_requests_share_a_prefix_by_reference() -> None:
    scheduler = scheduler_with(num_blocks=40)
    scheduler.submit(1, prompt(64, 0), 30)
    for _ in range(3):
        plan = scheduler.plan()
        assert plan is not None
        scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
    held = scheduler.stats().held_blocks
    scheduler.submit(2, prompt(64, 0), 2)
    scheduler.plan()
    assert scheduler.stats().held_blocks == held + 1, "only the last block is its own"


@pytest.mark.parametrize("overlap_depth", [0, 1])
def test_the_youngest_makes_room_and_everything_finishes(overlap_depth: int) -> None:
    scheduler = scheduler_with(num_blocks=14, overlap_depth=overlap_depth)
    for request_id in range(6):
        assert scheduler.submit(request_id, prompt(6, request_id), 40)
    events = run(scheduler)
    retracted = [r for kind, r, _ in events if kind == EventKind.RETRACTED]
    finished = {r: value for kind, r, value in events if kind == EventKind.FINISHED}
    assert retracted, "the pool is too small for all"
    assert 0 not in retracted, "the oldest is never retracted"
    assert finished == dict.fromkeys(range(6), 40)
    assert list(finished) == sorted(finished), "first come, first served: same lengths finish in order of arrival"


def test_a_request_that_fills_the_pool_alone_finishes_after_retraction() -> None:
    scheduler = scheduler_with(num_blocks=16, block_size=4)
    scheduler.submit(1, prompt(10, 1), 50)
    scheduler.submit(2, prompt(24, 2), 41)  # 64 tokens: exactly the pool
    events = run(scheduler)
    assert {r for kind, r, _ in events if kind == EventKind.FINISHED} == {1, 2}


def test_same_input_gives_the_same_plans() -> None:
    def record() -> list[tuple[list[int], list[int], list[int]]]:
        scheduler = scheduler_with(num_blocks=20, overlap_depth=1)
        for request_id in range(12):
            scheduler.submit(request_id, prompt(3 + request_id, request_id % 3), 12)
        steps: list[tuple[list[int], list[int], list[int]]] = []
        run(scheduler, lambda p: steps.append((p.request_ids.tolist(), p.num_tokens.tolist(), p.table_blocks.tolist())))
        return steps

    assert record() == record()


def test_requests_known_by_hashes_behave_like_those_known_by_tokens() -> None:
    by_tokens, by_hashes = scheduler_with(num_blocks=30), scheduler_with(num_blocks=30)
    shapes: dict[str, list[tuple[list[int], list[int]]]] = {"tokens": [], "hashes": []}
    for request_id in range(10):
        group = request_id % 3
        length = 9 + 4 * group
        by_tokens.submit(request_id, prompt(length, group), 3)
        pages = np.array([group * 100 + page for page in range(length // 4)], dtype=np.uint64)
        by_hashes.submit_hashed(request_id, length, pages, 3)
    run(by_tokens, lambda p: shapes["tokens"].append((p.start.tolist(), p.num_tokens.tolist())))
    run(by_hashes, lambda p: shapes["hashes"].append((p.start.tolist(), p.num_tokens.tolist())))
    assert shapes["tokens"] == shapes["hashes"]


@pytest.mark.parametrize("overlap_depth", [0, 1])
def test_a_prefix_that_is_being_computed_is_waited_for_instead_of_computed_twice(overlap_depth: int) -> None:
    scheduler = scheduler_with(num_blocks=200, overlap_depth=overlap_depth)
    system = prompt(80, 0)
    for request_id in range(4):
        scheduler.submit(request_id, np.concatenate([system, prompt(10, 1 + request_id)]), 3)
    events = run(scheduler)
    hits = [value for kind, _, value in events if kind == EventKind.ADMITTED]
    assert hits == [0, 80, 80, 80]
    assert len([1 for kind, *_ in events if kind == EventKind.FINISHED]) == 4


def test_whoever_waits_for_a_prefix_goes_on_when_its_computation_is_aborted() -> None:
    scheduler = scheduler_with(num_blocks=200)
    system = prompt(80, 0)
    scheduler.submit(1, np.concatenate([system, prompt(10, 1)]), 3)
    scheduler.submit(2, np.concatenate([system, prompt(10, 2)]), 3)
    plan = scheduler.plan()
    assert plan is not None and plan.request_ids.tolist() == [1]
    scheduler.abort(1)
    scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
    events = run(scheduler)
    assert [r for kind, r, _ in events if kind == EventKind.FINISHED] == [2]
