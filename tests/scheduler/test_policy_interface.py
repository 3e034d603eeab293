"""Policies of one's own: what they decide, and what they cannot do, however wrong they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenspeed.scheduler import (
    CopyView,
    EventKind,
    PageView,
    Policy,
    RequestView,
    Scheduler,
    SchedulerConfig,
    SchedulerError,
)


def prompt(length: int, seed: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 30_000, length, dtype=np.int32)


def scheduler_with(policy: str | Policy, **changes: int | bool) -> Scheduler:
    sizes: dict[str, int | bool] = {
        "num_blocks": 14,
        "block_size": 4,
        "max_running": 8,
        "max_step_tokens": 32,
        "overlap_depth": 0,
    }
    return Scheduler(SchedulerConfig(**(sizes | changes)), policy=policy)  # type: ignore[arg-type]


def run(scheduler: Scheduler, steps: int = 5_000) -> list[tuple[int, int, int]]:
    events = []
    for _ in range(steps):
        plan = scheduler.plan()
        if plan is not None:
            scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
        copies = scheduler.copies()
        if copies is not None:
            scheduler.transfer_done(copies.ids)
        events += scheduler.events()
        scheduler.check()
        if plan is None and copies is None:
            return events
    raise AssertionError("this does not end")


def requests_of(events: list[tuple[int, int, int]], kind: int) -> list[int]:
    return [request for k, request, _ in events if k == kind]


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="policy is 'best'; known policies: default, lru"):
        scheduler_with("best")


def test_priorities_and_deadlines_order_the_line() -> None:
    scheduler = scheduler_with("default", max_running=1, max_step_tokens=8)
    scheduler.submit(0, prompt(4, 0), 2)
    scheduler.submit(1, prompt(4, 1), 2, priority=1)
    scheduler.submit(2, prompt(4, 2), 2)
    scheduler.submit(3, prompt(4, 3), 2, deadline=900)
    scheduler.submit(4, prompt(4, 4), 2, deadline=100)
    scheduler.submit(5, prompt(4, 5), 2, priority=-1)
    assert requests_of(run(scheduler), EventKind.ADMITTED) == [5, 4, 3, 0, 2, 1]


class LastFirst(Policy):
    """Would let the first wait for ever."""

    def place(self, request: RequestView) -> tuple[int, int]:
        return (-request.arrival, 0)


def test_nobody_is_overtaken_for_ever() -> None:
    scheduler = scheduler_with(LastFirst(), max_running=1, max_step_tokens=8)
    scheduler.submit(0, prompt(4, 0), 1)
    scheduler.submit(1, prompt(4, 1), 1)
    order = []
    for number in range(2, 400):
        scheduler.submit(number, prompt(4, number), 1)
        plan = scheduler.plan()
        assert plan is not None
        scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
        order += requests_of(scheduler.events(), EventKind.FINISHED)
    assert order.index(0) == 64, "64 younger requests went first, and then it was its turn"
    assert 1 in order


class Chooser(Policy):
    """Retracts the request with this prompt length first."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.asked: set[int] = set()

    def victim_cost(self, request: RequestView, config: SchedulerConfig) -> float:
        self.asked.add(request.request_id)
        assert request.blocks > 0 and request.computed_tokens <= request.known_tokens < request.limit_tokens
        return 0.0 if request.prompt_tokens == self.length else 1.0


def test_the_policy_chooses_the_victim_among_the_younger_ones() -> None:
    policy = Chooser(7)
    scheduler = scheduler_with(policy)
    for request_id, length in enumerate((5, 7, 6)):
        scheduler.submit(request_id, prompt(length, request_id), 30)
    events = run(scheduler)
    assert requests_of(events, EventKind.RETRACTED)[0] == 1
    assert 0 not in policy.asked, "the oldest is not even a candidate"
    assert sorted(requests_of(events, EventKind.FINISHED)) == [0, 1, 2]


class Keeper(Policy):
    """Keeps pages of texts that start with what was found before, and nothing else."""

    def retention(self, page: PageView) -> int:
        return 3 if page.uses else 0


@pytest.mark.parametrize(("policy", "found"), [(Keeper(), 8), ("lru", 0)])
def test_the_policy_decides_what_is_kept(policy: str | Policy, found: int) -> None:
    scheduler = scheduler_with(policy, num_blocks=10)
    for request_id in (0, 1):
        scheduler.submit(request_id, prompt(9, 0), 1)
        run(scheduler)
    for other in range(3):
        scheduler.submit(10 + other, prompt(20, 50 + other), 1)
        run(scheduler)
    scheduler.submit(2, prompt(9, 0), 1)
    assert (EventKind.ADMITTED, 2, found) in run(scheduler)


