"""Follows a trace of transitions taken elsewhere (the compiled scheduler) and checks that the specification allows
each one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..language.spec import Spec
from ..search.interpreter import Interpreter, State, Violation


class Divergence(AssertionError):
    """The trace or the state of the observed system is not what the specification says."""


class Monitor:
    """The specification's own state, moved along by the observed transitions.

    `limits`: the constants of the observed system in lower case, and its numbers of records (`step_records`, ...).
    """

    def __init__(self, spec: Spec, limits: Mapping[str, int]) -> None:
        self.spec = spec
        constants = {name: limits[name.lower()] for name in spec.constants}
        self.interpreter = Interpreter(spec, constants)
        self.state: State = self.interpreter.start()
        self.transitions = list(spec.transitions.values())
        self.population = {sort: self._records(sort, limits) for sort in spec.sorts}
        self.followed = 0

    def _records(self, sort: str, limits: Mapping[str, int]) -> int:
        size = self.spec.size(sort)
        return limits[size.lower()] if size is not None else limits.get(f"{sort.lower()}_records", 0)

    def follow(self, trace: Iterable[Sequence[int]]) -> None:
        """Take the transitions of a trace: rows of number, argument count, arguments.

        Raises GuardFalse at the first that the specification does not allow.
        """
        for row in trace:
            transition = self.transitions[int(row[0])]
            bindings = {p.name: int(x) for p, x in zip(transition.parameters, row[2 : 2 + int(row[1])], strict=True)}
            for p in transition.parameters:
                if p.type in self.population:
                    self.population[p.type] = max(self.population[p.type], bindings[p.name] + 1)
            self.state = self.interpreter.apply(self.state, transition, bindings, self.population)
            self.followed += 1

    def compare(self, snapshot: Mapping[str, Mapping[tuple[int, ...], int]]) -> None:
        """Raises Divergence if a concrete variable of the observed system differs from the specification's state."""
        for name, variable in self.spec.variables.items():
            if variable.ghost:
                continue
            if name not in snapshot:
                if self.state.values[name]:
                    raise Divergence(f"{name}: the snapshot lacks it")
                continue
            expected = {index: self.number(name, value) for index, value in self.state.values[name].items()}
            if not variable.sorts:
                expected = {(): self.number(name, self.state.get(name, ()))}
            expected = {index: value for index, value in expected.items() if value != 0}
            observed = {index: value for index, value in snapshot[name].items() if value != 0}
            if expected != observed:
                raise Divergence(f"{name}: the specification has {expected}, the scheduler has {observed}")

    def number(self, name: str, value: Any) -> int:
        """A value as the compiled scheduler counts it: states by position, truth as 0 and 1."""
        variable = self.spec.variables[name]
        if variable.type in self.spec.enums:
            return self.spec.enums[variable.type].values.index(value)
        return int(value)

    def violations(self) -> list[Violation]:
        """Properties and counters that are false in the state reached."""
        return list(self.interpreter.violations(self.state, self.population))
