"""Replays a trace in the interpreter and lays it out as a timeline: one lane for each request, block and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..language.expressions import Expr, conjuncts, to_text
from ..language.spec import Property, Spec, Transition, Variable
from ..search.instances import Scope
from ..search.interpreter import Interpreter, State, Violation
from ..search.variants import without


@dataclass(frozen=True)
class Edit:
    """One changed field. `owner`: the individual whose lane shows it, "" for the whole system; `field`: the variable
    and the other individuals that index it; `counted`: a counter that only proofs need.
    """

    owner: str
    field: str
    old: str
    new: str
    is_state: bool = False
    ghost: bool = False
    counted: bool = False


@dataclass(frozen=True)
class Moment:
    """One line: the event, who acted, and what changed. `first_false`: lemmas and counters that were true until now."""

    event: str
    actor: str
    meaning: str
    edits: tuple[Edit, ...]
    ignored_guards: tuple[str, ...] = ()
    omitted_effects: tuple[str, ...] = ()
    first_false: tuple[str, ...] = ()

    @property
    def changes(self) -> dict[str, tuple[str, ...]]:
        """What changed, in words, by individual; counters that only proofs need are left out."""
        found: dict[str, list[str]] = {}
        for edit in self.edits:
            if edit.owner and not edit.counted:
                found.setdefault(edit.owner, []).append(in_words(edit))
        return {owner: tuple(texts) for owner, texts in found.items()}


def in_words(edit: Edit) -> str:
    """`OWNED`, `holds b0`, `no holds b0` or `fill=2`."""
    if edit.is_state:
        return edit.new
    return {"true": edit.field, "false": f"no {edit.field}"}.get(edit.new, f"{edit.field}={edit.new}")


@dataclass
class Timeline:
    """A trace with its end: which property is false, for whom, which part of it, and the values that make it so.

    `start`: what differs from the initial state before the first event, individual by individual.
    """

    individuals: tuple[str, ...]
    moments: list[Moment] = field(default_factory=list)
    start: tuple[Edit, ...] = ()
    violated: str = ""
    meaning: str = ""
    conjunct: str = ""
    values: tuple[str, ...] = ()
    witnesses: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The timeline as JSON values, events with their changes in words."""
        moments = [
            {
                "event": m.event, "actor": m.actor, "changes": m.changes, "ignored_guards": list(m.ignored_guards),
                "omitted_effects": list(m.omitted_effects), "first_false": list(m.first_false),
            }
            for m in self.moments
        ]  # fmt: skip
        return {
            "individuals": list(self.individuals), "start": [f"{e.owner}: {in_words(e)}" for e in self.start],
            "moments": moments, "violated": self.violated, "meaning": self.meaning, "conjunct": self.conjunct,
            "values": list(self.values), "witnesses": self.witnesses,
        }  # fmt: skip


