"""The compiled scheduler and the specification's interpreter run random programs in lock step."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenspeed.scheduler import (
    GUARDS,
    SPEC_HASH,
    TRANSITIONS,
    EventKind,
    Policy,
    RequestView,
    Scheduler,
    SchedulerConfig,
)
from tokenspeed.spec.conform.contract_monitor import ClauseBroken, ContractMonitor
from tokenspeed.spec.conform.monitor import Monitor
from tokenspeed.spec.system import SPEC


def test_binary_was_built_from_this_specification() -> None:
    assert SPEC.digest() == SPEC_HASH
    assert tuple(SPEC.transitions) == TRANSITIONS


@dataclass(frozen=True)
class Submit:
    """Prompt of `prompt` tokens over a tiny alphabet, so that prefixes meet."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    priority: int


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


@dataclass(frozen=True)
class EndCopies:
    """Report some of the copies under way as done, in an order of their own: bit i of `which` chooses copy i."""

    which: int
    reverse: bool


PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=10).map(tuple)
OPERATIONS = st.one_of(
    st.builds(Submit, PROMPTS, st.integers(1, 16), st.integers(0, 2)),
    st.builds(Plan),
    st.builds(Plan),
    st.builds(Land, st.integers(0, 15) | st.just(0)),
    st.builds(Land, st.just(0)),
    st.builds(Abort, st.integers(0, 30)),
    st.builds(EndCopies, st.integers(1, 255), st.booleans()),
)
PROGRAMS_EACH = int(os.environ.get("TOKENSPEED_PROGRAMS", "250"))
"""Random programs for each overlap depth, with and without a host tier; `make fuzz` runs more."""
CONTRACT_PROGRAMS = max(1, PROGRAMS_EACH // 2)
LONG_OUTPUTS = st.builds(Submit, PROMPTS, st.integers(8, 24), st.just(0))
PROGRAMS = st.builds(list.__add__, st.lists(LONG_OUTPUTS, max_size=5), st.lists(OPERATIONS, max_size=40))
"""Some requests that will want more blocks than there are, then anything."""

PEERS = {"send", "send_done", "receive", "receive_done", "receive_failed", "receive_dropped"}
"""Proved and compiled, but there is no peer yet that the planner would send to or receive from."""
UNUSED = PEERS | {"copy_fails", "spill_failed", "fetch_failed", "guide"}
"""The same, and copies that fail and grammars, which no driver tells the scheduler of yet."""


@st.composite
def configs(draw: st.DrawFn, overlap_depth: int, host_tier: bool) -> SchedulerConfig:
    max_running = draw(st.integers(1, 5))
    return SchedulerConfig(
        num_blocks=draw(st.integers(3, 12)),
        block_size=draw(st.integers(1, 4)),
        max_running=max_running,
        max_step_tokens=max_running + draw(st.integers(0, 10)),
        overlap_depth=overlap_depth,
        prefix_cache=host_tier or draw(st.booleans()),
        num_host_blocks=draw(st.integers(1, 8)) if host_tier else 0,
        host_copy_tokens_per_s=draw(st.sampled_from([1e3, 1e5, 1e7])),
        max_retractions=draw(st.integers(0, 3)),
        kv_events=True,
        record_trace=True,
    )


class Driver:
    """Drives a scheduler by the contract, with a monitor beside it that must agree after every call."""

    def __init__(self, config: SchedulerConfig, monitor: type[Monitor] = Monitor) -> None:
        self.scheduler = Scheduler(config)
        self.monitor = monitor(SPEC, self.scheduler.limits)
        self.in_flight: list[tuple[int, int]] = []
        self.copies: list[int] = []
        self.retractions: Counter[int] = Counter()
        self.stored: dict[str, set[int]] = {"device": set(), "host": set()}
        self.wanted: dict[int, int] = {}
        self.live: list[int] = []
        self.outcomes: dict[int, tuple[int, int]] = {}

    def run(self, operation: object) -> None:
        match operation:
            case Submit(prompt, max_new_tokens, priority):
                request_id = len(self.wanted)
                self.wanted[request_id] = max_new_tokens
                ids = np.array(prompt, dtype=np.int32)
                if self.scheduler.submit(request_id, ids, max_new_tokens, priority):
                    self.live.append(request_id)
            case Plan():
                plan = self.scheduler.plan()
                if plan is not None:
                    self.in_flight.append((plan.step, plan.sampling_rows))
            case Land(stops):
                if self.in_flight:
                    step, rows = self.in_flight.pop(0)
                    stop = np.array([bool(stops >> i & 1) for i in range(rows)], dtype=bool)
                    self.scheduler.land(step, np.zeros(rows, dtype=np.int32), stop=stop)
            case Abort(which):
                if self.live:
                    self.scheduler.abort(self.live[which % len(self.live)])
            case EndCopies(which, reverse):
                ended = [copy for i, copy in enumerate(self.copies) if which >> i & 1]
                self.copies = [copy for copy in self.copies if copy not in ended]
                self.scheduler.transfer_done(np.array(ended[::-1] if reverse else ended, dtype=np.int64))
        batch = self.scheduler.copies()
        if batch is not None:
            self.copies += batch.ids.tolist()
        self.agree()

    def agree(self) -> None:
        self.monitor.follow(self.scheduler.drain_trace().tolist())
        self.monitor.compare(self.scheduler.snapshot())
        self.scheduler.check()
        for kind, request_id, value in self.scheduler.events():
            assert kind != EventKind.FAILED, GUARDS[value]
            if kind in (EventKind.FINISHED, EventKind.ABORTED):
                self.live.remove(request_id)
                self.outcomes[request_id] = (kind, value)
            elif kind == EventKind.RETRACTED:
                self.retractions[request_id] += 1
            elif kind in (EventKind.KV_STORED, EventKind.HOST_STORED):
                self.stored["device" if kind == EventKind.KV_STORED else "host"].add(value)
            elif kind in (EventKind.KV_REMOVED, EventKind.HOST_REMOVED):
                self.stored["device" if kind == EventKind.KV_REMOVED else "host"].discard(value)

    def drain(self) -> None:
        """Let everything that was accepted finish; each round must make progress."""
        rounds = 0
        while self.live or self.in_flight or self.copies:
            self.run(Plan())
            assert self.in_flight or self.copies or not self.live, "nothing is under way, so no event will come"
            self.run(Land(0))
            if rounds % 3 == 2 or not self.in_flight:  # copies take longer than steps
                self.run(EndCopies(-1, reverse=True))
            rounds += 1
            assert rounds < 2000, "accepted requests do not finish"


@pytest.mark.parametrize("host_tier", [False, True])
@pytest.mark.parametrize("overlap_depth", [0, 1, 2])
def test_random_programs_follow_the_specification(overlap_depth: int, host_tier: bool) -> None:
    taken: Counter[str] = Counter()

    @settings(
        max_examples=PROGRAMS_EACH,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(config=configs(overlap_depth, host_tier), program=PROGRAMS)
    def run(config: SchedulerConfig, program: list[object]) -> None:
        driver = Driver(config)
        for operation in program:
            driver.run(operation)
        driver.drain()
        assert not driver.monitor.violations()
        stats = driver.scheduler.stats()
        assert stats.held_blocks == 0
        assert stats.live_requests == 0
        assert stats.copies_in_flight == 0
        assert stats.free_blocks + stats.cached_blocks == config.num_blocks
        assert max(driver.retractions.values(), default=0) <= config.max_retractions
        for request_id, (kind, value) in driver.outcomes.items():
            assert value <= driver.wanted[request_id]
            assert kind == EventKind.ABORTED or value >= 1
        # Tails are never announced; what was announced and not taken back is there.
        assert len(driver.stored["device"]) <= stats.cached_blocks
        assert len(driver.stored["host"]) <= stats.host_used_blocks
        taken.update(driver.scheduler.transition_counts())

    run()
    if overlap_depth < 2 and PROGRAMS_EACH >= 250:
        asynchronous = {"release_to_limbo", "reap"}  # an idle device leaves nothing to wait for
        # A tail, which is the leaf, is evicted by whoever it made room for, nearly always (but see test_host_tier.py).
        rare = {"match_tail"}
        host = {"spill", "spill_done", "fetch", "fetch_done", "drop_page", "copy_done"}
        expected = UNUSED | rare | (asynchronous if overlap_depth == 0 else set()) | (set() if host_tier else host)
        assert {name for name in TRANSITIONS if not taken[name]} <= expected
        assert taken["retract"] >= 5


def run_programs(
    driver_of: Callable[[SchedulerConfig], Driver], overlap_depth: int, host_tier: bool, programs: int
) -> None:
    @settings(max_examples=programs, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(config=configs(overlap_depth, host_tier), program=PROGRAMS)
    def run(config: SchedulerConfig, program: list[object]) -> None:
        driver = driver_of(config)
        for operation in program:
            driver.run(operation)
        driver.drain()

    run()


@pytest.mark.parametrize("host_tier", [False, True])
@pytest.mark.parametrize("overlap_depth", [0, 1, 2])
def test_the_planner_keeps_the_contract_that_liveness_needs(overlap_depth: int, host_tier: bool) -> None:
    judged: Counter[str] = Counter()

    def driver_of(config: SchedulerConfig) -> Driver:
        driver = Driver(config, ContractMonitor)
        drivers.append(driver)
        return driver

    drivers: list[Driver] = []
    run_programs(driver_of, overlap_depth, host_tier, CONTRACT_PROGRAMS)
    for driver in drivers:
        assert isinstance(driver.monitor, ContractMonitor)
        judged.update(driver.monitor.judged)
    # A ban on a transition says something only of who breaks it.
    bans = {"no step leaves without the oldest", "nothing is fetched"}
    assert {name for name in SPEC.clauses if not judged[name]} <= bans | (
        set() if host_tier else {"no host page is dropped"}
    )


class Costs(Policy):
    """Victims are chosen at random."""

    def __init__(self, dice: Random) -> None:
        super().__init__()
        self.dice = dice

    def victim_cost(self, request: RequestView, config: SchedulerConfig) -> float:
        return self.dice.random()


MEMORY_RUNS_OUT: dict[str, tuple[dict[str, int], list[object]]] = {
    "the youngest is not the cheapest victim": (
        {"num_blocks": 11, "block_size": 2, "max_running": 3, "max_step_tokens": 12, "num_host_blocks": 1},
        [Submit((0, 1, 0, 0, 0), 5, 0), Submit((1,), 4, 0), Submit((0,) * 6, 5, 0), *[Plan()] * 4],
    ),
    "who has just joined finds no memory": (
        {"num_blocks": 12, "block_size": 1, "max_running": 2, "max_step_tokens": 2, "num_host_blocks": 1},
        [
            Submit((1, *[0] * 9), 3, 0), Submit((0,), 1, 0), Submit((0,), 1, 0), Abort(1), Submit((0,), 17, 0),
            Plan(), Submit((1, 0), 1, 0),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMORY_RUNS_OUT)
def test_the_planner_keeps_the_contract_when_memory_runs_out(name: str) -> None:
    sizes, program = MEMORY_RUNS_OUT[name]
    tier = {"overlap_depth": 0, "host_copy_tokens_per_s": 1e7, "max_retractions": 3, "record_trace": True}
    driver = Driver(SchedulerConfig(**sizes, **tier), ContractMonitor)  # type: ignore[arg-type]
    for operation in program:
        driver.run(operation)
    driver.drain()
    assert isinstance(driver.monitor, ContractMonitor) and driver.monitor.judged["nobody else takes blocks"]


@pytest.mark.parametrize("host_blocks", [0, 3])
def test_the_contract_is_kept_whomever_the_policy_retracts(host_blocks: int) -> None:
    """Random costs, little memory: the victim is mostly not the youngest."""
    retractions = judged = 0
    for seed in range(40):
        dice = Random(seed)
        config = SchedulerConfig(
            num_blocks=dice.randint(6, 14), block_size=dice.randint(1, 2), max_running=4, max_step_tokens=12,
            overlap_depth=seed % 4, num_host_blocks=host_blocks, host_copy_tokens_per_s=1e7, max_retractions=3,
            record_trace=True,
        )  # fmt: skip
        driver = Driver(config, ContractMonitor)
        driver.scheduler = Scheduler(config, policy=Costs(dice))
        for _ in range(6):
            driver.run(Submit(tuple(dice.choices((0, 1), k=dice.randint(1, 8))), dice.randint(4, 12), 0))
            driver.run(Plan())
        driver.drain()
        retractions += sum(driver.retractions.values())
        assert isinstance(driver.monitor, ContractMonitor)
        judged += driver.monitor.judged["who has to give way gets no row"]
    assert retractions >= 20 and judged >= 100


def events(*taken: tuple[str | int, ...]) -> list[list[int]]:
    """Rows of a trace."""
    names = list(SPEC.transitions)
    return [[names.index(str(name)), len(arguments), *map(int, arguments)] for name, *arguments in taken]


BEGIN = events(("submit", 0, 2, 4, 1), ("submit", 1, 2, 4, 2), ("admit", 0), ("admit", 1), ("allocate", 0, 0))
BROKEN = {
    "no step leaves without the oldest": events(
        ("allocate", 1, 1), ("open_step", 0), ("prefill", 0, 1, 1), ("launch", 0)
    ),
    "nobody else takes blocks": events(
        ("open_step", 0), ("prefill", 0, 0, 1), ("launch", 0), ("device_done", 0), ("observe", 0),
        ("land_row", 0, 0, 0), ("retire", 0), ("allocate", 1, 1),
    ),
    "who has to give way gets no row": events(
        ("allocate", 1, 1), ("open_step", 0), ("prefill", 0, 0, 1), ("launch", 0),
        ("device_done", 0), ("observe", 0), ("land_row", 0, 0, 0), ("retire", 0), ("open_step", 0),
        ("prefill", 0, 1, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("clause", BROKEN)
def test_a_policy_that_breaks_the_contract_is_noticed(clause: str) -> None:
    monitor = ContractMonitor(SPEC, {"page": 1, "blocks": 8, "room": 8, "hosts": 0, "width": 1, "window": 99})
    monitor.follow([*BEGIN, *BROKEN[clause][:-1]])
    with pytest.raises(ClauseBroken, match=clause):
        monitor.follow(BROKEN[clause][-1:])
