"""Replays a trace in the interpreter and lays it out as a timeline: one column for each request, block and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .expressions import Expr, conjuncts, to_text
from .instances import Instance
from .interpreter import Interpreter, State
from .language import Property, Spec, Transition, Variable


@dataclass(frozen=True)
class Moment:
    """One line: the event, and for each individual what changed."""

    event: str
    actor: str
    changes: dict[str, tuple[str, ...]]
    ignored_guards: tuple[str, ...] = ()


@dataclass
class Timeline:
    """A trace with its end: which property is false, for whom, and which part of it."""

    individuals: tuple[str, ...]
    moments: list[Moment] = field(default_factory=list)
    violated: str = ""
    meaning: str = ""
    conjunct: str = ""
    witnesses: dict[str, str] = field(default_factory=dict)


class Replay:
    """Turns the explorer's traces into timelines."""

    def __init__(self, spec: Spec, instance: Instance, dropped: Sequence[str] = ()) -> None:
        self.spec, self.instance, self.dropped = spec, instance, set(dropped)
        self.interpreter = Interpreter(spec, instance.constants)
        self.individuals = tuple(
            f"{sort.letter}{i}" for sort in spec.sorts.values() for i in range(instance.population[sort.name])
        )

    def _name(self, sort: str, individual: int) -> str:
        return f"{self.spec.sorts[sort].letter}{individual}"

    def timeline(self, trace: Sequence[tuple[str, tuple[int, ...]]], violated: str) -> Timeline:
        """Raises GuardFalse if the trace is not a behaviour of the specification without the dropped guards."""
        result = Timeline(self.individuals)
        before = state = self.interpreter.start()
        for transition_name, arguments in trace:
            transition = self.spec.transitions[transition_name]
            bindings = self._bindings(transition, arguments, state)
            ignored = []
            for guard in transition.guards:
                if not self.interpreter.evaluate(guard.condition, bindings, state):
                    if f"{transition.name}:{guard.name}" not in self.dropped:
                        self.interpreter.apply(state, transition, bindings, self.instance.population)
                    ignored.append(guard.name)
            before = state
            state = self.interpreter.apply(state, transition, bindings, self.instance.population, check=False)
            shown = ", ".join(
                self._name(p.type, bindings[p.name]) if p.type in self.spec.sorts else f"{p.name}={bindings[p.name]}"
                for p in transition.parameters
            )
            changes = self._changes(before, state)
            result.moments.append(Moment(f"{transition.name}({shown})", transition.actor, changes, tuple(ignored)))
        self._explain(result, violated, before, state, trace[-1][0] if trace else "")
        return result

    def _bindings(self, transition: Transition, arguments: Sequence[int], state: State) -> dict[str, int]:
        """The explorer gives integers as distances from the start of their ranges."""
        bindings: dict[str, int] = {}
        for p, argument in zip(transition.parameters, arguments, strict=False):
            low = 0
            if p.type not in self.spec.sorts:
                low = self.interpreter.evaluate(self.spec.ranges[transition.name, p.name][0], bindings, state)
            bindings[p.name] = low + argument
        return bindings

    def _changes(self, before: State, after: State) -> dict[str, tuple[str, ...]]:
        """What changed, by individual; counters that only proofs need are left out."""
        found: dict[str, list[str]] = {}
        for variable in self.spec.variables.values():
            if not variable.sorts or (variable.ghost and variable.name in self.spec.counts):
                continue
            old, new = before.values[variable.name], after.values[variable.name]
            for index in sorted(old.keys() | new.keys()):
                value = after.get(variable.name, index)
                if before.get(variable.name, index) != value:
                    owner = self._name(variable.sorts[0].name, index[0])
                    found.setdefault(owner, []).append(self._describe(variable, index, value))
        return {owner: tuple(texts) for owner, texts in found.items()}

    def _describe(self, variable: Variable, index: tuple[int, ...], value: object) -> str:
        if variable.type in self.spec.enums:
            return str(value)
        others = " ".join(self._name(s.name, i) for s, i in zip(variable.sorts[1:], index[1:], strict=True))
        label = f"{variable.name} {others}".strip()
        if value is True:
            return label
        if value is False:
            return f"no {label}"
        return f"{label}={value}"

    def _explain(self, result: Timeline, violated: str, before: State, state: State, transition: str) -> None:
        """Find whom the violated property fails for and the part of it that is false."""
        for violation in self.interpreter.violations(state, self.instance.population, before, transition):
            if violation.property != violated:
                continue
            result.violated = violated
            p = self.spec.properties.get(violated)
            sorts = {x.name: x.type for x in (p.parameters if p else self.spec.counts[violated[6:]].index)}
            result.witnesses = {k: self._name(sorts[k], v) for k, v in violation.bindings.items()}
            if p is None:
                result.conjunct = violation.detail
                return
            result.meaning = p.doc
            part = self._false_part(p, violation.bindings, before, state, transition)
            result.conjunct = to_text(rename(part, result.witnesses))
            return
        raise AssertionError(f"the explorer says that {violated!r} is false, the interpreter says that it holds")

    def _false_part(self, p: Property, bindings: dict[str, int], before: State, state: State, transition: str) -> Expr:
        first = before if p.kind == "action" else state
        for part in conjuncts(p.formula):
            if not self.interpreter.evaluate(part, bindings, first, state, transition):
                return part
        return p.formula


def rename(e: Expr, names: dict[str, str]) -> Expr:
    """The expression with other names for its parameters."""
    if e.op == "param":
        return Expr("param", names.get(e.args[0], e.args[0]), type=e.type)
    return Expr(e.op, *[rename(a, names) if isinstance(a, Expr) else a for a in e.args], type=e.type)
