"""Follows a scheduler like the monitor, and also checks that it keeps the contract that liveness needs (ranking.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..language.declarations import Transition
from ..language.ranking import Clause, Stage, concerns
from ..language.spec import Spec
from ..search.interpreter import State
from .monitor import Monitor


class ClauseBroken(AssertionError):
    """The observed scheduler did what a policy that keeps the contract does not."""


class ContractMonitor(Monitor):
    """A monitor that raises ClauseBroken at the first transition that breaks a clause of the contract."""

    def __init__(self, spec: Spec, limits: Mapping[str, int]) -> None:
        super().__init__(spec, limits)
        self.clauses = {t.name: [c for c in spec.clauses.values() if concerns(c.formula, t)] for t in self.transitions}
        self.judged = dict.fromkeys(spec.clauses, 0)
        """How often each clause said something of a transition."""

    def follow(self, trace: Iterable[Sequence[int]]) -> None:
        """Take the transitions of a trace. Raises GuardFalse or ClauseBroken at the first that is not allowed."""
        for row in trace:
            before, transition = self.state, self.transitions[int(row[0])]
            super().follow([row])
            for clause in self.clauses[transition.name]:
                self._judge(clause, before, transition)

    def _judge(self, clause: Clause, before: State, transition: Transition) -> None:
        for bindings in self._situations(clause, before):
            self.judged[clause.name] += 1
            if not self.interpreter.evaluate(clause.formula, bindings, before, self.state, transition.name):
                where = ", ".join(f"{name}={i}" for name, i in bindings.items())
                raise ClauseBroken(f"event {self.followed}, {transition.name}: {clause.name} ({where})")

    def _situations(self, clause: Clause, state: State) -> Iterator[dict[str, int]]:
        """The individuals of whom the clause speaks in this state."""
        if clause.stage is None:
            yield from self.interpreter.bindings(clause.parameters, self.population)
            return
        found: list[dict[str, int]] = [{}]
        for stage in self.spec.stages[clause.stage].path:
            inside = [outer | own for outer in found for own in self.interpreter.bindings(stage.own, self.population)]
            found = [bindings for bindings in inside if self._holds(stage, bindings, state)]
        yield from found

    def _holds(self, stage: Stage, bindings: Mapping[str, int], state: State) -> bool:
        evaluate = self.interpreter.evaluate
        return all(evaluate(c, dict(bindings), state) for c in stage.conditions) and all(
            evaluate(fact.formula, {**bindings, **everybody}, state)
            for fact in stage.facts
            for everybody in self.interpreter.bindings(fact.parameters, self.population)
        )


__all__ = ["ClauseBroken", "ContractMonitor"]
