"""Every guard of the compiled machine: arbitrary proposals are refused for the reason that the specification gives."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from tokenspeed.scheduler import CHECKED, TRANSITIONS, Machine
from tokenspeed.spec.conform.monitor import Monitor
from tokenspeed.spec.language.expressions import Expr, variables_read
from tokenspeed.spec.language.labels import guard_labels
from tokenspeed.spec.language.spec import Transition
from tokenspeed.spec.search.interpreter import Interpreter
from tokenspeed.spec.system import SPEC

POPULATION = {"Request": 3, "Block": 4, "Step": 2, "Host": 2, "Copy": 2}
PAGE = 2


def new_machine() -> Machine:
    machine = Machine(page=PAGE, blocks=4, steps=2, hosts=2, copies=2, width=3, window=3)
    for _ in range(POPULATION["Request"]):
        machine.add_request()
    return machine


RELUCTANCE = dict.fromkeys(("abort", "retract", "submit", "evict", "finish", "receive_dropped"), 0.85)
RELUCTANCE |= dict.fromkeys(("launch", "spill", "fetch", "send", "receive", "drop_page", "match_cached"), 0.7)
"""How often the walk passes over a transition that it could take."""


def is_ghost(condition: Expr) -> bool:
    return any(SPEC.variables[v].ghost for v in variables_read(condition))


class LockStep:
    """A compiled machine and the interpreter, given the same proposals."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.machine = new_machine()
        self.monitor = Monitor(SPEC, self.machine.limits)
        self.monitor.population = dict(POPULATION)
        self.interpreter: Interpreter = self.monitor.interpreter
        self.refused: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()

    def proposal(self, transition: Transition) -> dict[str, int]:
        """Arguments, most of them sensible."""
        newest = self.monitor.state.get("newest_arrival", ())
        integers = {
            "tokens": (0, 4),
            "most": (0, 8),
            "turn": (newest, newest + 1),
            "n": (0, PAGE + 1),
            "accepted": (0, 4),
            "x": (0, 2),
        }
        return {
            p.name: self.rng.randrange(POPULATION[p.type])
            if p.type in POPULATION
            else self.rng.randint(*integers[p.name])
            for p in transition.parameters
        }

    def possible(self, transition: Transition, bindings: dict[str, int]) -> bool:
        return self.interpreter.false_guard(self.monitor.state, transition, bindings) is None

    def propose(self, transition: Transition, bindings: dict[str, int]) -> None:
        guard = self.interpreter.false_guard(self.monitor.state, transition, bindings)
        if guard is not None and is_ghost(guard.condition) and not CHECKED:
            return  # only the checked build can see it
        number = TRANSITIONS.index(transition.name)
        answer = self.machine.apply(number, list(bindings.values()))
        if guard is None:
            assert answer == ""
            self.monitor.follow([[number, len(bindings), *bindings.values()]])
            self.taken[transition.name] += 1
        else:
            assert answer == f"{transition.name}:{guard.name}"
            self.refused[answer] += 1
        self.monitor.compare(self.machine.snapshot())

    def sweep(self) -> None:
        """Propose everything that is impossible now, with all arguments; nothing of it may change the state."""
        newest = self.monitor.state.get("newest_arrival", ())
        integers = {
            "tokens": range(3),
            "most": range(4),
            "turn": (newest, newest + 1),
            "n": range(PAGE + 2),
            "accepted": range(5),
            "x": range(3),
        }
        for number, transition in enumerate(SPEC.transitions.values()):
            choices = [
                range(POPULATION[p.type]) if p.type in POPULATION else integers[p.name] for p in transition.parameters
            ]
            for values in itertools.product(*choices):
                bindings = dict(zip((p.name for p in transition.parameters), values, strict=True))
                guard = self.interpreter.false_guard(self.monitor.state, transition, bindings)
                if guard is not None and (CHECKED or not is_ghost(guard.condition)):
                    answer = self.machine.apply(number, list(values))
                    assert answer == f"{transition.name}:{guard.name}"
                    self.refused[answer] += 1
        self.monitor.compare(self.machine.snapshot())

    def walk(self, steps: int) -> None:
        """Possible transitions, with less of what ends a request than chance would give: the walk gets somewhere."""
        transitions = list(SPEC.transitions.values())
        for _ in range(steps):
            for transition in self.rng.sample(transitions, len(transitions)):
                if self.rng.random() < RELUCTANCE.get(transition.name, 0):
                    continue
                number = 64 if len(transition.parameters) > 3 else 8
                tries = (self.proposal(transition) for _ in range(number))
                bindings = next((b for b in tries if self.possible(transition, b)), None)
                if bindings is not None:
                    self.propose(transition, bindings)
                    break
            if self.rng.random() < 0.2:
                self.sweep()


