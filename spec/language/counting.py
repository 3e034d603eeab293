"""Counters are sums over unbounded sets, which solvers do not have: what is proved of them, and then assumed.

A counter C stands for the sum of w(x) over all x with p(x). It is proved by the *delta rule*:

- at the start C is that sum: nothing is counted and C is 0, or every individual counts, all with the same weight, and
  C is a constant, which thereby is their number times that weight;
- no transition changes the summand of an individual that is not one of its parameters;
- every transition changes C by exactly the change of the summands of its distinct parameters;
- no summand becomes negative.

Of a counter with these proofs may be assumed, in every reachable state: C >= 0; p(x) gives C >= w(x); p(x), p(y) and
x != y give C >= w(x) + w(y); and if D counts all that C counts, with weights above 0, D = 0 gives C = 0.

In every reachable state there are also these individuals, which progress claims use:

- one that C counts, with a weight above 0, if C > 0, and among these one with the largest value of a given number;
- one that C counts and D does not, if C > D and both give the same weights;
- if the intervals [position, position + w) of what C counts are disjoint and lie within [start, start + C), one whose
  interval has a given position of that range: disjoint intervals whose lengths add up to the range leave no hole.

That the rule is sound and that these consequences follow is an argument about sums, not something that a solver
checks. All of it is written as formulas here and only here, and tested on all sets up to a size. A sort may be
empty; a witness exists if something was counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, and_

from .expressions import Expr, SpecError, if_else, lift, substituted, to_text, variables_read
from .spec import Count, Parameter, Spec, Tiling, Transition


@dataclass(frozen=True)
class Claim:
    """A formula for all values of its parameters. Other parameters in it are those of a transition."""

    name: str
    parameters: tuple[Parameter, ...]
    formula: Expr


def summand(count: Count, x: Expr, index: Mapping[str, Expr] | None = None) -> tuple[Expr, Expr]:
    """Whether an individual is counted, and its weight; `index` replaces the counter's own index parameters."""
    terms = {**(index or {}), count.over.name: x}
    weight = lift(1) if count.weight is None else substituted(count.weight, terms)
    return substituted(count.condition, terms), weight


def assumptions(spec: Spec) -> list[Claim]:
    """What may be assumed of the counters of a reachable state."""
    claims = []
    for name, count in spec.counts.items():
        total = _total(count)
        x, y = (Parameter(f"{count.over.name}.{i}", count.over.type) for i in (1, 2))
        (p, w), (q, v) = summand(count, x.expr), summand(count, y.expr)
        two = p & q & (x.expr != y.expr)
        claims.append(Claim(f"{name} is not negative", count.index, total >= 0))
        claims.append(Claim(f"{name} covers one", (*count.index, x), p >> (total >= w)))
        claims.append(Claim(f"{name} covers two", (*count.index, x, y), two >> (total >= w + v)))
    for part, whole in spec.subsets:
        index = spec.counts[part].index
        terms = [i.expr for i in index]
        is_0 = spec.variables[whole](*terms) == 0
        claims.append(Claim(f"{part} is part of {whole}", index, is_0 >> (spec.variables[part](*terms) == 0)))
    return claims


def right_at_the_start(count: Count) -> Claim:
    """The counter's initial value is its meaning (to be read in the initial state)."""
    condition, weight = summand(count, count.over.expr)
    if count.variable.init.op == "const":
        # A constant is the sum over the sort by definition: every individual counts, with the same weight.
        right = condition & lift(not variables_read(weight))
    else:
        right = (if_else(condition, weight, 0) == 0) & (_total(count) == 0)
    return Claim(f"count {count.variable.name}", (*count.index, count.over), right)


def delta_rule(count: Count, transition: Transition) -> Claim:
    """The counter follows its meaning when the transition is taken (relates two states)."""
    # Names that no parameter of a transition has.
    index = tuple(Parameter(f"{i.name}.any", i.type) for i in count.index)
    bystander = Parameter(f"{count.over.name}.any", count.over.type)
    renaming = {i.name: j.expr for i, j in zip(count.index, index, strict=True)}

    def value(x: Expr) -> Expr:
        condition, weight = summand(count, x, renaming)
        return if_else(condition, weight, 0)

    def change(e: Expr) -> Expr:
        return _after(e) - e

    own = [p.expr for p in transition.parameters if p.type == count.over.type]
    someone = value(bystander.expr)
    is_bystander = _all([bystander.expr != x for x in own])
    kept = is_bystander >> (_after(someone) == someone)
    changes = [if_else(_all([x != y for y in own[:i]]), change(value(x)), 0) for i, x in enumerate(own)]
    follows = change(substituted(_total(count), renaming)) == (reduce(add, changes) if changes else 0)
    return Claim(f"count {count.variable.name}", (*index, bystander), kept & follows & (_after(someone) >= 0))


