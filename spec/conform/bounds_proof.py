"""Proves that integers stay within the bounds that translation validation assumes (machines/bounds.py).

For each transition and each integer that it writes, z3 is asked for a state in which all invariants hold and all
integers are within their bounds, and one is outside afterwards. Two kinds of integers are not asked about in this way:
numbers of individuals, which 32-bit ids limit, and step and arrival numbers, which grow for ever; of those it is proved
that a transition makes the newest number greater by at most one, so that 2^62 of them are needed to leave the bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import z3

from ..language.expressions import INT, TICK
from ..language.spec import Spec, Transition, Variable
from ..machines.bounds import bounds_of, constant_bounds, counts_individuals, input_limit, is_clock
from ..prove.prover import Prover
from ..prove.terms import Individuals


@dataclass(frozen=True)
class Kept:
    """One integer that one transition writes; `kind`: "bounded", "clock" or "number of individuals"."""

    transition: str
    variable: str
    kind: str
    proved: bool


def prove_bounds(spec: Spec) -> list[Kept]:
    """One answer for each transition and each integer variable that C++ holds and the transition writes."""
    prover = Prover(spec)
    return [kept for t in spec.transitions.values() for kept in _transition(prover, t)]


def _transition(prover: Prover, transition: Transition) -> list[Kept]:
    spec = prover.spec
    prover.transition = transition.name
    written = {e.variable.name for e in transition.effects}
    variables = [v for v in spec.variables.values() if v.name in written and v.type in (INT, TICK) and not v.ghost]
    if not variables:
        return []
    names, individuals = prover.individuals(transition.parameters, 1)
    newest = z3.Int("newest", prover.context)
    solver = prover.solver()
    solver.add(*prover.exist(transition.parameters), *prover.assumptions(individuals))
    solver.add(*[prover.evaluate(g.condition, names, prover.before) for g in transition.guards])
    solver.add(*_assumed(prover, transition, names, individuals, newest))
    read = prover.after_reader(transition, names)
    results = []
    for v in variables:
        kind = "clock" if is_clock(v) else "number of individuals" if counts_individuals(spec, v) else "bounded"
        low, high = bounds_of(spec, v)
        claims = []
        for at in _places(prover, v, individuals):
            value = read(v, at)
            claims.append(value >= low)
            if kind != "number of individuals":
                claims.append(value <= (newest + 1 if kind == "clock" else high))
        claim = z3.And(claims)
        results.append(Kept(transition.name, v.name, kind, solver.check(z3.Not(claim)) == z3.unsat))
    return results


def _places(prover: Prover, variable: Variable, individuals: Individuals) -> list[Sequence[z3.ExprRef]]:
    places: list[list[z3.ExprRef]] = [[]]
    for sort in variable.sorts:
        places = [[*place, x] for place in places for x in individuals[sort.name]]
    return [tuple(p) for p in places]


def _assumed(
    prover: Prover,
    transition: Transition,
    names: dict[str, z3.ExprRef],
    individuals: Individuals,
    newest: z3.ExprRef,
) -> list[z3.BoolRef]:
    """Bounds before: of constants, of parameters, and of every variable of the individuals at hand."""
    spec, facts = prover.spec, [newest >= 0]
    for name, term in prover.constants.items():
        low, high = constant_bounds(spec, name)
        facts += [term >= low, term <= high]
    clocks = [p.name for p in transition.parameters if is_limit_of_a_clock(transition, p.name)]
    for p in transition.parameters:
        if p.type == INT:
            facts.append(names[p.name] <= (newest + 1 if p.name in clocks else input_limit(p)))
    for v in spec.variables.values():
        if v.type in (INT, TICK):
            low, high = bounds_of(spec, v)
            for at in _places(prover, v, individuals):
                term = prover.before(v, at)
                facts += [term >= low, term <= (newest if is_clock(v) else high)]
    return facts


def is_limit_of_a_clock(transition: Transition, parameter: str) -> bool:
    """Whether the parameter becomes the value of a clock: the driver then gives the next number."""
    values = [(e.variable, e.value) for e in transition.effects]
    return any(is_clock(v) and x.op == "param" and x.args[0] == parameter for v, x in values)
