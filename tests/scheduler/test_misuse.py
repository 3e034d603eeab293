"""Ten thousand random misuses of the driver contract in one process.

Each is answered by a typed error (or a rejection), changes nothing, and harms nobody: a twin scheduler that is driven
in the same way, but never misused, makes the same plans to the last byte, and every request finishes in both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest

from tokenspeed.scheduler import (
    BadRequest,
    BadResults,
    DuplicateRequest,
    EventKind,
    Scheduler,
    SchedulerConfig,
    SchedulerError,
    SpecMismatch,
    StepPlan,
    UnknownCopy,
    UnknownRequest,
    UnknownStep,
)

MISUSES = int(os.environ.get("TOKENSPEED_MISUSES", "10000"))
"""In all; `make fuzz` makes more."""
STATS = [name for name in dir(Scheduler(SchedulerConfig(num_blocks=1)).stats()) if not name.startswith("_")]
COLUMNS: tuple[str, ...] = ("request_ids", "slots", "start", "num_tokens", "outputs", "input_ids", "positions")
COLUMNS += ("table_slots", "table_index", "table_blocks")

BAD_TOKENS: list[Any] = [
    np.array([-1], dtype=np.int32),
    np.array([2**31], dtype=np.int64),
    np.array([2**32 + 5], dtype=np.int64),  # would be 5 if it were cut to 32 bits
    np.array([2**64 - 1], dtype=np.uint64),
    np.array([1.0]),
    np.array([np.nan]),
    np.array([True]),
    np.array(["1"]),
    np.array([None], dtype=object),
    np.zeros((1, 1), dtype=np.int32),
    np.int32(3),
    [2**31],
    [-1],
    [10**5000],
    [1.0],
    [True],
    ["a"],
    [None],
    [[1]],
    (1, 2, -3),
    None,
    "text",
    b"bytes",
    {},
    7,
]
"""None of these is one dimension of tokens."""
BAD_STOPS: list[Any] = [np.array([1]), np.array([0.5]), np.zeros((1, 1), dtype=bool), "x", 3, ["yes"]]
NO_INT64: list[Any] = [2**63, -(2**63) - 1, 10**30, "1", None, 1.5, [1]]
NAMES = ("key", "before", "host_key", "host_before")
"""Variables that hold names of prefixes, which each scheduler makes with a key of its own."""
ODD_NUMBERS = [0, -1, -(2**31), 2**31, 2**62, 2**63 - 1, -(2**63)]


def state_of(scheduler: Scheduler) -> Any:
    """Counters, and every variable of the specification that C++ holds, but for names."""
    stats = scheduler.stats()
    variables = scheduler.snapshot()
    for name in NAMES:
        variables.pop(name, None)
    return (
        {name: getattr(stats, name) for name in STATS},
        variables,
        scheduler.transition_counts(),
        scheduler.events(),
    )


class Twins:
    """A scheduler that is misused and one that is not, driven by the same valid calls."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.config = SchedulerConfig(
            num_blocks=self.random.randint(6, 14),
            block_size=self.random.randint(1, 4),
            max_running=4,
            max_step_tokens=self.random.randint(4, 16),
            overlap_depth=seed % 3,
            num_host_blocks=self.random.randint(2, 6) * (seed % 2),
        )
        self.misused, self.quiet = Scheduler(self.config), Scheduler(self.config)
        self.in_flight: list[StepPlan] = []
        self.live: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        self.landed: list[int] = []
        self.copies: list[int] = []
        self.copied: list[int] = []
        self.next_id = 0

    def both(self, call: Callable[[Scheduler], Any]) -> tuple[Any, Any]:
        return call(self.misused), call(self.quiet)

    def submit(self) -> None:
        room = self.config.num_blocks * self.config.block_size
        length = self.random.randint(1, max(1, room // 2))
        tokens = np.array(self.random.choices(range(2), k=length), dtype=np.int32)
        most = self.random.randint(1, room - length + 1)
        request_id = self.next_id
        self.next_id += 1
        assert all(self.both(lambda s: bool(s.submit(request_id, tokens, most))))
        self.live[request_id] = most

    def plan(self) -> bool:
        mine, other = self.both(lambda s: s.plan())
        begun = [() if copies is None else copies.ids.tolist() for copies in self.both(lambda s: s.copies())]
        assert begun[0] == begun[1]
        self.copies += begun[0]
        assert (mine is None) == (other is None)
        if mine is None:
            return False
        assert mine.step == other.step
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name), err_msg=name)
        self.in_flight.append(mine)
        return True

    def land(self) -> None:
        plan = self.in_flight.pop(0)
        tokens = np.array(self.random.choices(range(2), k=plan.sampling_rows), dtype=np.int32)
        stop = np.array([self.random.random() < 0.03 for _ in tokens], dtype=bool)
        self.both(lambda s: s.land(plan.step, tokens, stop=stop))
        self.landed.append(plan.step)

    def end_copies(self) -> None:
        """Any of them, in any order."""
        ended = self.random.sample(self.copies, self.random.randint(1, len(self.copies)))
        self.both(lambda s: s.transfer_done(ended))
        self.copies = [copy for copy in self.copies if copy not in ended]
        self.copied += ended

    def abort(self) -> None:
        request_id = self.random.choice(list(self.live))
        self.both(lambda s: s.abort(request_id))

    def follow_events(self) -> None:
        mine, other = self.both(lambda s: s.events())
        assert mine == other
        for kind, request_id, value in mine:
            if kind in (EventKind.FINISHED, EventKind.ABORTED):
                wanted = self.live.pop(request_id)
                assert value <= wanted
                self.ended[request_id] = value

    def state(self) -> Any:
        """What a refused call must not change."""
        return state_of(self.misused)

    def misuse(self) -> str:
        """One call that must be refused; returns what kind of misuse it was."""
        of_steps = ["phantom", "double", "early", "mangled", "stop", "write"]
        name = self.random.choice([*of_steps, "copy", "unknown", "request", "hashes", "spec", "type"])
        expected, call = getattr(self, f"misuse_{name}")()
        if call is None:
            return "none"
        before = self.state()
        with pytest.raises(expected):
            call()
        assert self.state() == before
        return name

    # Each answers (error, call), where the call is None if there is nothing to misuse now.

    def misuse_phantom(self) -> Any:
        step = self.random.choice([*ODD_NUMBERS, self.misused.stats().steps + self.random.randint(1, 3)])
        return UnknownStep, lambda: self.misused.land(step, np.zeros(1, dtype=np.int32))

    def misuse_double(self) -> Any:
        if not self.landed:
            return None, None
        step = self.random.choice(self.landed[-3:])
        return UnknownStep, lambda: self.misused.land(step, np.zeros(1, dtype=np.int32))

    def misuse_early(self) -> Any:
        if len(self.in_flight) < 2:
            return None, None
        plan = self.random.choice(self.in_flight[1:])
        results = np.zeros(plan.sampling_rows, dtype=np.int32)
        return UnknownStep, lambda: self.misused.land(plan.step, results)

    def misuse_mangled(self) -> Any:
        if not self.in_flight:
            return None, None
        plan = self.in_flight[0]
        good = [1] * plan.sampling_rows
        bad = self.random.choice([*BAD_TOKENS, [*good, 1], good[:-1] if good else [1], [*good[:-1], -1]])
        return BadResults, lambda: self.misused.land(plan.step, bad)

    def misuse_stop(self) -> Any:
        if not self.in_flight:
            return None, None
        plan = self.in_flight[0]
        good = np.ones(plan.sampling_rows, dtype=np.int32)
        bad = self.random.choice([*BAD_STOPS, np.zeros(plan.sampling_rows + 1, dtype=bool)])
        return BadResults, lambda: self.misused.land(plan.step, good, stop=bad)

    def misuse_unknown(self) -> Any:
        request_id = self.random.choice([self.next_id, *self.ended, -1, 2**63 - 1])
        return UnknownRequest, lambda: self.misused.abort(request_id)

    def misuse_copy(self) -> Any:
        good = self.copies[:1]
        unknown = [self.random.choice([0, -1, 2**62, self.misused.stats().spills + self.misused.stats().fetches + 1])]
        twice, again = [*good, *good] or unknown, self.copied[-1:] or unknown
        bad: Any = self.random.choice([[*good, *unknown], [*unknown, *good], twice, again])
        mangled: Any = self.random.choice(["text", [0.5], [[1]], None, 7, [2**63]])
        calls = [
            (UnknownCopy, lambda: self.misused.transfer_done(bad)),
            (BadResults, lambda: self.misused.transfer_done(mangled)),
        ]
        return self.random.choice(calls)

    def misuse_request(self) -> Any:
        scheduler, good, fresh = self.misused, np.ones(2, dtype=np.int32), self.next_id
        bad: Any = self.random.choice([*BAD_TOKENS, [], np.zeros(0, dtype=np.int32)])
        most = self.random.choice([n for n in ODD_NUMBERS if not 1 <= n <= 2**30])
        calls: list[tuple[type[SchedulerError], Callable[[], Any]]] = [
            (BadRequest, lambda: scheduler.submit(fresh, bad, 1)),
            (BadRequest, lambda: scheduler.submit(fresh, good, most)),
            (BadRequest, lambda: scheduler.submit_hashed(fresh, most, [], 1)),
        ]
        if self.live:
            taken = self.random.choice(list(self.live))
            calls.append((DuplicateRequest, lambda: scheduler.submit(taken, good, 1)))
            calls.append((DuplicateRequest, lambda: scheduler.submit_hashed(taken, 1, [], 1)))
        return self.random.choice(calls)

    def misuse_hashes(self) -> Any:
        bad: Any = self.random.choice([[-1], [2**64], [0.5], np.array([-1]), np.ones(1), None, [1] * 3000, [[1]]])
        return BadRequest, lambda: self.misused.submit_hashed(self.next_id, 8, bad, 8)

    def misuse_spec(self) -> Any:
        return SpecMismatch, lambda: Scheduler(self.config, self.random.choice(["", "0" * 64, "é"]))

    def misuse_write(self) -> Any:
        if not self.in_flight:
            return None, None
        column = getattr(self.in_flight[0], self.random.choice(COLUMNS[:5]))
        return ValueError, lambda: column.__setitem__(0, 1)

    def misuse_type(self) -> Any:
        bad, scheduler, good = self.random.choice(NO_INT64), self.misused, np.ones(1, dtype=np.int32)
        calls: list[Callable[[], Any]] = [
            lambda: scheduler.abort(bad),
            lambda: scheduler.submit(bad, good, 1),
            lambda: scheduler.submit(self.next_id, good, bad),
            lambda: scheduler.land(bad, good),
            lambda: scheduler.submit(self.next_id),  # type: ignore[call-arg]
            lambda: Scheduler(bad),
        ]
        return TypeError, self.random.choice(calls)


