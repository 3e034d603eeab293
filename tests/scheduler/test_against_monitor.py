"""The compiled scheduler and the specification's interpreter run random programs in lock step."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenspeed.scheduler import SPEC_HASH, TRANSITIONS, EventKind, Scheduler, SchedulerConfig
from tokenspeed.spec.machines import SPEC
from tokenspeed.spec.monitor import Monitor


def test_binary_was_built_from_this_specification() -> None:
    assert SPEC.digest() == SPEC_HASH
    assert tuple(SPEC.transitions) == TRANSITIONS


@dataclass(frozen=True)
class Submit:
    """Prompt of `prompt` tokens over a tiny alphabet, so that prefixes meet."""

    prompt: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class Plan:
    """Plan a step."""


@dataclass(frozen=True)
class Land:
    """Land the oldest step; bit i of `stops` ends sampling row i."""

    stops: int


@dataclass(frozen=True)
class Abort:
    """Abort one of the live requests."""

    which: int


OPERATIONS = st.one_of(
    st.builds(
        Submit,
        st.lists(st.integers(0, 1), min_size=1, max_size=10).map(tuple),
        st.integers(1, 16),
    ),
    st.builds(Plan),
    st.builds(Plan),
    st.builds(Land, st.integers(0, 15) | st.just(0)),
    st.builds(Land, st.just(0)),
    st.builds(Abort, st.integers(0, 30)),
)
PROGRAMS_EACH = int(os.environ.get("TOKENSPEED_PROGRAMS", "1050"))
"""Random programs for each overlap depth; `make fuzz` runs more."""
PROGRAMS = st.lists(OPERATIONS, max_size=40)

COPIES = {name for name, t in SPEC.transitions.items() if any(p.type == "Copy" for p in t.parameters)}
NOT_PLANNED = COPIES | {"drop_page", "match_tail", "keep_tail"}
"""Proved and compiled, but the planner does not propose them."""


@st.composite
def configs(draw: st.DrawFn, overlap_depth: int) -> SchedulerConfig:
    max_running = draw(st.integers(1, 5))
    return SchedulerConfig(
        num_blocks=draw(st.integers(3, 12)),
        block_size=draw(st.integers(1, 4)),
        max_running=max_running,
        max_step_tokens=max_running + draw(st.integers(0, 10)),
        overlap_depth=overlap_depth,
        prefix_cache=draw(st.booleans()),
        record_trace=True,
    )


class Driver:
    """Drives a scheduler by the contract, with a monitor beside it that must agree after every call."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.scheduler = Scheduler(config)
        self.monitor = Monitor(SPEC, self.scheduler.limits)
        self.in_flight: list[tuple[int, int]] = []
        self.wanted: dict[int, int] = {}
        self.live: list[int] = []
        self.outcomes: dict[int, tuple[int, int]] = {}

    def run(self, operation: object) -> None:
        match operation:
            case Submit(prompt, max_new_tokens):
                request_id = len(self.wanted)
                self.wanted[request_id] = max_new_tokens
                if self.scheduler.submit(request_id, np.array(prompt, dtype=np.int32), max_new_tokens):
                    self.live.append(request_id)
            case Plan():
                plan = self.scheduler.plan()
                if plan is not None:
                    self.in_flight.append((plan.step, plan.sampling_rows))
            case Land(stops):
                if self.in_flight:
                    step, rows = self.in_flight.pop(0)
                    stop = np.array([bool(stops >> i & 1) for i in range(rows)], dtype=bool)
                    self.scheduler.land(step, np.zeros(rows, dtype=np.int32), stop)
            case Abort(which):
                if self.live:
                    self.scheduler.abort(self.live[which % len(self.live)])
        self.agree()

    def agree(self) -> None:
        self.monitor.follow(self.scheduler.drain_trace().tolist())
        self.monitor.compare(self.scheduler.snapshot())
        self.scheduler.check()
        for kind, request_id, value in self.scheduler.events():
            if kind in (EventKind.FINISHED, EventKind.ABORTED):
                self.live.remove(request_id)
                self.outcomes[request_id] = (kind, value)

    def drain(self) -> None:
        """Let everything that was accepted finish; each round must make progress."""
        rounds = 0
        while self.live or self.in_flight:
            self.run(Plan())
            self.run(Land(0))
            rounds += 1
            assert rounds < 2000, "accepted requests do not finish"


@pytest.mark.parametrize("overlap_depth", [0, 1, 2])
def test_random_programs_follow_the_specification(overlap_depth: int) -> None:
    taken: Counter[str] = Counter()

    @settings(
        max_examples=PROGRAMS_EACH,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(config=configs(overlap_depth), program=PROGRAMS)
    def run(config: SchedulerConfig, program: list[object]) -> None:
        driver = Driver(config)
        for operation in program:
            driver.run(operation)
        driver.drain()
        assert not driver.monitor.violations()
        stats = driver.scheduler.stats()
        assert stats.held_blocks == 0
        assert stats.live_requests == 0
        assert stats.free_blocks + stats.cached_blocks == config.num_blocks
        for request_id, (kind, value) in driver.outcomes.items():
            assert value <= driver.wanted[request_id]
            assert kind == EventKind.ABORTED or value >= 1
        taken.update(driver.scheduler.transition_counts())

    run()
    if overlap_depth < 2:
        asynchronous = {"release_to_limbo", "reap"}  # an idle device leaves nothing to wait for
        expected = NOT_PLANNED | (asynchronous if overlap_depth == 0 else set())
        assert {name for name in TRANSITIONS if not taken[name]} <= expected
        assert taken["retract"] >= 5