class Replay:
    """Turns traces of the explorer and of solvers into timelines.

    `labels`: guards that may be false (`transition:guard`) and effects that do not happen
    (`transition:effect variable`).
    """

    def __init__(self, spec: Spec, scope: Scope, labels: Sequence[str] = ()) -> None:
        self.spec, self.population, self.labels = spec, dict(scope.population), frozenset(labels)
        self.interpreter = Interpreter(spec, scope.constants)
        self.individuals = tuple(
            f"{sort.letter}{i}" for sort in spec.sorts.values() for i in range(self.population[sort.name])
        )

    def name(self, sort: str, individual: int) -> str:
        """r0, b1, ..."""
        return f"{self.spec.sorts[sort].letter}{individual}"

    def timeline(self, trace: Sequence[tuple[str, tuple[int, ...]]], violated: str) -> Timeline:
        """A trace of the explorer, from the start to where `violated` is false.

        Raises GuardFalse if it is not a behaviour of the specification without the guards that were left out.
        """
        result, before = self.events(trace[:-1])
        last, arguments = trace[-1]
        transition = self.spec.transitions[last]
        false_before = {name for moment in result.moments for name in moment.first_false}
        state = self.take(result, before, transition, self._bindings(transition, arguments, before), false_before)
        self.explain(result, violated, before, state, last)
        return result

    def events(self, trace: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[Timeline, State]:
        """The timeline of a trace of the explorer, and the state at its end. Raises GuardFalse like `timeline`."""
        result, state = Timeline(self.individuals), self.interpreter.start()
        already: set[str] = set()
        for name, arguments in trace:
            transition = self.spec.transitions[name]
            state = self.take(result, state, transition, self._bindings(transition, arguments, state), already)
        return result, state

    def event(self, transition: Transition, bindings: Mapping[str, int]) -> str:
        """The transition with its arguments: prefill(s0, r0, b0, n=2)."""
        shown = ", ".join(
            self.name(p.type, bindings[p.name]) if p.type in self.spec.sorts else f"{p.name}={bindings[p.name]}"
            for p in transition.parameters
        )
        return f"{transition.name}({shown})"

    def take(
        self, result: Timeline, before: State, transition: Transition, bindings: Mapping[str, int], already: set[str]
    ) -> State:
        """Append one event and return the state after it; `already`: lemmas and counters that are false before."""
        ignored = []
        for guard in transition.guards:
            if not self.interpreter.evaluate(guard.condition, bindings, before):
                if f"{transition.name}:{guard.name}" not in self.labels:
                    self.interpreter.apply(before, transition, bindings, self.population)
                ignored.append(guard.name)
        changed = without(transition, self.labels, guards=False)
        state = self.interpreter.apply(before, changed, bindings, self.population, check=False)
        kept = {id(e) for e in changed.effects}
        omitted = tuple(dict.fromkeys(e.variable.name for e in transition.effects if id(e) not in kept))
        false_now = {
            v.property
            for v in self.interpreter.violations(state, self.population)
            if v.property not in self.spec.properties or self.spec.properties[v.property].kind == "lemma"
        }
        first_false = tuple(sorted(false_now - already))
        already |= false_now
        edits = tuple(self.edits(before, state))
        result.moments.append(
            Moment(
                self.event(transition, bindings),
                transition.actor,
                transition.doc,
                edits,
                tuple(ignored),
                omitted,
                first_false,
            )
        )
        return state

    def _bindings(self, transition: Transition, arguments: Sequence[int], state: State) -> dict[str, int]:
        """The explorer gives integers as distances from the start of their ranges."""
        bindings: dict[str, int] = {}
        for p, argument in zip(transition.parameters, arguments, strict=False):
            low = 0
            if p.type not in self.spec.sorts:
                low = self.interpreter.evaluate(self.spec.ranges[transition.name, p.name][0], bindings, state)
            bindings[p.name] = low + argument
        return bindings

    def edits(self, before: State, after: State) -> list[Edit]:
        """Every place whose value differs, variable by variable."""
        found = []
        for variable in self.spec.variables.values():
            old, new = before.values[variable.name], after.values[variable.name]
            for index in sorted(old.keys() | new.keys()):
                a, b = before.get(variable.name, index), after.get(variable.name, index)
                if a != b:
                    found.append(self._edit(variable, index, a, b))
        return found

    def _edit(self, variable: Variable, index: tuple[int, ...], old: object, new: object) -> Edit:
        owner = self.name(variable.sorts[0].name, index[0]) if index else ""
        others = " ".join(self.name(s.name, i) for s, i in zip(variable.sorts[1:], index[1:], strict=True))
        counted = variable.ghost and variable.name in self.spec.counts
        is_state = variable.type in self.spec.enums and len(index) == 1
        label = f"{variable.name} {others}".strip()
        return Edit(owner, label, value_text(old), value_text(new), is_state, variable.ghost, counted)

    def explain(self, result: Timeline, violated: str, before: State, state: State, transition: str) -> None:
        """Find whom the violated property fails for, the part of it that is false, and the values in that part."""
        for violation in self.interpreter.violations(state, self.population, before, transition):
            if violation.property == violated:
                self.describe(result, violation, before, state, transition)
                return
        raise AssertionError(f"the explorer says that {violated!r} is false, the interpreter says that it holds")

    def describe(
        self, result: Timeline, violation: Violation, before: State, state: State, transition: str = ""
    ) -> None:
        """Write a violation into the timeline."""
        name = result.violated = violation.property
        p = self.spec.properties.get(name)
        sorts = {x.name: x.type for x in (p.parameters if p else self.spec.counts[name[6:]].index)}
        result.witnesses = {k: self.name(sorts[k], v) for k, v in violation.bindings.items()}
        if p is None:
            count = self.spec.counts[name[6:]]
            index = ", ".join(result.witnesses.values())
            result.meaning = f"The counter says: {count.variable.doc}."
            result.conjunct = f"{count.variable.name}{f'({index})' if index else ''} {violation.detail}"
            return
        first = before if p.kind == "action" else state
        part = self._false_part(p, violation.bindings, first, state, transition)
        result.meaning = p.doc
        result.conjunct = to_text(rename(part, result.witnesses))
        found: dict[str, str] = {}
        for atom in reads(part):
            value = self.interpreter.evaluate(atom, violation.bindings, first, state, transition)
            found[to_text(rename(atom, result.witnesses))] = value_text(value)
        result.values = tuple(f"{text} = {value}" for text, value in found.items())

    def _false_part(self, p: Property, bindings: dict[str, int], first: State, state: State, transition: str) -> Expr:
        for part in conjuncts(p.formula):
            if not self.interpreter.evaluate(part, bindings, first, state, transition):
                return part
        return p.formula


def value_text(value: object) -> str:
    """A value as a formula writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def reads(e: Expr) -> list[Expr]:
    """What a formula says of variables and by names, `after(...)` included, from left to right."""
    if e.op in ("read", "next", "call"):
        return [e]
    return [atom for child in e.args if isinstance(child, Expr) for atom in reads(child)]


def rename(e: Expr, names: dict[str, str]) -> Expr:
    """The expression with other names for its parameters."""
    if e.op == "param":
        return Expr("param", names.get(e.args[0], e.args[0]), type=e.type)
    return Expr(e.op, *[rename(a, names) if isinstance(a, Expr) else a for a in e.args], type=e.type)


__all__ = ["Edit", "Moment", "Replay", "Scope", "Timeline", "in_words", "rename", "value_text"]
