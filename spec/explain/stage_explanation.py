"""Why an obligation of liveness is not proved: who acts in which stage, and what its ranks do.

See ranking.py for the rule. A state is given from which the stage neither goes on nor comes nearer to its end, or in
which nobody can help; here it is told which part of a rank gets larger, what refuses to help, or what is false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..language.expressions import Expr, conjuncts, to_text
from ..language.progress import Progress
from ..language.ranking import Stage
from ..language.ranking_claims import StageClaim, step_claims, still_claims
from ..language.spec import Spec
from ..prove.prover import Obligation
from ..search.interpreter import State
from .cti import SmallState
from .timeline import Replay, Timeline, reads, rename, value_text

MEANINGS = {
    "covered": "While the stage lasts, one of the stages inside it holds.",
    "served": "While the stage lasts, one of the transitions that help in it may be taken.",
    "bounded": "No part of a rank is negative.",
    "kept": "Whatever a conforming policy does, some rank gets smaller, or the stage goes on with no larger rank.",
    "advanced": "What helps in the stage makes some rank smaller, or ends it.",
    "permitted": "The contract does not forbid what helps in the stage, nor anything that the environment does.",
}


def claim_of(spec: Spec, o: Obligation) -> StageClaim:
    """The claim that an obligation of liveness was made of."""
    transition = spec.transitions.get(o.subject)
    claims = step_claims(spec, transition) if transition else still_claims(spec)
    return next(claim for claim in claims if (claim.name, claim.kind) == (o.claim, o.kind))


def refusals(replay: Replay, cover: Progress, bindings: Mapping[str, int], state: State) -> tuple[str, ...]:
    """For each option, the guard that refuses it."""
    found = []
    for option in cover.options:
        transition = replay.spec.transitions[option.transition]
        arguments = [replay.interpreter.evaluate(a, bindings, state) for a in option.arguments]
        names = dict(zip([p.name for p in transition.parameters], arguments, strict=True))
        guard = replay.interpreter.false_guard(state, transition, names)
        found.append(f"{replay.event(transition, names)} is refused by {guard.name if guard else '?'!r}")
    return tuple(found)


class StageExplanation:
    """One obligation and a small state in which it is false."""

    def __init__(self, spec: Spec, claim: StageClaim, small: SmallState) -> None:
        self.spec, self.claim, self.small = spec, claim, small
        self.replay = Replay(spec, small)
        self.own = {p.name: small.bindings[f"of {p.name}"] for p in claim.everybody}
        self.names = {
            p.name: self.replay.name(p.type, self.own[p.name]) for p in claim.everybody if p.type in spec.sorts
        }
        self.before = self.after = small.state

    def timeline(self) -> Timeline:
        """The state before, the event if there is one, and what is false."""
        spec, claim, replay = self.spec, self.claim, self.replay
        result = Timeline(replay.individuals, violated=claim.name, witnesses=self.names)
        result.start = tuple(replay.edits(replay.interpreter.start(), self.before))
        if claim.transition is not None:
            transition = spec.transitions[claim.transition]
            arguments = {p.name: self.small.bindings[p.name] for p in transition.parameters}
            self.after = replay.take(result, self.before, transition, arguments, set())
        name, _, what = claim.name.rpartition(": ")
        what = "permitted" if claim.kind == "permitted" else what
        if claim.kind == "conforming":
            result.meaning = "Holds in every state that a policy which keeps the contract can reach."
            result.conjunct, result.values = self.false_parts([claim.goal])
            return result
        stage = spec.stages[name]
        result.meaning = f"{MEANINGS[what]} The stage: {stage.doc[0].lower()}{stage.doc[1:]}"
        match what:
            case "covered":
                result.conjunct = "holds: none of the stages inside"
                result.values = tuple(self.why_not(stage))
            case "served":
                result.conjunct = "possible: none of the options"
                result.values = refusals(replay, stage.cover, self.own, self.before)
            case "bounded":
                result.conjunct, result.values = self.false_parts([n >= 0 for n in stage.ranks])
            case "permitted":
                result.conjunct, result.values = self.false_parts([claim.goal])
            case _:
                parts = [*self.rank_changes(stage), *self.no_longer(stage)]
                result.conjunct = "some rank gets smaller" + (", or the stage goes on" if what == "kept" else "")
                result.values = tuple(parts or ["no rank changes"])
        return result

    def holds(self, formula: Expr, bindings: Mapping[str, int] | None = None) -> bool:
        """Whether a formula about the two states is true."""
        transition = self.claim.transition or ""
        return bool(
            self.replay.interpreter.evaluate(formula, bindings or self.own, self.before, self.after, transition)
        )

    def text(self, e: Expr) -> str:
        """An expression with the individuals' names."""
        return to_text(rename(e, self.names))

    def false_parts(self, formulas: list[Expr]) -> tuple[str, tuple[str, ...]]:
        """The first part that is false, and the values in it."""
        for part in (part for formula in formulas for part in conjuncts(formula)):
            if not self.holds(part):
                values = {
                    self.text(atom): self.replay.interpreter.evaluate(
                        atom, self.own, self.before, self.after, self.claim.transition or ""
                    )
                    for atom in reads(part)
                }
                return self.text(part), tuple(f"{text} = {value_text(value)}" for text, value in values.items())
        return "", ()

    def why_not(self, stage: Stage) -> Iterator[str]:
        """For each stage inside, the first part of its situation that is false."""
        for child, situation in zip(stage.children, stage.cover.alternatives, strict=True):
            yield f"not {child.name!r}: {self.false_parts([situation])[0]} is false"

    def rank_changes(self, stage: Stage) -> Iterator[str]:
        """Of each rank from the root to the stage, the first part that changes."""
        evaluate = self.replay.interpreter.evaluate
        for s in stage.path:
            for place, n in enumerate(s.ranks, 1):
                old, new = evaluate(n, self.own, self.before), evaluate(n, self.own, self.after)
                if old != new:
                    verdict = "larger" if old < new else "smaller"
                    yield f"rank of {s.name!r}, part {place}: {self.text(n)} is {old}, then {new}: {verdict}"
                    break

    def no_longer(self, stage: Stage) -> Iterator[str]:
        """What holds of the stage before, and not after."""
        for condition in stage.conditions:
            for part in conjuncts(condition):
                if not self.replay.interpreter.evaluate(part, self.own, self.after):
                    yield f"no longer: {self.text(part)}"
        for fact in stage.facts:
            (every,) = fact.parameters
            for x in range(self.replay.population[every.type]):
                if not self.replay.interpreter.evaluate(fact.formula, {**self.own, every.name: x}, self.after):
                    names = {**self.names, every.name: self.replay.name(every.type, x)}
                    yield f"no longer: {to_text(rename(fact.formula, names))}"


__all__ = ["StageExplanation", "claim_of", "refusals"]