class Wrong(Policy):
    """Throws, and answers with what is no answer."""

    def __init__(self, answers: list[object]) -> None:
        super().__init__()
        self.answers = answers
        self.asked = 0

    def answer(self) -> object:
        self.asked += 1
        answer = self.answers[self.asked % len(self.answers)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def place(self, request: RequestView) -> tuple[int, int]:
        return self.answer()  # type: ignore[return-value]

    def victim_cost(self, request: RequestView, config: SchedulerConfig) -> float:
        return self.answer()  # type: ignore[return-value]

    def retention(self, page: PageView) -> int:
        return self.answer()  # type: ignore[return-value]

    def fetch(self, copy: CopyView) -> bool:
        return self.answer()  # type: ignore[return-value]

    def spill(self, page: PageView, copy: CopyView) -> bool:
        return self.answer()  # type: ignore[return-value]

    def wait_for_prefix(self, own_tokens: int, remaining_tokens: int) -> bool:
        return self.answer()  # type: ignore[return-value]


ANSWERS = st.sampled_from(
    [ValueError("no"), None, "x", float("nan"), float("inf"), -(2**62), 2**63, 10**30, -1, 7, True, False, (1, 2), (3,)]
)


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(ANSWERS, min_size=1, max_size=6),
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=10),
    overlap=st.integers(0, 2),
    retractions=st.integers(0, 2),
)
def test_a_wrong_policy_corrupts_nothing_and_everything_finishes(
    answers: list[object], lengths: list[int], overlap: int, retractions: int
) -> None:
    policy = Wrong(answers)
    scheduler = scheduler_with(policy, num_host_blocks=8, overlap_depth=overlap, max_retractions=retractions)
    for request_id, length in enumerate(lengths):
        scheduler.submit(request_id, prompt(length, request_id % 3), 20)
    events = run(scheduler)
    assert sorted(requests_of(events, EventKind.FINISHED)) == list(range(len(lengths)))
    counts = Counter(requests_of(events, EventKind.RETRACTED))
    assert max(counts.values(), default=0) <= retractions
    stats = scheduler.stats()
    assert (stats.live_requests, stats.held_blocks, stats.copies_in_flight) == (0, 0, 0)
    if all(isinstance(answer, ValueError) for answer in answers):
        assert stats.policy_errors == policy.asked > 0


def test_a_request_waits_for_a_prefix_only_if_the_policy_says_so() -> None:
    asked = []

    class Impatient(Policy):
        def wait_for_prefix(self, own_tokens: int, remaining_tokens: int) -> bool:
            asked.append((own_tokens, remaining_tokens))
            return False

    hits = {}
    for policy in ("default", Impatient()):
        scheduler = scheduler_with(policy, num_blocks=64, max_step_tokens=128)
        for request_id in (0, 1):
            scheduler.submit(request_id, np.concatenate([prompt(40, 0), prompt(3, request_id + 1)]), 2)
        hits[policy == "default"] = [value for kind, _, value in run(scheduler) if kind == EventKind.ADMITTED]
    assert hits[True] == [0, 40]
    assert hits[False] == [0, 0]
    assert asked == [(40, 40)]


def test_a_prefix_that_does_not_advance_is_not_waited_for() -> None:
    # Request 0 decodes in every step and takes the whole budget; request 1 holds a prefix that it cannot compute.
    scheduler = scheduler_with("default", num_blocks=64, max_running=3, max_step_tokens=3, overlap_depth=0)
    scheduler.submit(0, prompt(2, 9), 60)
    scheduler.submit(1, np.concatenate([prompt(24, 0), prompt(2, 1)]), 2)
    scheduler.submit(2, np.concatenate([prompt(24, 0), prompt(2, 2)]), 2)
    assert sorted(requests_of(run(scheduler), EventKind.FINISHED)) == [0, 1, 2]


class Caller(Policy):
    """Calls the scheduler that asks it, in every way that changes something."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler: Scheduler | None = None
        self.raised: Counter[str] = Counter()

    def call(self) -> None:
        scheduler = self.scheduler
        assert scheduler is not None
        one = np.array([1], dtype=np.int32)
        calls: dict[str, Callable[[], object]] = {
            "submit": lambda: scheduler.submit(900, one, 1),
            "submit_hashed": lambda: scheduler.submit_hashed(900, 1, [], 1),
            "abort": lambda: scheduler.abort(0),
            "plan": scheduler.plan,
            "copies": scheduler.copies,
            "transfer_done": lambda: scheduler.transfer_done([1]),
        }
        for name, call in calls.items():
            with pytest.raises(SchedulerError):
                call()
            self.raised[name] += 1

    def place(self, request: RequestView) -> tuple[int, int]:
        self.call()
        return (0, 0)

    def victim_cost(self, request: RequestView, config: SchedulerConfig) -> float:
        self.call()
        return 1.0

    def retention(self, page: PageView) -> int:
        self.call()
        return 0


def test_a_policy_that_calls_its_scheduler_is_refused_and_everything_finishes() -> None:
    policy = Caller()
    config = SchedulerConfig(num_blocks=6, block_size=2, max_running=4, max_step_tokens=16, overlap_depth=0)
    policy.scheduler = scheduler = Scheduler(config, policy=policy)
    for request in range(4):
        assert scheduler.submit(request, np.arange(3, dtype=np.int32) + 10 * request, 6)
    while (plan := scheduler.plan()) is not None:
        scheduler.land(plan.step, np.ones(plan.sampling_rows, dtype=np.int32))
        scheduler.check()
    stats = scheduler.stats()
    assert (stats.finished, stats.policy_errors) == (4, 0)
    assert stats.retractions > 0
    assert min(policy.raised.values()) > 4


@pytest.mark.parametrize("policy", [1, object(), Policy, None])
def test_what_is_no_policy_is_refused(policy: object) -> None:
    with pytest.raises(TypeError, match=r"it must be a name .* or an instance of a subclass of Policy"):
        Scheduler(SchedulerConfig(num_blocks=4), policy=policy)  # type: ignore[arg-type]