def test_arbitrary_proposals_are_answered_as_the_specification_says() -> None:
    refused: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for seed in range(24):
        lock_step = LockStep(seed)
        lock_step.walk(700)
        refused += lock_step.refused
        taken += lock_step.taken
    assert len(set(TRANSITIONS) - set(taken)) <= 2, set(TRANSITIONS) - set(taken)  # lock step tries all of them
    ghosts = {f"{t.name}:{g.name}" for t in SPEC.transitions.values() for g in t.guards if is_ghost(g.condition)}
    seen = set(refused) | (set() if CHECKED else ghosts)
    assert len(seen) >= 0.85 * len(guard_labels(SPEC)), sorted(set(guard_labels(SPEC)) - seen)


def perform(machine: Machine, *events: tuple[Any, ...]) -> None:
    for name, *arguments in events:
        assert machine.apply(TRANSITIONS.index(name), list(arguments)) == "", name


STEP = (("launch", 0), ("device_done", 0), ("observe", 0))


def test_a_request_with_all_its_output_is_not_retracted() -> None:
    machine = LockStep(0).machine
    perform(machine, ("submit", 0, 1, 2, 1), ("submit", 1, 1, 2, 2), ("admit", 0), ("admit", 1), ("allocate", 1, 0))
    perform(machine, ("open_step", 0), ("prefill_last", 0, 1, 1), *STEP)
    perform(machine, ("land_row", 0, 1, 1), ("retire", 0))
    assert machine.apply(TRANSITIONS.index("retract"), [1, 0]) == "retract:output left"


def test_a_prefix_is_matched_from_its_start() -> None:
    machine = LockStep(0).machine
    perform(machine, ("submit", 0, 5, 6, 1), ("admit", 0), ("allocate", 0, 0), ("allocate", 0, 1))
    perform(machine, ("open_step", 0), ("prefill", 0, 0, 4), *STEP)
    perform(machine, ("land_row", 0, 0, 0), ("retire", 0), ("publish", 0, 0, 0, 7), ("publish", 0, 1, 0, 8))
    perform(machine, ("abort", 0), ("release_to_cache", 0, 1), ("release_to_cache", 0, 0), ("submit", 1, 5, 6, 2))
    match, evict = TRANSITIONS.index("match_cached"), TRANSITIONS.index("evict")
    assert machine.apply(evict, [0, 0]) == "evict:leaf"
    assert machine.apply(match, [1, 1, 0, 8]) == "match_cached:next in sequence"
    assert machine.apply(match, [1, 0, 0, 8]) == "match_cached:own prefix"
    assert machine.apply(match, [1, 0, 0, 7]) == ""
    assert machine.apply(match, [1, 1, 1, 8]) == "match_cached:holds what is in front"
    assert machine.apply(match, [1, 1, 0, 8]) == ""


@pytest.mark.parametrize("index", [-1, 4, 10**6, 2**32 + 1, -(2**32) + 1])
def test_unknown_individuals_are_refused(index: int) -> None:
    machine = LockStep(0).machine
    for number, transition in enumerate(SPEC.transitions.values()):
        arguments = [index if p.type in POPULATION else 1 for p in transition.parameters]
        assert machine.apply(number, arguments) == "index out of range", transition.name


def test_unknown_transitions_are_refused() -> None:
    machine = LockStep(0).machine
    for number in (-1, len(TRANSITIONS)):
        with pytest.raises(ValueError, match="no such transition"):
            machine.apply(number, [])
