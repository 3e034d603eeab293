"""The compiled scheduler and the specification's interpreter run random programs in lock step."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenspeed.scheduler import SPEC_HASH, TRANSITIONS, EventKind, Scheduler, SchedulerConfig
from tokenspeed.spec.contract_monitor import ClauseBroken, ContractMonitor
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
CONTRACT_PROGRAMS = PROGRAMS_EACH // 7
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

    def __init__(self, config: SchedulerConfig, monitor: type[Monitor] = Monitor) -> None:
        self.scheduler = Scheduler(config)
        self.monitor = monitor(SPEC, self.scheduler.limits)
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


def run_programs(driver_of: Callable[[SchedulerConfig], Driver], overlap_depth: int, programs: int) -> None:
    @settings(max_examples=programs, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(config=configs(overlap_depth), program=PROGRAMS)
    def run(config: SchedulerConfig, program: list[object]) -> None:
        driver = driver_of(config)
        for operation in program:
            driver.run(operation)
        driver.drain()

    run()


@pytest.mark.parametrize("overlap_depth", [0, 1, 2])
def test_the_planner_keeps_the_contract_that_liveness_needs(overlap_depth: int) -> None:
    judged: Counter[str] = Counter()

    def driver_of(config: SchedulerConfig) -> Driver:
        driver = Driver(config, ContractMonitor)
        drivers.append(driver)
        return driver

    drivers: list[Driver] = []
    run_programs(driver_of, overlap_depth, CONTRACT_PROGRAMS)
    for driver in drivers:
        assert isinstance(driver.monitor, ContractMonitor)
        judged.update(driver.monitor.judged)
    # A ban on a transition says something only of who breaks it, and the planner uses no host pages.
    bans = {"no step leaves without the oldest", "nothing is fetched"}
    assert {name for name in SPEC.clauses if not judged[name]} <= bans | {"no host page is dropped"}


def events(*taken: tuple[str | int, ...]) -> list[list[int]]:
    """Rows of a trace."""
    names = list(SPEC.transitions)
    return [[names.index(str(name)), len(arguments), *map(int, arguments)] for name, *arguments in taken]


BEGIN = events(("submit", 0, 2, 4, 1), ("submit", 1, 2, 4, 2), ("admit", 0), ("admit", 1), ("allocate", 0, 0))
BROKEN = {
    "a step is launched with tokens in every row": events(("open_step", 0), ("add_row", 0, 0), ("launch", 0)),
    "who gets a row can get a token": events(("open_step", 0), ("add_row", 0, 1)),
    "no step leaves without the oldest": events(
        ("allocate", 1, 1), ("open_step", 0), ("add_row", 0, 1), ("prefill", 0, 1, 1), ("launch", 0)
    ),
    "nobody else takes blocks": events(
        ("open_step", 0), ("add_row", 0, 0), ("prefill", 0, 0, 1), ("launch", 0), ("device_done", 0), ("observe", 0),
        ("land_row", 0, 0, 0), ("retire", 0), ("allocate", 1, 1),
    ),
    "who has to give way gets no row": events(
        ("allocate", 1, 1), ("open_step", 0), ("add_row", 0, 0), ("prefill", 0, 0, 1), ("launch", 0),
        ("device_done", 0), ("observe", 0), ("land_row", 0, 0, 0), ("retire", 0), ("open_step", 0), ("add_row", 0, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("clause", BROKEN)
def test_a_policy_that_breaks_the_contract_is_noticed(clause: str) -> None:
    monitor = ContractMonitor(SPEC, {"page": 1, "blocks": 8, "room": 8, "hosts": 0, "width": 1, "window": 99})
    monitor.follow([*BEGIN, *BROKEN[clause][:-1]])
    with pytest.raises(ClauseBroken, match=clause):
        monitor.follow(BROKEN[clause][-1:])
