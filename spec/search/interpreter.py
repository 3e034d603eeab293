"""Runs the specification in Python: the reference that the compiled scheduler and every trace are held to.

A `State` gives each variable its values, individual by individual; what is not mentioned has its initial value.
Individuals are 0, 1, 2, ... Expressions are compiled to Python functions once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..language.expressions import Expr
from ..language.printing import ATOM, PYTHON, Printer
from ..language.spec import Guard, Parameter, Spec, Transition

Index = tuple[int, ...]
Values = dict[str, dict[Index, Any]]
Bindings = Mapping[str, int]


class GuardFalse(ValueError):
    """A transition was asked for in a state that does not allow it."""

    def __init__(self, transition: Transition, guard: Guard, bindings: Bindings) -> None:
        shown = ", ".join(f"{k}={v}" for k, v in bindings.items())
        super().__init__(f"{transition.name}({shown}): guard {guard.name!r} is false: {guard.condition}")
        self.transition, self.guard = transition, guard


@dataclass(frozen=True)
class Violation:
    """A property that is false, and for which individuals."""

    property: str
    bindings: dict[str, int]
    detail: str


class State:
    """One state of the specification."""

    def __init__(self, initial: Mapping[str, Any], values: Values | None = None) -> None:
        self.initial = initial
        self.values: Values = values if values is not None else {name: {} for name in initial}

    def get(self, name: str, index: Index) -> Any:
        """The value of a variable for some individuals."""
        return self.values[name].get(index, self.initial[name])

    def set(self, name: str, index: Index, value: Any) -> None:
        """Give it a value; initial values are not stored, so equal states compare equal."""
        if value == self.initial[name]:
            self.values[name].pop(index, None)
        else:
            self.values[name][index] = value

    def copy(self) -> State:
        """An independent copy."""
        return State(self.initial, {name: dict(values) for name, values in self.values.items()})


def python_source(e: Expr) -> str:
    """The expression as Python over `p` (parameters), `c` (constants), `g` and `h` (read before and after), `t`."""
    return _printer("g", _printer("h", None)).text(e)


def _printer(reader: str, after: Printer | None) -> Printer:
    return Printer(
        PYTHON,
        name=lambda e: f"{'p' if e.op == 'param' else 'c'}[{e.args[0]!r}]",
        read=lambda v, index: f"{reader}({v.name!r}, ({''.join(f'{i}, ' for i in index)}))",
        after=None if after is None else (lambda e: after.text(e, ATOM)),
        taken=lambda name: f"(t == {name!r})",
    )


Compiled = Callable[
    [Bindings, Mapping[str, int], Callable[[str, Index], Any], Callable[[str, Index], Any] | None, str], Any
]


class Interpreter:
    """Evaluates guards, effects and properties over `State`s. `constants` gives PAGE, BLOCKS, ..."""

    def __init__(self, spec: Spec, constants: Mapping[str, int]) -> None:
        self.spec = spec
        self.constants = dict(constants)
        missing = set(spec.constants) - set(constants)
        if missing:
            raise ValueError(f"constants: no value for {', '.join(sorted(missing))}")
        self._compiled: dict[int, Compiled] = {}
        self._keep: list[Expr] = []
        self.initial = {name: self.evaluate(v.init, {}, State({})) for name, v in spec.variables.items()}

    def start(self) -> State:
        """The initial state."""
        return State(self.initial)

    def evaluate(
        self, e: Expr, bindings: Bindings, state: State, following: State | None = None, transition: str = ""
    ) -> Any:
        """The value of an expression."""
        compiled = self._compiled.get(id(e))
        if compiled is None:
            compiled = eval(f"lambda p, c, g, h, t: {python_source(e)}")
            self._compiled[id(e)] = compiled
            self._keep.append(e)
        return compiled(bindings, self.constants, state.get, following.get if following else None, transition)

    def false_guard(self, state: State, transition: Transition, bindings: Bindings) -> Guard | None:
        """The first guard that does not hold, if any."""
        for guard in transition.guards:
            if not self.evaluate(guard.condition, bindings, state):
                return guard
        return None

    def apply(
        self,
        state: State,
        transition: Transition,
        bindings: Bindings,
        population: Mapping[str, int],
        check: bool = True,
    ) -> State:
        """The state after the transition. Raises GuardFalse unless `check` is off."""
        if check:
            guard = self.false_guard(state, transition, bindings)
            if guard is not None:
                raise GuardFalse(transition, guard, bindings)
        following = state.copy()
        for effect in transition.effects:
            ranges = [range(population[b.type]) for b in effect.binders]
            for chosen in itertools.product(*ranges):
                local = {**bindings, **{b.name: x for b, x in zip(effect.binders, chosen, strict=True)}}
                index = tuple(self.evaluate(i, local, state) for i in effect.index)
                following.set(effect.variable.name, index, self.evaluate(effect.value, local, state))
        return following

    def bindings(self, parameters: tuple[Parameter, ...], population: Mapping[str, int]) -> Iterator[dict[str, int]]:
        """All individuals that the parameters may stand for."""
        for chosen in itertools.product(*[range(population[p.type]) for p in parameters]):
            yield {p.name: x for p, x in zip(parameters, chosen, strict=True)}

    def violations(
        self, state: State, population: Mapping[str, int], before: State | None = None, transition: str = ""
    ) -> Iterator[Violation]:
        """Properties and counts that are false in the state (and, given `before`, for the transition to it)."""
        for p in self.spec.properties.values():
            if p.kind == "action" and before is None:
                continue
            first = before if p.kind == "action" and before is not None else state
            for bindings in self.bindings(p.parameters, population):
                if p.given is not None:
                    every, fact = p.given
                    everybody = ({**bindings, every.name: x} for x in range(population[every.type]))
                    if not all(self.evaluate(fact, b, first) for b in everybody):
                        continue
                if not self.evaluate(p.formula, bindings, first, state, transition):
                    yield Violation(p.name, bindings, str(p.formula))
        for count in self.spec.counts.values():
            for bindings in self.bindings(count.index, population):
                truth = 0
                for x in range(population[count.over.type]):
                    local = {**bindings, count.over.name: x}
                    if self.evaluate(count.condition, local, state):
                        truth += 1 if count.weight is None else self.evaluate(count.weight, local, state)
                kept = state.get(count.variable.name, tuple(bindings.values()))
                if kept != truth:
                    yield Violation(f"count {count.variable.name}", bindings, f"is {kept}, should be {truth}")


__all__ = ["GuardFalse", "Interpreter", "State", "Violation"]
