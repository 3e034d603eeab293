"""The second opinion: cvc5 decides every obligation, as printed in SMT-LIB.

Nothing of the first prover is used: the questions are the exported text (see smtlib.py), byte for byte, with invariants
as quantified formulas instead of instances. What both share is the specification and the formulas about counters
(counting.py).
"""

from __future__ import annotations

import time

import cvc5

from ..language.progress import Progress
from ..language.spec import Choice, Property, Spec, Transition
from .prover import Obligation, Prover
from .smtlib import Exporter, Question, Script

# Model-based instantiation decides the questions that have a model; without it cvc5 answers those with "unknown".
OPTIONS = {"incremental": "true", "mbqi": "true"}

VERDICTS = {"unsat": "proved", "sat": "FAILED"}
VACUITY_VERDICTS = {"sat": "possible", "unsat": "VACUOUS"}


class Cvc5Prover:
    """Has cvc5 discharge the obligations of a specification; the same methods as `prover.Prover`."""

    solver_name = f"cvc5 {cvc5.__version__}"

    def __init__(self, spec: Spec, timeout_ms: int = 20_000) -> None:
        self.spec = spec
        self.timeout_ms = timeout_ms
        self.exporter = Exporter(spec)
        self.models = Prover(spec, timeout_ms)

    def prove_initial(self) -> list[Obligation]:
        """Every invariant and counter holds at the start."""
        return self._decide(self.exporter.initial())

    def prove_transition(self, transition: Transition) -> list[Obligation]:
        """One transition against every property and counter."""
        return self._decide(self.exporter.transition(transition), "unsat")

    def prove_choice(self, choice: Choice) -> list[Obligation]:
        """Exactly one of the transitions is possible: no two at once, and never none."""
        return self._decide(self.exporter.choice(choice))

    def prove_progress(self, claim: Progress) -> Obligation:
        """In the situation of the claim, some option may be taken."""
        return self._decide(self.exporter.progress(claim))[0]

    def prove_stages(self, transition: Transition | None = None) -> list[Obligation]:
        """Stages and conforming invariants: against one transition, or what concerns single states."""
        return self._decide(self.exporter.stages(transition))

    def prove_parts(self) -> list[Obligation]:
        """Side conditions of counters that count a part of what another counts."""
        return self._decide(self.exporter.parts())

    def vacuous_antecedents(self, p: Property) -> list[Obligation]:
        """Left to z3: a model with quantifiers takes cvc5 long, and a wrong answer proves nothing false."""
        return self.models.vacuous_antecedents(p)

    def vacuous(self, transition: Transition) -> Obligation:
        """Whether some state that satisfies all invariants allows the transition; if none, proofs are empty."""
        return self._decide(self.exporter.transition(transition), "sat")[0]

    def _decide(self, script: Script, expected: str = "unsat") -> list[Obligation]:
        """Put the script's questions with this expected answer to a fresh solver."""
        terms = cvc5.TermManager()
        solver = cvc5.Solver(terms)
        for name, value in {**OPTIONS, "tlimit-per": str(self.timeout_ms)}.items():
            solver.setOption(name, value)
        session = _Session(solver, cvc5.SymbolManager(terms), script.name)
        session.run(script.preamble, answers=0)
        return [self._ask(session, q) for q in script.questions if q.expected == expected]

    def _ask(self, session: _Session, question: Question) -> Obligation:
        start = time.perf_counter()
        answer = session.run(question.text(), answers=2)[-1]
        verdicts = VACUITY_VERDICTS if question.kind == "vacuity" else VERDICTS
        verdict = verdicts.get(answer, "UNKNOWN")
        return Obligation(question.subject, question.claim, question.kind, verdict, time.perf_counter() - start)


class _Session:
    """One solver that reads SMT-LIB text piece by piece."""

    def __init__(self, solver: cvc5.Solver, symbols: cvc5.SymbolManager, name: str) -> None:
        self.solver, self.symbols, self.name = solver, symbols, name

    def run(self, text: str, answers: int) -> list[str]:
        """Execute the commands. Raises RuntimeError unless they print as many lines as expected (an error is one)."""
        parser = cvc5.InputParser(self.solver, self.symbols)
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, self.name)
        printed = ""
        while not (command := parser.nextCommand()).isNull():
            printed += command.invoke(self.solver, self.symbols)
        lines = printed.splitlines()
        if len(lines) != answers:
            raise RuntimeError(f"{self.name}: cvc5 did not accept the exported text: {printed.strip()}")
        return lines
