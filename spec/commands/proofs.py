"""Runs every check of the specification and gathers the answers: proofs, vacuity, reachability."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..language.ranking_claims import KINDS
from ..language.spec import Spec
from ..prove.proofs import GENERAL, SOLVERS, Part, decider, parts, proofs
from ..prove.prover import Obligation
from ..search.explore import Exploration
from ..search.reachable import survey_anyway

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


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
    antecedents: list[Obligation] = field(default_factory=list)
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
    def empty(self) -> list[str]:
        """Properties with an antecedent that no state or step has, so that they say less than it seems."""
        return [f"{o.subject} ({o.claim})" for o in self.antecedents if o.verdict != "possible"]

    @property
    def proved(self) -> bool:
        """Everything proved, nothing vacuous, every transition and state reached, small instances without violation."""
        explored = self.exploration is not None and self.exploration.sound
        return self.unrefuted and explored

    @property
    def unrefuted(self) -> bool:
        """Nothing failed, though not everything may have been searched: the compiled explorer may be an older one."""
        wrong = any(row.failures for row in self.rows) or self.vacuous or self.empty
        searched = self.exploration
        found = searched is not None and (searched.violations or (not searched.stale and not searched.sound))
        return not wrong and not found


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


def verify(spec: Spec, progress: Progress = lambda *_: None, solver: str = SOLVERS[0], processes: int = 1) -> Report:
    """Prove every property for any number of individuals, and survey small instances.

    `processes`: how many share the proofs; the report does not depend on it. Only the specification that the package
    has can be shared, so any other is proved by this process alone.
    """
    start = time.perf_counter()
    background = ThreadPoolExecutor(1)  # the explorer is compiled and runs beside the solver
    exploration = background.submit(survey_anyway, spec)
    prover = decider(spec, solver)
    report = Report(spec, prover.solver_name)
    total = len(parts(spec)) + 1
    answers: dict[Part, list[Obligation]] = {}
    for part, obligations in proofs(spec, solver, processes):
        answers[part] = obligations
        progress(part[1], len(answers), total)
    found = [o for (kind, _), obligations in answers.items() if kind in GENERAL for o in obligations]
    by_property: dict[str, list[Obligation]] = {}
    for obligation in found:
        by_property.setdefault(obligation.claim, []).append(obligation)

    for p in spec.properties.values():
        report.rows.append(Row(p.group, p.name, p.doc, TECHNIQUES[p.kind], tuple(by_property.pop(p.name, ()))))
    for choice in spec.choices:
        own = tuple(answers["choice", choice.name])
        report.rows.append(Row(choice.group, choice.name, choice.doc, "case split", own))
    for claim in spec.progress.values():
        own = tuple(answers["progress", claim.name])
        report.rows.append(Row(claim.group, claim.name, claim.doc, "witnesses", own))
    report.rows += _liveness(spec, found)
    changes = tuple(by_property.pop("no idle transition"))
    report.rows.append(Row("P14", "no idle transition", "Every transition changes the state.", "two-state", changes))
    for name, count in spec.counts.items():
        counted = [*by_property.pop(f"count {name}", ()), *[o for o in found if o.subject == f"count {name}"]]
        meaning = f"{count.variable.name} = {count.variable.doc}."
        report.rows.append(
            Row("P5" if not count.index else "P2", f"count {name}", meaning, "delta rule", tuple(counted))
        )
    for name in spec.transitions:
        report.vacuity += answers["vacuity", name]
    report.antecedents = [o for (kind, _), of in answers.items() if kind == "antecedents" for o in of]
    progress("small instances", total - 1, total)
    report.exploration = exploration.result()
    background.shutdown()
    report.rows.sort(key=lambda row: group_order(row.group))
    report.seconds = time.perf_counter() - start
    progress("done", total, total)
    return report
