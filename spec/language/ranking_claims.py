"""The obligations of liveness: what has to be proved of the stages and clauses of a specification (see ranking.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

from .counting import Claim
from .declarations import Parameter, Transition
from .expressions import Expr, after, lift, variables_read
from .ranking import all_of, concerns, smaller, touched, written_by
from .spec import Spec

KINDS = {
    **dict.fromkeys(("cover", "rank", "kept", "helpful", "permitted"), "ranking"),
    "conforming": "under the contract",
}
"""Kinds of obligations, and how they are proved."""


@dataclass(frozen=True)
class StageClaim:
    """One obligation: `given` and `hypotheses` imply `goal`, for all values of the parameters.

    `transition`: taken between the two states that are spoken of; `bound`: what some of its parameters are.
    """

    transition: str | None
    name: str
    kind: str
    parameters: tuple[Parameter, ...]
    hypotheses: tuple[Expr, ...]
    given: tuple[Claim, ...]
    goal: Expr
    bound: tuple[tuple[str, Expr], ...] = ()


def always(spec: Spec, transition: Transition) -> tuple[Claim, ...]:
    """The clauses that hold in every step and say something of this transition."""
    clauses = [c for c in spec.clauses.values() if c.stage is None and concerns(c.formula, transition)]
    return tuple(Claim(c.name, c.parameters, c.formula) for c in clauses)


def still_claims(spec: Spec) -> Iterator[StageClaim]:
    """Of single states: stages are covered or served, ranks are bounded."""
    for s in spec.stages.values():
        skolems = tuple(p for child in s.children for fact in child.facts for p in fact.parameters)
        witnesses = tuple(w for w, _ in s.cover.witnesses)
        known = (*s.known(), *[Claim(p.name, (p,), fact) for p, fact in s.cover.given])
        hypotheses = (*s.situation, *[fact for _, fact in s.cover.witnesses])
        goal = reduce(or_, s.cover.outcomes(), lift(False))
        name = f"{s.name}: {'covered' if s.children else 'served'}"
        yield StageClaim(None, name, "cover", (*s.parameters, *witnesses, *skolems), hypotheses, known, goal)
        if s.ranks:
            bounded = all_of([n >= 0 for n in s.ranks])
            yield StageClaim(None, f"{s.name}: bounded", "rank", s.parameters, s.situation, s.known(), bounded)


def step_claims(spec: Spec, transition: Transition) -> Iterator[StageClaim]:
    """Of one transition: conforming invariants and stages are kept, ranks get smaller where it is helpful."""
    written, everywhere = written_by(transition), always(spec, transition)
    for claim in spec.conforming.values():
        given = (*spec.conforming.values(), *everywhere)
        yield StageClaim(transition.name, claim.name, "conforming", claim.parameters, (), given, after(claim.formula))
    for s in spec.stages.values():
        clauses = s.kept_clauses(transition)
        hypotheses, given = (*s.situation, *clauses), (*s.known(), *everywhere)
        skolems, lasting = s.lasting(written)
        goal = reduce(or_, [*s.advanced(written), lasting])
        yield StageClaim(transition.name, f"{s.name}: kept", "kept", (*s.parameters, *skolems), hypotheses, given, goal)
        fixed = {p.name for p in s.parameters}
        for option in s.cover.options:
            if option.transition == transition.name:
                bound = tuple(
                    (p.name, e)
                    for p, e in zip(transition.parameters, option.arguments, strict=True)
                    if e.op == "param" and e.args[0] in fixed
                )
                goal = reduce(or_, [*s.advanced(written), smaller(touched(s.ranks, written))])
                name = f"{s.name}: advanced"
                yield StageClaim(transition.name, name, "helpful", s.parameters, hypotheses, given, goal, bound)
                if clauses:
                    name = f"{s.name}: permitted"
                    yield StageClaim(
                        transition.name, name, "permitted", s.parameters, s.situation, s.known(), all_of(clauses), bound
                    )


def untouched(spec: Spec, claim: StageClaim, transition: Transition) -> bool:
    """Whether the transition writes nothing that the stage or invariant depends on, so that it is kept."""
    if claim.kind == "kept":
        return not spec.stages[claim.name.removesuffix(": kept")].depends_on(written_by(transition))
    return claim.kind == "conforming" and not variables_read(claim.goal) & written_by(transition)


__all__ = ["KINDS", "StageClaim", "step_claims", "still_claims", "untouched"]
