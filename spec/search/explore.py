"""Searches small instances exhaustively: which transitions and states occur, and the shortest way to a violation."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from ..language.spec import Spec
from ._explorer import SPEC_HASH, Explorer
from .instances import INSTANCES, Instance


@dataclass(frozen=True)
class Explored:
    """What a search of one instance found. `complete`: no reachable state was left out."""

    instance: Instance
    states: int
    transitions: int
    depth: int
    complete: bool
    seconds: float
    taken: dict[str, int]
    violated: str
    trace: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass
class Exploration:
    """The survey of all small instances; `stale`: in Python, as the compiled explorer is of another specification."""

    spec: Spec
    explored: list[Explored] = field(default_factory=list)
    stale: bool = False

    @property
    def states(self) -> int:
        """States visited, over all instances."""
        return sum(e.states for e in self.explored)

    @property
    def seconds(self) -> float:
        """Time of all searches."""
        return sum(e.seconds for e in self.explored)

    @property
    def violations(self) -> list[Explored]:
        """Searches that found a false property."""
        return [e for e in self.explored if e.violated]

    @property
    def untaken(self) -> list[str]:
        """Transitions that never happened."""
        return [t for t in self.spec.transitions if not any(e.taken[t] for e in self.explored)]

    @property
    def unreached(self) -> list[str]:
        """States of the machines that no transition that happened leads to."""
        untaken = set(self.untaken)
        reached: dict[str, set[str]] = {}
        for variable in self.spec.variables.values():
            if variable.type in self.spec.enums:
                reached[variable.type] = {str(variable.init.args[1])}
        for transition in self.spec.transitions.values():
            for move in transition.moves:
                if transition.name not in untaken:
                    reached[move.machine.type].add(move.target)
        return [f"{e}.{v}" for e, values in reached.items() for v in self.spec.enums[e].values if v not in values]

    @property
    def sound(self) -> bool:
        """No violation, every transition and state reached, and no part left to a compiled explorer that is stale."""
        return not self.stale and not self.violations and not self.untaken and not self.unreached


def compiled_from(spec: Spec) -> bool:
    """Whether the compiled explorer is of this specification, rather than of what it was before an edit."""
    return spec.digest() == SPEC_HASH


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def search(
    instance: Instance,
    dropped: tuple[str, ...] = (),
    max_states: int = 300_000,
    check_lemmas: bool = False,
    only: str = "",
    reduce: bool = True,
    threads: int | None = None,
) -> Explored:
    """Breadth first through one instance of the specification that was compiled in.

    `dropped`: guards (`transition:guard`), effects (`transition:effect variable`) and transitions that are switched
    off. `only`: the one property or counter that counts as a violation. `reduce`: states that differ only in the names
    of individuals count once. `threads` (default: one for each core) changes the time, not the result. Raises
    ValueError if nothing has such a name or the size is not compiled in.
    """
    start = time.perf_counter()
    result = Explorer(instance.population).explore(
        constants=instance.constants, dropped=list(dropped), max_states=max_states,
        check_lemmas=check_lemmas, only=only, reduce=reduce, threads=threads or available_cores(),
    )  # fmt: skip
    trace = tuple((name, tuple(arguments)) for name, arguments in result.trace)
    seconds = time.perf_counter() - start
    return Explored(
        instance, result.states, result.transitions, result.depth, result.complete, seconds, dict(result.taken),
        result.violated, trace,
    )  # fmt: skip


def survey(spec: Spec, max_states: int = 400_000) -> Exploration:
    """Search all small instances, checking properties, lemmas and counters in every state."""
    exploration = Exploration(spec)
    for instance in INSTANCES[:9]:
        exploration.explored.append(search(instance, max_states=max_states, check_lemmas=True))
    return exploration
