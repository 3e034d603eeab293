"""Runs every check of the specification and gathers the answers: proofs, vacuity, reachability."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from .explore import Exploration
from .language import Choice, Spec, Transition
from .progress import Progress as ProgressClaim
from .prover import Obligation, Prover
from .ranking_claims import KINDS
from .reachable import survey_anyway

SOLVERS = ("z3", "cvc5")
"""Who can decide the obligations; the first is the default."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


class Decider(Protocol):
    """A solver with its way to put the obligations."""

    solver_name: str

    def prove_initial(self) -> list[Obligation]:
        """The start satisfies every invariant."""

    def prove_transition(self, transition: Transition) -> list[Obligation]:
        """The transition keeps every property and counter."""

    def prove_choice(self, choice: Choice) -> list[Obligation]:
        """Exactly one transition of the choice is possible."""

    def prove_progress(self, claim: ProgressClaim) -> Obligation:
        """In the situation of the claim, some option may be taken."""

    def prove_stages(self, transition: Transition | None = None) -> list[Obligation]:
        """Stages of liveness against one transition, or what concerns single states."""

    def prove_parts(self) -> list[Obligation]:
        """Side conditions of counters: parts of others, tilings."""

    def vacuous(self, transition: Transition) -> Obligation:
        """Some state allows the transition."""


def decider(spec: Spec, solver: str = SOLVERS[0]) -> Decider:
    """The prover that uses this solver. Raises ModuleNotFoundError if the solver's package is not installed."""
    if solver == "cvc5":
        from .second_solver import Cvc5Prover

        return Cvc5Prover(spec)
    if solver != "z3":
        raise ValueError(f"solver: {solver!r} is none of {', '.join(SOLVERS)}")
    return Prover(spec)


@dataclass(frozen=True)
class Row:
    """One property with all its obligations: one for the start and one for each transition that touches it."""

    group: str
    name: str
    meaning: str
    technique: str
    obligations: tuple[Obligation, ...]

    @property
    def seconds(self) -> float:
        """Time that the solver took."""
        return sum(o.seconds for o in self.obligations)

    @property
    def failures(self) -> list[Obligation]:
        """Obligations that were not proved."""
        return [o for o in self.obligations if not o.proved]

    @property
    def verdict(self) -> str:
        """`proved`, or how the first failure failed."""
        return "proved" if not self.failures else self.failures[0].verdict


@dataclass
class Report:
    """Everything that `tokenspeed verify` found out."""

    spec: Spec
    solver: str
    rows: list[Row] = field(default_factory=list)
    vacuity: list[Obligation] = field(default_factory=list)
    exploration: Exploration | None = None
    seconds: float = 0.0

    @property
    def obligations(self) -> list[Obligation]:
        """All of them, in the order of the rows."""
        return [o for row in self.rows for o in row.obligations]

    @property
    def vacuous(self) -> list[str]:
        """Transitions that no state allows."""
        return [o.subject for o in self.vacuity if o.verdict != "possible"]

    @property
    def proved(self) -> bool:
        """Everything proved, nothing vacuous, every transition and state reached, small instances without violation."""
        explored = self.exploration is not None and self.exploration.sound
        return not any(row.failures for row in self.rows) and not self.vacuous and explored


TECHNIQUES = {
    "property": "induction",
    "lemma": "induction",
    "action": "two-state",
    "count": "delta rule",
    "choice": "case split",
}


def group_order(group: str) -> tuple[int, int]:
    """Safety (P1, P2, ...) before liveness (L1, ...) before lemmas."""
    return ("PL".find(group[0]), int(group[1:])) if group != "lemma" else (2, 0)


def _liveness(spec: Spec, found: list[Obligation]) -> list[Row]:
    """A row for each stage, and for each invariant of what a conforming policy can reach."""
    rows = []
    for s in spec.stages.values():
        own = tuple(o for o in found if o.kind in KINDS and o.claim.startswith(f"{s.name}: "))
        rows.append(Row(s.group, s.name, s.doc, "ranking", own))
    for claim in spec.conforming.values():
        own = tuple(o for o in found if o.kind == "conforming" and o.claim == claim.name)
        rows.append(Row("L5", claim.name, "Whatever a policy that keeps the contract does.", KINDS["conforming"], own))
    return rows


def verify(spec: Spec, progress: Progress = lambda *_: None, solver: str = SOLVERS[0]) -> Report:
    """Prove every property for any number of individuals, and survey small instances."""
    start = time.perf_counter()
    background = ThreadPoolExecutor(1)  # the explorer is compiled and runs beside the solver
    exploration = background.submit(survey_anyway, spec)
    prover = decider(spec, solver)
    report = Report(spec, prover.solver_name)
    transitions = list(spec.transitions.values())
    total = 3 * len(transitions) + 3
    progress("initial state", 0, total)
    found = prover.prove_initial()
    for i, transition in enumerate(transitions):
        progress(transition.name, i + 1, total)
        found += prover.prove_transition(transition)
    found += prover.prove_parts()
    for i, subject in enumerate([None, *transitions] if spec.stages else []):
        progress("liveness", len(transitions) + i + 1, total)
        found += prover.prove_stages(subject)
    by_property: dict[str, list[Obligation]] = {}
    for obligation in found:
        by_property.setdefault(obligation.claim, []).append(obligation)

    for p in spec.properties.values():
        report.rows.append(Row(p.group, p.name, p.doc, TECHNIQUES[p.kind], tuple(by_property.pop(p.name, ()))))
    for choice in spec.choices:
        proofs = tuple(prover.prove_choice(choice))
        report.rows.append(Row(choice.group, choice.name, choice.doc, "case split", proofs))
    for claim in spec.progress.values():
        row = Row(claim.group, claim.name, claim.doc, "witnesses", (prover.prove_progress(claim),))
        report.rows.append(row)
    report.rows += _liveness(spec, found)
    changes = tuple(by_property.pop("changes something"))
    report.rows.append(Row("P14", "no idle transition", "Every transition changes the state.", "two-state", changes))
    for name, count in spec.counts.items():
        own = [*by_property.pop(f"count {name}", ()), *[o for o in found if o.subject == f"count {name}"]]
        meaning = f"{count.variable.name} = {count.variable.doc}."
        report.rows.append(Row("P5" if not count.index else "P2", f"count {name}", meaning, "delta rule", tuple(own)))
    for i, transition in enumerate(transitions):
        progress(f"vacuity of {transition.name}", 2 * len(transitions) + i + 2, total)
        report.vacuity.append(prover.vacuous(transition))
    progress("small instances", total - 1, total)
    report.exploration = exploration.result()
    background.shutdown()
    report.rows.sort(key=lambda row: group_order(row.group))
    report.seconds = time.perf_counter() - start
    progress("done", total, total)
    return report
