"""What breaks without one guard: a reachable violation if a small instance has one, else what the prover says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import z3

from ..language.spec import Spec, Transition
from ..prove.prover import Obligation, Prover
from ..search.explore import Explored
from ..search.python_search import NO_IDLE_TRANSITION
from ..search.variants import variant
from .debugger import Finding, debug, reachable_violation
from .timeline import Timeline


@dataclass
class Diagnosis:
    """`verdict`: "violated" (a timeline shows it), "not inductive" (only the proof breaks) or "not needed"."""

    label: str
    condition: str
    verdict: str
    explanation: str = ""
    details: list[str] = field(default_factory=list)
    finding: Finding | None = None

    @property
    def found(self) -> Explored | None:
        """The search that found a reachable violation."""
        return self.finding.found if self.finding else None

    @property
    def timeline(self) -> Timeline | None:
        """The way to the violation, or the one event of a counterexample to induction."""
        return self.finding.timeline if self.finding else None

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as JSON values."""
        result: dict[str, Any] = {"guard": self.label, "condition": self.condition, "verdict": self.verdict}
        if self.explanation:
            result |= {"explanation": self.explanation, "details": self.details}
        if self.finding is not None:
            result |= {"finding": self.finding.as_json()}
        if self.verdict == "violated" and self.timeline is not None:
            result |= {"timeline": self.timeline.as_json()}
        return result


def diagnose(spec: Spec, label: str) -> Diagnosis:
    """Remove the guard `transition:name` and look for what breaks."""
    transition_name, guard_name = label.split(":", 1)
    transition = spec.transitions[transition_name]
    condition = str(next(g.condition for g in transition.guards if g.name == guard_name))
    reachable = reachable_violation(spec, (label,))
    if reachable is not None and _is_property(spec, reachable.claim):
        return Diagnosis(label, condition, "violated", finding=reachable)
    broken = _broken_proofs(spec, transition, label)
    finding = reachable or next(iter(debug(spec, broken, (label,), most=1)), None)
    if finding is not None and finding.found and _is_property(spec, finding.claim):
        return Diagnosis(label, condition, "violated", finding=finding)
    if broken or reachable:
        explanation = (
            "No small instance reaches a violation of a property, but the proof breaks: these are not kept (a state "
            "that no instance reached could violate them, or the invariants are too weak to exclude it)."
        )
        details = [f"{o.claim} ({o.kind})" for o in broken]
        return Diagnosis(label, condition, "not inductive", explanation, details, finding)
    return Diagnosis(label, condition, "not needed", _why_not_needed(spec, transition, guard_name))


def _is_property(spec: Spec, claim: str) -> bool:
    return claim == NO_IDLE_TRANSITION or (claim in spec.properties and spec.properties[claim].kind != "lemma")


def _broken_proofs(spec: Spec, transition: Transition, label: str) -> list[Obligation]:
    with variant(spec, [label]):
        prover = Prover(spec)
        broken = [o for o in prover.prove_transition(spec.transitions[transition.name]) if not o.proved]
        broken += [o for o in prover.prove_stages(spec.transitions[transition.name]) if not o.proved]
        for choice in spec.choices:
            if transition.name in choice.transitions:
                broken += [o for o in prover.prove_choice(choice) if not o.proved]
        for claim in spec.progress.values():
            if any(o.transition == transition.name for o in claim.options):
                broken += [o for o in (prover.prove_progress(claim),) if not o.proved]
    return broken


def _why_not_needed(spec: Spec, transition: Transition, guard_name: str) -> str:
    prover = Prover(spec)
    names, individuals = prover.individuals(transition.parameters, 1)
    solver = prover.solver()
    solver.add(*prover.exist(transition.parameters), *prover.assumptions(individuals))
    for guard in transition.guards:
        term = prover.evaluate(guard.condition, names, prover.before)
        solver.add(z3.Not(term) if guard.name == guard_name else term)
    if str(solver.check()) == "unsat":
        return (
            "Nothing breaks: the other guards and the invariants imply it (proved). It stays for defence and readers."
        )
    return "Nothing that is stated so far breaks: the guard matters for progress or policy, not for safety."
