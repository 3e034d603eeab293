"""Runs every check of the specification and gathers the answers: proofs, vacuity, reachability."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .explore import Exploration, survey
from .language import Spec
from .prover import Obligation, Prover

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
        return sum(o.seconds for o in self.obligations)

    @property
    def failures(self) -> list[Obligation]:
        return [o for o in self.obligations if not o.proved]

    @property
    def verdict(self) -> str:
        return "proved" if not self.failures else self.failures[0].verdict


@dataclass
class Report:
    """Everything that `tokenspeed verify` found out."""

    spec: Spec
    rows: list[Row] = field(default_factory=list)
    vacuity: list[Obligation] = field(default_factory=list)
    exploration: Exploration | None = None
    seconds: float = 0.0

    @property
    def obligations(self) -> list[Obligation]:
        return [o for row in self.rows for o in row.obligations]

    @property
    def vacuous(self) -> list[str]:
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


def verify(spec: Spec, progress: Progress = lambda *_: None) -> Report:
    """Prove every property for any number of individuals, and survey small instances."""
    start = time.perf_counter()
    report = Report(spec)
    prover = Prover(spec)
    transitions = list(spec.transitions.values())
    total = 2 * len(transitions) + 2
    progress("initial state", 0, total)
    found = prover.prove_initial()
    for i, transition in enumerate(transitions):
        progress(transition.name, i + 1, total)
        found += prover.prove_transition(transition)
    found += [prover.subset_holds(part, whole) for part, whole in spec.subsets]
    by_property: dict[str, list[Obligation]] = {}
    for obligation in found:
        by_property.setdefault(obligation.claim, []).append(obligation)

    for p in spec.properties.values():
        report.rows.append(Row(p.group, p.name, p.doc, TECHNIQUES[p.kind], tuple(by_property.pop(p.name, ()))))
    for choice in spec.choices:
        meaning = "Exactly one of these is possible: " + ", ".join(choice.transitions) + "."
        report.rows.append(Row("P10" if len(choice.transitions) == 1 else "P14", choice.name, meaning, "case split",
                               tuple(prover.prove_choice(choice))))  # fmt: skip
    changes = tuple(by_property.pop("changes something"))
    report.rows.append(Row("P14", "no idle transition", "Every transition changes the state.", "two-state", changes))
    for name, count in spec.counts.items():
        own = [*by_property.pop(f"count {name}", ()), *[o for o in found if o.subject == f"count {name}"]]
        meaning = f"{count.variable.name} = {count.variable.doc}."
        report.rows.append(Row("P5" if not count.index else "P2", f"count {name}", meaning, "delta rule", tuple(own)))
    for i, transition in enumerate(transitions):
        progress(f"vacuity of {transition.name}", len(transitions) + i + 1, total)
        report.vacuity.append(prover.vacuous(transition))
    progress("small instances", total - 1, total)
    report.exploration = survey(spec)
    report.rows.sort(key=lambda row: (row.group == "lemma", int(row.group[1:]) if row.group != "lemma" else 0))
    report.seconds = time.perf_counter() - start
    progress("done", total, total)
    return report
