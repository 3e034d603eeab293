"""The compiled replay against the interpreter, on random walks through all machines: every guard and every effect."""

from __future__ import annotations

import random
from collections import Counter

from tokenspeed.scheduler import Machine
from tokenspeed.spec.conform._replay import Replay
from tokenspeed.spec.conform.monitor import Monitor
from tokenspeed.spec.language.labels import guard_labels
from tokenspeed.spec.system import SPEC

EACH = 3
"""Individuals of each sort."""
LIMITS = Machine(page=2, blocks=EACH, steps=EACH, hosts=EACH, copies=EACH, width=3, window=3).limits
CONSTANTS = {name: LIMITS[name.lower()] for name in SPEC.constants}
ENDS = dict.fromkeys(("abort", "retract", "submit", "evict", "finish", "receive_dropped"), 0.85)
ENDS |= dict.fromkeys(("launch", "spill", "fetch", "send", "receive", "drop_page", "match_cached"), 0.7)
"""How often the walk passes over what it could take, so that it gets somewhere."""


def record(number: int, arguments: list[int], event: int) -> bytes:
    low = b"".join(x.to_bytes(3, "little") for x in [*arguments, 0, 0, 0, 0][:4])
    return bytes((number, len(arguments))) + (event & 0xFFFF).to_bytes(2, "little") + low


class Walk:
    """A replay and the interpreter, given the same proposals."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.monitor = Monitor(SPEC, LIMITS)
        self.monitor.population = dict.fromkeys(SPEC.sorts, EACH)
        self.replay = Replay(CONSTANTS, dict.fromkeys(SPEC.sorts, EACH))
        self.buffer = bytearray()
        self.transitions = list(SPEC.transitions.values())
        self.refused: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()

    def propose(self, number: int) -> bool:
        """One transition with random arguments; both must give the same answer. Returns whether it was taken."""
        transition = self.transitions[number]
        arguments = [self.argument(p.type) for p in transition.parameters]
        bindings = {p.name: x for p, x in zip(transition.parameters, arguments, strict=True)}
        guard = self.monitor.interpreter.false_guard(self.monitor.state, transition, bindings)
        stop = self.replay.run(bytes(self.buffer + record(number, arguments, self.replay.events)), 1)
        if guard is not None:
            assert (stop.reason, stop.detail) == ("guard", f"{transition.name}:{guard.name}")
            self.refused[stop.detail] += 1
            return False
        assert (stop.reason, stop.transition, stop.arguments) == ("limit", transition.name, arguments)
        self.monitor.follow([[number, len(arguments), *arguments]])
        self.buffer += bytes(16)
        self.taken[transition.name] += 1
        return True

    def argument(self, type_: str) -> int:
        if type_ in SPEC.sorts:
            return self.rng.randrange(EACH)
        return self.rng.choice((self.rng.randint(0, 7), self.rng.randint(0, 3), self.replay.events + 1))

    def step(self) -> None:
        """Propose transitions until one is taken."""
        for number in self.rng.sample(range(len(self.transitions)), len(self.transitions)):
            if self.rng.random() < ENDS.get(self.transitions[number].name, 0):
                continue
            if any(self.propose(number) for _ in range(8)):
                return

    def agree(self) -> None:
        """All values that the replay follows are the interpreter's."""
        observed, state = self.replay.values(), self.monitor.state
        for name in {name for name, _ in observed}:
            places = [()] if not SPEC.variables[name].sorts else list(state.values[name])
            expected = {(name, place): self.monitor.number(name, state.get(name, place)) for place in places}
            assert {k: v for k, v in expected.items() if v} == {k: v for k, v in observed.items() if k[0] == name}
        assert self.replay.wrong_count() == ""


def test_replay_and_interpreter_agree_on_random_walks() -> None:
    refused: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for seed in range(12):
        walk = Walk(seed)
        for _ in range(7):
            for _ in range(100):
                walk.step()
            walk.agree()
        refused += walk.refused
        taken += walk.taken
    assert len(taken) >= 0.75 * len(SPEC.transitions), sorted(set(SPEC.transitions) - set(taken))
    labels = guard_labels(SPEC)
    assert len(refused) >= 0.7 * len(labels), sorted(set(labels) - set(refused))
