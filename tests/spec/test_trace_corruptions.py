"""A single corrupted event is found, and the report names the event that the specification's interpreter refuses."""

from __future__ import annotations

import json
import random
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tokenspeed.scheduler import EventKind, Scheduler, SchedulerConfig
from tokenspeed.scheduler.trace_file import file_footer, file_header
from tokenspeed.spec.conform.monitor import Monitor
from tokenspeed.spec.conform.trace_file import TraceFileError, Validator
from tokenspeed.spec.search.interpreter import GuardFalse, State
from tokenspeed.spec.system import SPEC

TRANSITIONS = list(SPEC.transitions.values())
CONFIG = SchedulerConfig(
    num_blocks=14, block_size=4, max_running=5, max_step_tokens=17, overlap_depth=1, record_trace=True
)
GROWING = "Request"
"""The sort whose records a trace adds."""

Event = tuple[int, list[int]]


@dataclass
class Recorded:
    """A run of the scheduler: its events, the file around them, and the interpreter's state before each event."""

    header: bytes
    events: list[Event]
    footer: dict[str, object]
    states: list[State]
    populations: list[dict[str, int]]
    monitor: Monitor


def drive(scheduler: Scheduler, rng: random.Random, operations: int) -> list[Event]:
    """Submit, plan, land and abort by the contract, with prompts that share prefixes and more of them than fit."""
    in_flight: list[tuple[int, int]] = []
    live: list[int] = []
    events: list[Event] = []
    for number in range(operations):
        choice = rng.random()
        if choice < 0.2 and len(live) < 8:
            prompt = np.array([rng.randrange(2) for _ in range(rng.choice((3, 9, 14)))], dtype=np.int32)
            if scheduler.submit(number, prompt, rng.randint(1, 16)):
                live.append(number)
        elif choice < 0.6:
            if (plan := scheduler.plan()) is not None:
                in_flight.append((plan.step, plan.sampling_rows))
        elif choice < 0.97 and in_flight:
            step, rows = in_flight.pop(0)
            scheduler.land(step, np.array([rng.randrange(2) for _ in range(rows)], dtype=np.int32))
        elif choice >= 0.97 and live:
            scheduler.abort(rng.choice(live))
        over = {x for kind, x, _ in scheduler.events() if kind in (EventKind.FINISHED, EventKind.ABORTED)}
        live = [x for x in live if x not in over]
        events += [(row[0], row[2 : 2 + row[1]]) for row in scheduler.drain_trace().tolist()]
    return events


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    scheduler = Scheduler(CONFIG)
    header = file_header(scheduler)
    events = drive(scheduler, random.Random(1), 900)
    taken = {TRANSITIONS[number].name for number, _ in events}
    assert {"retract", "release_to_limbo", "match_cached", "match_shared", "evict", "drop_row"} <= taken
    monitor = Monitor(SPEC, scheduler.limits)
    states, populations = [], []
    for event in events:
        states.append(monitor.state)
        populations.append(dict(monitor.population))
        follow(monitor, event)
    footer = json.loads(file_footer(scheduler)[16:])
    return Recorded(header, events, footer, [*states, monitor.state], populations, monitor)


def follow(monitor: Monitor, event: Event) -> None:
    monitor.follow([[event[0], len(event[1]), *event[1]]])


def records(events: list[Event]) -> list[bytes]:
    """The events as records, written here from the documented format (docs/trace-format.md)."""
    out = []
    for sequence, (transition, arguments) in enumerate(events):
        padded = [*arguments, 0, 0, 0, 0][:4]
        low, high = (b"".join((x >> by & 0xFFFFFF).to_bytes(3, "little") for x in padded) for by in (0, 24))
        wide = any(x >= 1 << 24 for x in arguments)
        first = struct.pack("<BBH", 255, len(arguments), sequence & 0xFFFF) + high if wide else b""
        out.append(first + struct.pack("<BBH", transition, len(arguments) | wide << 7, sequence & 0xFFFF) + low)
    return out


def write(path: Path, recorded: Recorded, events: list[Event]) -> None:
    """A file in which sequence numbers and counts are right, so that only the specification can find what is wrong."""
    text = json.dumps(recorded.footer | {"events": len(events)}).encode()
    close = struct.pack("<BBHI8x", 0xFD, 0, len(events) & 0xFFFF, len(text))
    path.write_bytes(recorded.header + b"".join(records(events)) + close + text)


