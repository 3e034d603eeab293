"""Mutation testing of the specification: every small change of a guard or effect should break something stated.

A mutant is killed by a named property (or counter, choice, or because its transition can never be taken), killed by
a lemma only, equivalent (proved to behave like the original), or it survives. Survivors show what the properties do
not say.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import z3

from ..language.expressions import BOOL, INT, TICK, Expr, to_text
from ..language.ranking import concerns
from ..language.ranking_claims import still_claims
from ..language.spec import Effect, Guard, Spec, Transition
from .prover import Obligation, Prover


@dataclass(frozen=True)
class Mutant:
    """One changed transition.

    `part`: "guard" or "effect"; `place`: the guard's name, or the written variable with its index; `becomes`: the new
    formula or value where the operator does not say it.
    """

    operator: str
    part: str
    place: str
    transition: Transition
    becomes: str = ""

    def __str__(self) -> str:
        becomes = f" -> {self.becomes}" if self.becomes else ""
        return f"{self.operator} {self.part} {self.transition.name}:{self.place}{becomes}"


@dataclass(frozen=True)
class Outcome:
    """`verdict`: "killed", "lemma only", "equivalent" or "survived"; `killers`: the claims that the mutant breaks."""

    mutant: Mutant
    verdict: str
    killers: tuple[str, ...]


@dataclass
class Score:
    """All outcomes of a run."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, verdict: str) -> int:
        """How many mutants ended like this."""
        return sum(o.verdict == verdict for o in self.outcomes)

    @property
    def share(self) -> float:
        """Killed by something named, or equivalent, of all."""
        return (self.count("killed") + self.count("equivalent")) / max(1, len(self.outcomes))


def mutants(spec: Spec) -> Iterator[Mutant]:
    """Every mutant of every transition, in a fixed order."""
    for transition in spec.transitions.values():
        for i, guard in enumerate(transition.guards):
            for operator, condition in _guard_mutations(spec, guard):
                guards = [*transition.guards[:i], *condition, *transition.guards[i + 1 :]]
                becomes = to_text(condition[0].condition) if operator == "replace" else ""
                yield Mutant(operator, "guard", guard.name, dataclasses.replace(transition, guards=guards), becomes)
        for i, effect in enumerate(transition.effects):
            for operator, changed in _effect_mutations(spec, effect):
                effects = [*transition.effects[:i], *changed, *transition.effects[i + 1 :]]
                place = f"{effect.variable.name}({', '.join(map(to_text, effect.index))})" if effect.index else ""
                place = place or effect.variable.name
                yield Mutant(operator, "effect", place, dataclasses.replace(transition, effects=effects))


def _guard_mutations(spec: Spec, guard: Guard) -> Iterator[tuple[str, list[Guard]]]:
    yield "drop", []
    yield "negate", [Guard(guard.name, ~guard.condition)]
    for changed in _replacements(spec, guard.condition):
        yield "replace", [Guard(guard.name, changed)]


def _effect_mutations(spec: Spec, effect: Effect) -> Iterator[tuple[str, list[Effect]]]:
    def changed(value: Expr) -> list[Effect]:
        return [dataclasses.replace(effect, value=value)]

    yield "drop", []
    if effect.value.type == BOOL:
        yield "negate", changed(~effect.value)
    elif effect.value.type in (INT, TICK):
        yield "one more", changed(effect.value + 1)
        value = effect.value
        if value.op in ("add", "sub") and not isinstance(value.args[0], int):
            again = value + value.args[1] if value.op == "add" else value - value.args[1]
            yield "twice", changed(again)
    else:
        for other in _other_values(spec, effect.value):
            yield "swap state", changed(other)


def _replacements(spec: Spec, e: Expr) -> Iterator[Expr]:
    """The formula with one comparison moved by one, or one state replaced by the next."""
    if e.op == "call":
        e = e.meaning
    if e.op in ("le", "lt"):
        yield Expr(e.op, e.args[0], e.args[1] + 1, type=BOOL)
        yield Expr(e.op, e.args[0] + 1, e.args[1], type=BOOL)
        return
    if e.op == "eq":
        if e.args[1].op == "enum":
            for other in _other_values(spec, e.args[1]):
                yield Expr("eq", e.args[0], other, type=BOOL)
        elif e.args[0].type in (INT, TICK):
            yield Expr("eq", e.args[0], e.args[1] + 1, type=BOOL)
        return
    for i, argument in enumerate(e.args):
        if isinstance(argument, Expr):
            for changed in _replacements(spec, argument):
                yield Expr(e.op, *e.args[:i], changed, *e.args[i + 1 :], type=e.type)


def _other_values(spec: Spec, value: Expr) -> Iterator[Expr]:
    if value.op == "enum":
        enum = value.args[0]
        at = enum.values.index(value.args[1])
        yield Expr("enum", enum, enum.values[(at + 1) % len(enum.values)], type=value.type)


