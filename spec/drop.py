"""What breaks without one guard: a reachable violation if a small instance has one, else what the prover says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import z3

from .explore import Explored, counterexample
from .language import Spec, Transition
from .prover import Obligation, Prover
from .timeline import Replay, Timeline


@dataclass
class Diagnosis:
    """`verdict`: "violated" (a timeline shows it), "not inductive" (only the proof breaks) or "not needed"."""

    label: str
    condition: str
    verdict: str
    explanation: str = ""
    details: list[str] = field(default_factory=list)
    found: Explored | None = None
    timeline: Timeline | None = None

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as JSON values."""
        result: dict[str, Any] = {"guard": self.label, "condition": self.condition, "verdict": self.verdict}
        if self.timeline is None:
            return result | {"explanation": self.explanation, "details": self.details}
        return result | {"timeline": dataclasses.asdict(self.timeline)}


def diagnose(spec: Spec, label: str) -> Diagnosis:
    """Remove the guard `transition:name` and look for what breaks."""
    transition_name, guard_name = label.split(":", 1)
    transition = spec.transitions[transition_name]
    condition = str(next(g.condition for g in transition.guards if g.name == guard_name))
    found = counterexample((label,))
    if found is not None:
        timeline = Replay(spec, found.instance, (label,)).timeline(found.trace, found.violated)
        return Diagnosis(label, condition, "violated", found=found, timeline=timeline)
    broken = _broken_proofs(spec, transition, guard_name)
    if broken:
        explanation = (
            "No small instance reaches a violation, but the proof breaks: these are not kept (a state that no instance "
            "reached could violate them, or the invariants are too weak to exclude it)."
        )
        return Diagnosis(label, condition, "not inductive", explanation, [f"{o.claim} ({o.kind})" for o in broken])
    return Diagnosis(label, condition, "not needed", _why_not_needed(spec, transition, guard_name))


def _without(transition: Transition, guard_name: str) -> Transition:
    guards = [g for g in transition.guards if g.name != guard_name]
    return dataclasses.replace(transition, guards=guards)


def _broken_proofs(spec: Spec, transition: Transition, guard_name: str) -> list[Obligation]:
    prover = Prover(spec)
    mutant = _without(transition, guard_name)
    broken = [o for o in prover.prove_transition(mutant) if not o.proved]
    original = spec.transitions[transition.name]
    spec.transitions[transition.name] = mutant
    try:
        for choice in spec.choices:
            if transition.name in choice.transitions:
                broken += [o for o in prover.prove_choice(choice) if not o.proved]
        for claim in spec.progress.values():
            if any(o.transition == transition.name for o in claim.options):
                broken += [o for o in (prover.prove_progress(claim),) if not o.proved]
    finally:
        spec.transitions[transition.name] = original
    return broken


def _why_not_needed(spec: Spec, transition: Transition, guard_name: str) -> str:
    prover = Prover(spec)
    names, individuals = prover.individuals(transition.parameters, 1)
    solver = prover.solver()
    solver.add(*prover.assumptions(individuals))
    for guard in transition.guards:
        term = prover.evaluate(guard.condition, names, prover.before)
        solver.add(z3.Not(term) if guard.name == guard_name else term)
    if str(solver.check()) == "unsat":
        return (
            "Nothing breaks: the other guards and the invariants imply it (proved). It stays for defence and readers."
        )
    return "Nothing that is stated so far breaks: the guard matters for progress or policy, not for safety."
