"""A specification with all its mutants in it: the constant MUTANT says which one it is, 0 for none.

Every guard and effect that has mutants becomes a choice by that constant, so that one compiled explorer can search all
of them. What is claimed to be possible (choices) becomes a property of states, so that a search also finds where a
mutant is too strict.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from operator import and_, or_

from ..language.expressions import BOOL, INT, Expr, if_else, lift, substituted
from ..language.spec import Choice, Guard, Property, Spec, Transition
from ..prove.mutants import mutants

MUTANT = Expr("const", "MUTANT", type=INT)
"""The number of the mutant, from 1 in the order of `mutants`; 0 is the specification itself."""

Switches = dict[tuple[str, int], list[tuple[int, Expr]]]
"""For the n-th guard or effect of a transition: the mutants that change it, and to what."""


def switchable(spec: Spec) -> Spec:
    """The specification with its mutants; the original is not changed."""
    guards: Switches = {}
    effects: Switches = {}
    for number, mutant in enumerate(mutants(spec), start=1):
        original = spec.transitions[mutant.transition.name]
        if (at := _difference(original.guards, mutant.transition.guards)) is not None:
            kept = len(mutant.transition.guards) == len(original.guards)
            condition = mutant.transition.guards[at].condition if kept else lift(True)
            guards.setdefault((original.name, at), []).append((number, condition))
        else:
            at = _difference(original.effects, mutant.transition.effects)
            assert at is not None
            effect = original.effects[at]
            kept = len(mutant.transition.effects) == len(original.effects)
            value = mutant.transition.effects[at].value if kept else effect.variable(*effect.index)
            effects.setdefault((original.name, at), []).append((number, value))
    result = copy.copy(spec)
    result.constants = {**spec.constants, "MUTANT": (MUTANT, 0, "which mutant this is; 0 for none")}
    result.transitions = {name: _with_switches(t, guards, effects) for name, t in spec.transitions.items()}
    claims = [_as_property(result, choice) for choice in spec.choices]
    result.properties = {**spec.properties, **{claim.name: claim for claim in claims}}
    result.choices = []
    result.progress = {name: dataclasses.replace(claim, spec=result) for name, claim in spec.progress.items()}
    return result


def _difference(original: Sequence[object], mutated: Sequence[object]) -> int | None:
    """Where the first part differs; None if all are the same."""
    for at, part in enumerate(original):
        if at >= len(mutated) or mutated[at] is not part:
            return at
    return None


def _with_switches(
    t: Transition,
    guards: dict[tuple[str, int], list[tuple[int, Expr]]],
    effects: dict[tuple[str, int], list[tuple[int, Expr]]],
) -> Transition:
    return dataclasses.replace(
        t,
        guards=[Guard(g.name, _switch(g.condition, guards.get((t.name, i), []))) for i, g in enumerate(t.guards)],
        effects=[
            dataclasses.replace(e, value=_switch(e.value, effects.get((t.name, i), [])))
            for i, e in enumerate(t.effects)
        ],
    )


def _switch(original: Expr, changed: list[tuple[int, Expr]]) -> Expr:
    for number, expression in changed:
        original = if_else(Expr("eq", MUTANT, lift(number), type=BOOL), expression, original)
    return original


def _as_property(spec: Spec, choice: Choice) -> Property:
    """When the choice's formula holds, exactly one of its transitions may be taken."""
    enabled = []
    for name in choice.transitions:
        guards = [substituted(g.condition, choice.arguments) for g in spec.transitions[name].guards]
        enabled.append(reduce(and_, guards, lift(True)))
    formula = reduce(or_, enabled)
    for a, b in combinations(enabled, 2):
        formula = formula & ~(a & b)
    return Property(choice.name, "property", choice.group, choice.parameters, choice.when >> formula, choice.doc)


__all__ = ["MUTANT", "switchable"]