class Mutation:
    """Judges mutants; one prover serves all."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.prover = Prover(spec)
        self.kinds = {p.name: p.kind for p in spec.properties.values()}

    def judge(self, mutant: Mutant) -> Outcome:
        """Kill it, prove it equivalent, or let it survive."""
        if not mutant.transition.effects:
            return Outcome(mutant, "killed", ("no idle transition",))
        broken = [o for o in self._obligations(mutant.transition) if not o.proved]
        named = tuple(dict.fromkeys(o.claim for o in broken if self.kinds.get(o.claim) != "lemma"))
        named = named or tuple(dict.fromkeys(o.claim for o in self._liveness(mutant.transition) if not o.proved))
        if named:
            return Outcome(mutant, "killed", named)
        if self.prover.vacuous(mutant.transition).verdict != "possible":
            return Outcome(mutant, "killed", ("can be taken",))
        if self._equivalent(mutant.transition):
            return Outcome(mutant, "equivalent", ())
        if broken:
            return Outcome(mutant, "lemma only", tuple(o.claim for o in broken))
        return Outcome(mutant, "survived", ())

    def _obligations(self, transition: Transition) -> list[Obligation]:
        original = self.spec.transitions[transition.name]
        self.spec.transitions[transition.name] = transition
        try:
            found = self.prover.prove_transition(transition)
            for choice in self.spec.choices:
                if transition.name in choice.transitions:
                    found += self.prover.prove_choice(choice)
            for claim in self.spec.progress.values():
                if any(o.transition == transition.name for o in claim.options):
                    found.append(self.prover.prove_progress(claim))
        finally:
            self.spec.transitions[transition.name] = original
        return found

    def _liveness(self, transition: Transition) -> list[Obligation]:
        """The stages of L5 that the transition helps in, or might disturb."""
        original = self.spec.transitions[transition.name]
        self.spec.transitions[transition.name] = transition
        try:
            helped = [
                s.name for s in self.spec.stages.values() for o in s.cover.options if o.transition == transition.name
            ]
            served = [c for c in still_claims(self.spec) if c.kind == "cover" and c.name.rpartition(":")[0] in helped]
            found = [self.prover.prove_stage_claim(claim, None) for claim in served]
            return found if any(not o.proved for o in found) else found + self.prover.prove_stages(transition)
        finally:
            self.spec.transitions[transition.name] = original

    def _equivalent(self, mutant: Transition) -> bool:
        """In states that satisfy the invariants, both may be taken alike and lead to the same state."""
        prover, original = self.prover, self.spec.transitions[mutant.name]
        names, individuals = prover.individuals(mutant.parameters, 1)
        solver = prover.solver()
        solver.add(*prover.exist(mutant.parameters), *prover.assumptions(individuals))
        true = z3.BoolVal(True, prover.context)
        guards = [
            z3.And(true, *[prover.evaluate(g.condition, names, prover.before) for g in t.guards])
            for t in (original, mutant)
        ]
        one, other = (prover.after_reader(t, names) for t in (original, mutant))
        differences = [guards[0] != guards[1]]
        for effect in (*original.effects, *mutant.effects):
            fresh = iter(x for binder in effect.binders for x in individuals[binder.type][-1:])
            bound = {b.name for b in effect.binders}
            index = [
                next(fresh) if i.op == "param" and i.args[0] in bound else prover.evaluate(i, names, prover.before)
                for i in effect.index
            ]
            differs = one(effect.variable, index) != other(effect.variable, index)
            differences.append(z3.And(guards[0], differs))
        solver.add(z3.Or(*differences))
        return str(solver.check()) == "unsat"


def dropped_clauses(spec: Spec) -> dict[str, tuple[str, ...]]:
    """For each clause of the contract the stages of liveness that break without it; none: it is not needed."""
    found = {}
    for name, clause in list(spec.clauses.items()):
        del spec.clauses[name]
        prover = Prover(spec)
        concerned = [t for t in spec.transitions.values() if concerns(clause.formula, t)]
        broken = [o for t in concerned for o in prover.prove_stages(t) if not o.proved]
        found[name] = tuple(dict.fromkeys(o.claim for o in broken))
        spec.clauses[name] = clause
    return found


def score(spec: Spec, every: int = 1) -> Score:
    """Judge all mutants, or each `every`-th."""
    start = time.perf_counter()
    mutation = Mutation(spec)
    result = Score([mutation.judge(m) for i, m in enumerate(mutants(spec)) if i % every == 0])
    result.seconds = time.perf_counter() - start
    return result


__all__ = ["Mutant", "Outcome", "Score", "dropped_clauses", "mutants", "score"]