def corrupt(kind: str, events: list[Event], at: int, rng: random.Random) -> list[Event]:
    """The events with one of them changed, from `at` on."""
    transition, arguments = events[at]
    changed = list(events)
    if kind == "drop":
        del changed[at]
    elif kind == "duplicate":
        changed.insert(at, events[at])
    elif kind == "swap":
        changed[at : at + 2] = [events[at + 1], events[at]]
    elif kind == "argument":
        which = rng.randrange(len(arguments))
        other = [*arguments]
        other[which] = max(0, other[which] + rng.choice((-3, -1, 1, 2)))
        changed[at] = (transition, other)
    else:
        types = [p.type for p in TRANSITIONS[transition].parameters]
        same = [i for i, t in enumerate(TRANSITIONS) if [p.type for p in t.parameters] == types]
        changed[at] = (rng.choice(same), arguments)
    return changed


def missing_individual(event: Event, population: dict[str, int]) -> bool:
    """Whether the event names an individual that does not exist and cannot come into being now."""
    parameters = TRANSITIONS[event[0]].parameters
    for p, x in zip(parameters, event[1], strict=True):
        if p.type in population and x >= population[p.type] + (p.type == GROWING):
            return True
    return False


def refused_at(recorded: Recorded, events: list[Event], at: int) -> tuple[int, str]:
    """Where the interpreter refuses, and why; (len(events), "") if nowhere."""
    monitor = recorded.monitor
    monitor.state, monitor.population = recorded.states[at], dict(recorded.populations[at])
    for number in range(at, len(events)):
        if missing_individual(events[number], monitor.population):
            return number, "missing"
        try:
            follow(monitor, events[number])
        except GuardFalse as refused:
            return number, refused.guard.name
    return len(events), ""


def test_the_recorded_run_is_allowed(recorded: Recorded, tmp_path: Path) -> None:
    write(tmp_path / "fine.tstrace", recorded, recorded.events)
    verdict = Validator(SPEC, tmp_path / "fine.tstrace").run()
    assert (verdict.false, verdict.events) == ("", len(recorded.events))


def test_a_hundred_corruptions_are_found_where_the_interpreter_finds_them(recorded: Recorded, tmp_path: Path) -> None:
    """A change after which the whole trace is still a behaviour with the same end is no corruption: nothing is wrong
    with it, and the replay must say so. All others count."""
    rng = random.Random(7)
    path = tmp_path / "corrupt.tstrace"
    found: Counter[str] = Counter()
    distances: list[int] = []
    harmless = at_the_end = 0
    while found.total() < 100:
        kind = ("drop", "duplicate", "swap", "argument", "transition")[found.total() % 5]
        at = rng.randrange(len(recorded.events) - 1)
        events = corrupt(kind, recorded.events, at, rng)
        if events == recorded.events:
            continue
        where, why = refused_at(recorded, events, at)
        write(path, recorded, events)
        if why == "missing":
            with pytest.raises(TraceFileError, match=f"event {where} is damaged: argument"):
                Validator(SPEC, path).run()
        else:
            verdict = Validator(SPEC, path).run()
            if why:
                assert (verdict.number, verdict.guard, verdict.events) == (where, why, where)
                assert len(verdict.context) == min(20, where + 1)
                assert f"{TRANSITIONS[events[where][0]].name}(" in verdict.event == verdict.context[-1].event
            elif same_values(recorded):
                assert not verdict.false
                harmless += 1
                continue
            else:
                assert "ended in another state" in verdict.false
                at_the_end += 1
        found[kind] += 1
        distances.append(where - at)
    assert min(found.values()) == 20
    assert harmless <= 40, "most changes of the generator must be corruptions"
    assert at_the_end <= 5, "nearly all corruptions make an event illegal, not only the end"
    assert sum(distance <= 1 for distance in distances) >= 90, "nearly all are refused at once or at the next event"


def same_values(recorded: Recorded) -> bool:
    """Whether the interpreter is now in the state in which the run ended, as far as the scheduler's variables go."""
    now, then = recorded.monitor.state, recorded.states[-1]
    return all(now.values[v.name] == then.values[v.name] for v in SPEC.variables.values() if not v.ghost)


@pytest.mark.parametrize("kind", ["drop", "duplicate", "swap"])
def test_sequence_numbers_find_what_happens_to_records(recorded: Recorded, tmp_path: Path, kind: str) -> None:
    """Damage to the file itself is found before any guard is looked at."""
    parts = records(recorded.events)
    first, second = parts[500:502]
    middle = {"drop": second, "duplicate": first + first + second, "swap": second + first}[kind]
    path = tmp_path / "damaged.tstrace"
    path.write_bytes(b"".join([recorded.header, *parts[:500], middle, *parts[502:]]))
    with pytest.raises(TraceFileError, match="sequence number"):
        Validator(SPEC, path).run()