def is_part(spec: Spec, part: str, whole: str) -> Claim:
    """Side condition of a `part_of` declaration: whatever the part counts, the whole counts with a weight above 0."""
    a, b = spec.counts[part], spec.counts[whole]
    renaming = {i.name: j.expr for i, j in zip(b.index, a.index, strict=True)}
    condition, weight = summand(b, a.over.expr, renaming)
    return Claim(f"part of {whole}", (*a.index, a.over), a.condition >> (condition & (weight >= 1)))


def counted(count: Count, index: Sequence[Expr], x: Expr) -> Expr:
    """Of a fresh individual: the counter counts it, with a weight above 0, if its value is above 0."""
    names = {i.name: e for i, e in zip(count.index, index, strict=True)}
    condition, weight = summand(count, x, names)
    return (count.variable(*index) >= 1) >> (condition & (weight >= 1))


def at_most(count: Count, index: Sequence[Expr], measure: Callable[[Expr], Expr], other: Expr, chosen: Expr) -> Expr:
    """Of another individual: it has no more measure than the chosen one, if the counter counts it."""
    names = {i.name: e for i, e in zip(count.index, index, strict=True)}
    condition, weight = summand(count, other, names)
    return (condition & (weight >= 1)) >> (measure(other) <= measure(chosen))


def counted_more(large: Count, index: Sequence[Expr], small: Count, other: Sequence[Expr], x: Expr) -> Expr:
    """Of a fresh individual: the first counter counts it and the second does not, if the first is larger.

    Raises SpecError unless both count the same sort with the same weights.
    """
    (p, w), (q, v) = (
        summand(c, x, {i.name: e for i, e in zip(c.index, at, strict=True)})
        for c, at in ((large, index), (small, other))
    )
    if large.over.type != small.over.type or to_text(w) != to_text(v):
        raise SpecError(f"{large.variable.name} and {small.variable.name} do not count the same sort alike")
    return (small.variable(*other) < large.variable(*index)) >> (p & ~q)


def tiling_premises(spec: Spec, tiling: Tiling) -> list[Claim]:
    """What has to hold in every reachable state for a tiling: intervals are disjoint, and within the range."""
    count = spec.counts[tiling.counter]
    x, y = (Parameter(f"{count.over.name}.{i}", count.over.type) for i in (1, 2))
    (p, w), (q, v) = summand(count, x.expr), summand(count, y.expr)
    a, b = (substituted(tiling.position, {count.over.name: z.expr}) for z in (x, y))
    disjoint = (a + w <= b) | (b + v <= a)
    inside = (tiling.start <= a) & (a + w <= tiling.start + _total(count))
    return [
        Claim(
            f"{tiling.counter} tiles without overlap",
            (*count.index, x, y),
            (tiling.when & p & q & (x.expr != y.expr)) >> disjoint,
        ),
        Claim(f"{tiling.counter} tiles its range", (*count.index, x), (tiling.when & p) >> inside),
    ]


def covered(spec: Spec, tiling: Tiling, index: Sequence[Expr], at: Expr, x: Expr) -> Expr:
    """Of a fresh individual: it is counted and its interval has the position, if that lies within the range."""
    count = spec.counts[tiling.counter]
    names = {i.name: e for i, e in zip(count.index, index, strict=True)} | {count.over.name: x}
    condition, weight = summand(count, x, names)
    start, when, position = (substituted(e, names) for e in (tiling.start, tiling.when, tiling.position))
    within = (start <= at) & (at < start + count.variable(*index))
    return (when & within) >> (condition & (position <= at) & (at < position + weight))


def _total(count: Count) -> Expr:
    return count.variable(*[i.expr for i in count.index])


def _after(e: Expr) -> Expr:
    return Expr("next", e, type=e.type)


def _all(parts: list[Expr]) -> Expr:
    return reduce(and_, parts) if parts else lift(True)
