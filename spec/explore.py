"""Searches small instances exhaustively: which transitions and states occur, and the shortest way to a violation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ._explorer import SPEC_HASH, explore
from .language import Spec


@dataclass(frozen=True)
class Instance:
    """Sizes of one small instance: individuals, tokens per block, longest prompt and output (tokens)."""

    requests: int
    blocks: int
    steps: int
    page: int
    max_prompt: int
    max_output: int
    width: int = 1
    window: int = 99

    @property
    def population(self) -> dict[str, int]:
        """How many individuals of each sort."""
        return {"Request": self.requests, "Block": self.blocks, "Step": self.steps, "Host": 1, "Copy": 1}

    @property
    def constants(self) -> dict[str, int]:
        """Values of the specification's constants, and the bounds of the exploration."""
        return {
            "PAGE": self.page, "BLOCKS": self.blocks, "ROOM": self.page * self.blocks, "HOSTS": 1,
            "WIDTH": self.width, "WINDOW": self.window, "MAX_PROMPT": self.max_prompt, "MAX_OUTPUT": self.max_output,
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.blocks} blocks of {self.page}, {self.steps} steps, "
            f"prompts up to {self.max_prompt}, outputs up to {self.max_output}"
        )


INSTANCES = tuple(
    Instance(requests, blocks, steps, page, prompt, output, width, window)
    for requests, blocks, steps in ((1, 2, 1), (1, 2, 2), (2, 2, 1), (2, 2, 2), (2, 3, 2))
    for page, prompt, output, width, window in ((1, 2, 2, 1, 99), (2, 3, 2, 2, 99), (1, 2, 3, 2, 1))
)
"""From small to large; a violation is looked for in this order, so the first found is easy to read."""


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
    """The survey of all small instances; `stale`: in Python, since the compiled explorer is of another specification."""

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
    return SPEC_HASH == spec.digest()


def search(
    instance: Instance,
    dropped: tuple[str, ...] = (),
    max_states: int = 300_000,
    check_lemmas: bool = False,
    only: str = "",
) -> Explored:
    """Breadth first through one instance of the specification that was compiled in.

    `dropped`: guards (`transition:guard`), effects (`transition:effect variable`) and transitions that are switched
    off. `only`: the one property or counter that counts as a violation. Raises ValueError if nothing has such a name or
    the size is not compiled in.
    """
    start = time.perf_counter()
    result = explore(
        requests=instance.requests, blocks=instance.blocks, steps=instance.steps, constants=instance.constants,
        dropped=list(dropped), max_states=max_states, check_lemmas=check_lemmas, only=only,
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
