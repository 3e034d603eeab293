"""What a transition does to counters follows from what they count, so no transition says it.

When a transition is closed, each counter of its parameters changes by what the summands of its parameters change:
summand after minus summand before, both simplified by what guards and effects say of them. Parameters with different
names are taken for different individuals. Nothing here is trusted: the delta rule (counting.py) is proved of every
transition, also for parameters that are the same individual and for individuals that are no parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .declarations import Count, Effect, Parameter, Transition
from .expressions import BOOL, INT, Expr, SpecError, conjuncts, if_else, inlined, lift, substituted, to_text

Read = Callable[[Expr], Expr]
"""What stands for the reading of a variable: a known value, or the same expression."""


def counter_effects(transition: Transition, counts: Iterable[Count]) -> list[Effect]:
    """The effects on all counters, each of which may count what counters before it are.

    Raises SpecError if the transition writes a counter itself.
    """
    state = _Knowledge.of(transition)
    derived = []
    for count in counts:
        if any(e.variable is count.variable for e in transition.effects):
            raise SpecError(
                f"{transition.name} writes {count.variable.name}; that follows from what the counter counts"
            )
        choices = [[p for p in transition.parameters if p.type == i.type] for i in count.index]
        for index in itertools.product(*choices):
            if effect := _effect(count, index, transition.parameters, state):
                derived.append(effect)
                state.effects.append(effect)
    return derived


def _effect(
    count: Count, index: tuple[Parameter, ...], parameters: tuple[Parameter, ...], state: _Knowledge
) -> Effect | None:
    names = {i.name: p.expr for i, p in zip(count.index, index, strict=True)}
    total = before = count.variable(*[p.expr for p in index])
    for x in (p for p in parameters if p.type == count.over.type):
        for grows, amount in _changes(count, {**names, count.over.name: x.expr}, state):
            total = total + amount if grows else total - amount
    return None if total is before else Effect(count.variable, tuple(p.expr for p in index), (), total)


def _changes(count: Count, names: Mapping[str, Expr], state: _Knowledge) -> Iterator[tuple[bool, Expr]]:
    """What an individual adds to the counter (True) and takes from it (False)."""
    condition = substituted(count.condition, names)
    weight = lift(1) if count.weight is None else substituted(count.weight, names)
    was, now = (simplified(condition, read) for read in (state.before, state.after))
    old, new = (simplified(weight, read) for read in (state.before, state.after))
    if _same(was, now) and _same(old, new):
        return
    if _same(was, now) and new.op in ("add", "sub") and _same(new.args[0], old):
        changes = [(new.op == "add", was, new.args[1])]
    else:
        changes = [(True, now, new), (False, was, old)]
    for grows, counts, amount in changes:
        change = simplified(if_else(counts, amount, 0), lambda e: e)
        if not _is(change, 0):
            yield grows, change


@dataclass
class _Knowledge:
    """What is known of the states before and after a transition. Keys are texts of reads.

    `values`: by guards, and by what a transition says was there; `states`: the values that an enum may have.
    """

    effects: list[Effect]
    values: dict[str, Expr] = field(default_factory=dict)
    states: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, transition: Transition) -> _Knowledge:
        found = cls([*transition.effects])
        for guard in transition.guards:
            for fact in conjuncts(inlined(guard.condition)):
                found._learn(fact)
        for place, value in transition.known:
            found.values[to_text(place.variable(*place.index))] = value
        return found

    def _learn(self, fact: Expr) -> None:
        alternatives = _alternatives(fact)
        reads = {to_text(a.args[0]) for a in alternatives if a.op == "eq" and a.args[1].op == "enum"}
        if len(reads) == 1 and all(a.op == "eq" and a.args[1].op == "enum" for a in alternatives):
            self.states[reads.pop()] = {a.args[1].args[1] for a in alternatives}
        elif fact.op == "read" and fact.type == BOOL:
            self.values[to_text(fact)] = lift(True)
        elif fact.op == "not" and fact.args[0].op == "read":
            self.values[to_text(fact.args[0])] = lift(False)

    def before(self, e: Expr) -> Expr:
        """A read, or a comparison of one with a state, in the state before."""
        if e.op == "eq" and (possible := self.states.get(to_text(e.args[0]))):
            return lift(e.args[1].args[1] in possible) if _decides(possible, e.args[1].args[1]) else e
        return self.values.get(to_text(e), e)

    def after(self, e: Expr) -> Expr:
        """The same in the state after, told of the state before."""
        read = e.args[0] if e.op == "eq" else e
        for effect in self.effects:
            if effect.variable is read.args[0] and (names := _matches(effect, read.args[1:])) is not None:
                value = substituted(effect.value, names)
                if e.op != "eq":
                    return value
                return lift(value.args[1] == e.args[1].args[1]) if value.op == "enum" else value == e.args[1]
        return self.before(e)


def _matches(effect: Effect, index: tuple[Expr, ...]) -> dict[str, Expr] | None:
    """What the effect's binders stand for, if it writes this place."""
    binders = {b.name for b in effect.binders}
    names = {}
    for own, given in zip(effect.index, index, strict=True):
        if own.op == "param" and own.args[0] in binders:
            names[str(own.args[0])] = given
        elif not _same(own, given):
            return None
    return names


def simplified(e: Expr, read: Read) -> Expr:
    """The expression with reads replaced, and without what then is certain."""
    if e.op == "read" or (e.op == "eq" and e.args[0].op == "read" and e.args[1].op == "enum"):
        return read(e)
    if e.op in ("lit", "enum", "param", "const"):
        return e
    if e.op == "call":
        return simplified(e.meaning, read)
    a = [simplified(x, read) for x in e.args]
    if e.op == "eq" and _same(a[0], a[1]):
        return lift(True)
    if e.op == "not" and a[0].op == "lit":
        return lift(not a[0].args[0])
    if e.op in ("and", "or"):
        decisive = e.op == "or"
        if any(_is(x, decisive) for x in a):
            return lift(decisive)
        rest = [x for x in a if x.op != "lit"]
        return rest[0] if len(rest) == 1 else Expr(e.op, *rest, type=BOOL) if rest else lift(not decisive)
    if e.op == "ite" and a[0].op == "lit":
        return a[1] if a[0].args[0] else a[2]
    return Expr(e.op, *a, type=e.type)


def _alternatives(e: Expr) -> list[Expr]:
    return [x for side in e.args for x in _alternatives(side)] if e.op == "or" else [e]


def _decides(possible: set[str], value: str) -> bool:
    return value not in possible or len(possible) == 1


def _same(a: Expr, b: Expr) -> bool:
    return to_text(a) == to_text(b)


def _is(e: Expr, value: int) -> bool:
    return e.op == "lit" and e.args[0] == value and e.type == (BOOL if isinstance(value, bool) else INT)


__all__ = ["counter_effects", "simplified"]