def too_large_is_rejected_and_changes_nothing(twins: Twins) -> None:
    before = twins.state()
    room = twins.config.num_blocks * twins.config.block_size
    result = twins.misused.submit(twins.next_id, np.zeros(room, dtype=np.int32), 2)
    assert not result and "KV blocks" in result.reason
    assert twins.state() == before


def test_misuse_is_refused_and_harms_nobody() -> None:
    made: Counter[str] = Counter()
    finished = 0
    seed = 0
    while made.total() < MISUSES:
        twins = Twins(seed)
        seed += 1
        for _ in range(60):
            action = twins.random.random()
            if action < 0.2 and len(twins.live) < 8:
                twins.submit()
            elif action < 0.55:
                twins.plan()
            elif action < 0.95:
                if twins.in_flight:
                    twins.land()
            elif twins.live:
                twins.abort()
            if twins.copies and twins.random.random() < 0.4:
                twins.end_copies()
            twins.follow_events()
            made.update(kind for _ in range(4) if (kind := twins.misuse()) != "none")
        too_large_is_rejected_and_changes_nothing(twins)
        rounds = 0
        while twins.live or twins.in_flight:
            twins.plan()
            if twins.in_flight:
                twins.land()
            if twins.copies:
                twins.end_copies()
            twins.follow_events()
            rounds += 1
            assert rounds < 2000, "accepted requests do not finish"
        assert twins.state() == state_of(twins.quiet)
        assert twins.misused.stats().held_blocks == 0
        twins.misused.check()
        finished += twins.misused.stats().finished
    assert finished > 100
    assert min(made.values()) > MISUSES // 100 and len(made) == 12, made


def test_every_error_of_the_contract_has_one_base() -> None:
    for error in (BadRequest, BadResults, DuplicateRequest, SpecMismatch, UnknownCopy, UnknownRequest, UnknownStep):
        assert issubclass(error, SchedulerError)
    assert issubclass(BadRequest, ValueError), "what is wrong is a value"
