"""The obligations of liveness: what has to be proved of the stages and clauses of a specification (see ranking.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

from .counting import Claim
from .declarations import Parameter, Transition
from .expressions import Expr, after, lift, substituted, variables_read
from .ranking import Clause, Stage, all_of, concerns, smaller, touched, written_by
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
    `witnesses` are known to exist if their facts say so; then `outcomes` are the parts of the goal of which one holds.
    """

    transition: str | None
    name: str
    kind: str
    parameters: tuple[Parameter, ...]
    hypotheses: tuple[Expr, ...]
    given: tuple[Claim, ...]
    goal: Expr
    bound: tuple[tuple[str, Expr], ...] = ()
    witnesses: tuple[tuple[Parameter, Expr], ...] = ()
    outcomes: tuple[Expr, ...] = ()

    @property
    def everybody(self) -> tuple[Parameter, ...]:
        """Its parameters and witnesses."""
        return (*self.parameters, *[w for w, _ in self.witnesses])


def always(spec: Spec, transition: Transition) -> tuple[Claim, ...]:
    """The clauses that hold in every step and say something of this transition."""
    clauses = [c for c in spec.clauses.values() if c.stage is None and concerns(c.formula, transition)]
    return tuple(Claim(c.name, c.parameters, c.formula) for c in clauses)


def clauses_of(s: Stage) -> list[Clause]:
    """What a conforming policy has to keep in a step from the stage, whatever it takes.

    Unlike `kept_clauses` this leaves nothing out: a formula that does not name a transition may forbid it all the same.
    """
    inside = {clause.name for stage in s.path for clause in stage.clauses}
    return [clause for clause in s.spec.clauses.values() if clause.stage is None or clause.name in inside]


def permission(clause: Clause) -> tuple[tuple[Parameter, ...], Expr]:
    """The clause as a goal, and the individuals that it is about besides those of a stage."""
    if clause.stage is not None:
        return (), clause.formula
    own = tuple(Parameter(f"{clause.name}: {p.name}", p.type) for p in clause.parameters)
    return own, substituted(clause.formula, {p.name: q.expr for p, q in zip(clause.parameters, own, strict=True)})


def _only_about_others(e: Expr, transition: Transition) -> bool:
    """Whether the formula says no more than that some other transition is not taken."""
    return e.op == "not" and e.args[0].op == "taken" and e.args[0].args[0] != transition.name


def still_claims(spec: Spec) -> Iterator[StageClaim]:
    """Of single states: stages are covered or served, ranks are bounded."""
    for s in spec.stages.values():
        skolems = tuple(p for child in s.children for fact in child.facts for p in fact.parameters)
        witnesses, outcomes = tuple(s.cover.witnesses), tuple(s.cover.outcomes())
        known = (*s.known(), *[Claim(p.name, (p,), fact) for p, fact in s.cover.given])
        goal = reduce(or_, outcomes, lift(False))
        name = f"{s.name}: {'covered' if s.children else 'served'}"
        parameters = (*s.parameters, *skolems)
        yield StageClaim(None, name, "cover", parameters, s.situation, known, goal, (), witnesses, outcomes)
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
                yield from _permitted(s, transition, "permitted by", bound)
        if transition.actor != "scheduler":
            yield from _permitted(s, transition, "free of", ())


def _permitted(
    s: Stage, transition: Transition, what: str, bound: tuple[tuple[str, Expr], ...]
) -> Iterator[StageClaim]:
    """No clause forbids the transition in the stage: what helps is permitted, and the environment is free."""
    for clause in clauses_of(s):
        if not _only_about_others(clause.formula, transition):
            anybody, goal = permission(clause)
            parameters, name = (*s.parameters, *anybody), f"{s.name}: {what} {clause.name}"
            yield StageClaim(transition.name, name, "permitted", parameters, s.situation, s.known(), goal, bound)


def untouched(spec: Spec, claim: StageClaim, transition: Transition) -> bool:
    """Whether the transition writes nothing that the stage or invariant depends on, so that it is kept."""
    if claim.kind == "kept":
        return not spec.stages[claim.name.removesuffix(": kept")].depends_on(written_by(transition))
    return claim.kind == "conforming" and not variables_read(claim.goal) & written_by(transition)


__all__ = ["KINDS", "StageClaim", "step_claims", "still_claims", "untouched"]
