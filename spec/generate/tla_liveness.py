"""Prints the contract and the stages of liveness (ranking.py) as a second TLA+ module, which extends the first.

What TLC can check of a finite instance, although steps and arrivals are cut off, is what z3 and cvc5 prove: every stage
is covered or served (invariants; here stages inside are said to exist, without the witnesses that the proofs need), and
no step of a conforming policy makes a rank larger, what helps makes one smaller (action properties). The contract is an
action constraint. That the goal is reached is printed too, with its fairness, for readers and other tools: a search
that is cut off cannot decide it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_, or_
from pathlib import Path

from ..language.expressions import Expr, after, lift
from ..language.progress import Option
from ..language.ranking import Stage, smaller
from ..language.spec import Parameter, Spec
from ..search.instances import INSTANCES, Instance
from .tla import MODULE, TlaPrinter, conjunction, identifier

LIVENESS = f"{MODULE}Liveness"


class LivenessPrinter(TlaPrinter):
    """Prints the module and a configuration of the contract and the stages of one specification."""

    def module(self) -> str:
        """The text of TokenSpeedLiveness.tla."""
        spec = self.spec
        out = [f"---- MODULE {LIVENESS} ----", f"\\* Specification {spec.name}, SHA-256 {spec.digest()}. Generated."]
        out += [f"EXTENDS {MODULE}", ""]
        for stage in spec.stages.values():
            out += self._stage(stage)
        for clause in spec.clauses.values():
            situation = f"{self._call(spec.stages[clause.stage])} => " if clause.stage else ""
            formula = self.text(clause.formula, self._names(clause.parameters))
            out.append(
                f"\\* {clause.doc}\n{identifier(clause.name)} == {self._all(clause.parameters)}{situation}{formula}\n"
            )
        out.append(conjunction("Contract", [identifier(name) for name in spec.clauses]))
        for claim in spec.conforming.values():
            formula = self.text(claim.formula, self._names(claim.parameters))
            out.append(f"{identifier(claim.name)} == {self._all(claim.parameters)}{formula}\n")
        for stage in spec.stages.values():
            out += self._obligations(stage)
        leaves = [s for s in spec.stages.values() if not s.children]
        out.append("\\* What helps and can be taken all the time is taken at last.")
        out.append(
            conjunction("Justice", [f"{self._all(s.parameters)}WF_vars({self._call(s, 'Helps')})" for s in leaves])
        )
        out.append("ConformingSpec == Init /\\ [][Next /\\ Contract]_vars /\\ Justice\n")
        for root in (s for s in spec.stages.values() if s.parent is None):
            ends = self.text(reduce(or_, root.ends, lift(False)), self._names(root.parameters))
            leads = f"[]({self._call(root)} => <><<{ends}>>_vars)"
            out.append(f"\\* {root.doc}\n{identifier(root.name)}Ends == {self._all(root.parameters)}{leads}\n")
        return "\n".join([*out, "====", ""])

    def configuration(self) -> str:
        """The text of TokenSpeedLiveness.cfg."""
        stages = self.spec.stages.values()
        invariants = [identifier(name) for name in self.spec.conforming]
        invariants += [f"{identifier(s.name)}{'Covered' if s.children else 'Served'}" for s in stages]
        invariants += [f"{identifier(s.name)}Bounded" for s in stages if s.ranks]
        properties = [f"{identifier(s.name)}Kept" for s in stages]
        properties += [f"{identifier(s.name)}Advanced" for s in stages if not s.children]
        out = [*self.constants(), "INVARIANTS", *[f"  {name}" for name in invariants]]
        out += ["PROPERTIES", *[f"  {name}" for name in properties]]
        return "\n".join([*out, "CONSTRAINT Bounded", "ACTION_CONSTRAINT Contract", "SYMMETRY Symmetry", ""])

    # Parts.

    def _names(self, parameters: Sequence[Parameter]) -> dict[str, str]:
        return {p.name: p.name for p in parameters}

    def _all(self, parameters: Sequence[Parameter], quantifier: str = "\\A") -> str:
        return "".join(f"{quantifier} {p.name} \\in {p.type} : " for p in parameters)

    def _call(self, stage: Stage, suffix: str = "") -> str:
        return f"{identifier(stage.name)}{suffix}({', '.join(p.name for p in stage.parameters)})"

    def _stage(self, stage: Stage) -> Iterator[str]:
        """The situation: what the stage itself says, and with it what those around it say."""
        names = self._names(stage.parameters)
        parts = [self.text(c, names) for c in stage.conditions]
        for number, fact in enumerate(stage.facts):
            (every,) = fact.parameters
            local = {**names, every.name: f"every{number}"}
            parts.append(f"\\A every{number} \\in {every.type} : {self.text(fact.formula, local)}")
        yield conjunction(self._call(stage, "Itself"), parts or ["TRUE"])
        around = [self._call(stage.parent)] if stage.parent else []
        yield f"\\* {stage.doc}\n" + conjunction(self._call(stage), [*around, self._call(stage, "Itself")])
        if not stage.children:
            helps = [f"  \\/ {self._option(stage, option)}" for option in stage.cover.options]
            yield "\n".join([f"{self._call(stage, 'Helps')} ==", *helps, ""])

    def _option(self, stage: Stage, option: Option) -> str:
        """The transition with the stage's own individuals, whatever stands for its other parameters."""
        transition, own = self.spec.transitions[option.transition], self._names(stage.parameters)
        names, free = dict[str, str](), list[Parameter]()
        for p, argument in zip(transition.parameters, option.arguments, strict=True):
            fixed = argument.op == "param" and argument.args[0] in own
            names[p.name] = argument.args[0] if fixed else f"any_{p.name}"
            free += [] if fixed else [p]
        text = f"{transition.name}({', '.join(names.values())})" if names else transition.name
        for p in reversed(free):
            text = f"\\E {names[p.name]} \\in {self._set(p, transition.name, names)} : {text}"
        return f"({self._call(stage)} /\\ {text})"

    def _obligations(self, stage: Stage) -> Iterator[str]:
        """What is proved of the stage, of states and of steps."""
        name, names, every = identifier(stage.name), self._names(stage.parameters), self._all(stage.parameters)
        nearer: list[Expr] = [*stage.path[0].ends, *[smaller(s.ranks) for s in stage.path[:-1]]]
        closer = self.text(reduce(or_, nearer, lift(False)), names)
        same = self.text(smaller(stage.ranks) | reduce(and_, [after(n) == n for n in stage.ranks], lift(True)), names)
        goes_on = f"(({self._call(stage, 'Itself')})' /\\ {same})"
        yield f"{name}Kept == [][Contract => {every}({self._call(stage)} => ({closer} \\/ {goes_on}))]_vars\n"
        if stage.children:
            inside = " \\/ ".join(f"({self._all(s.own, chr(92) + 'E')}{self._call(s)})" for s in stage.children)
            yield f"{name}Covered == {every}({self._call(stage)} => ({inside}))\n"
        else:
            yield f"{name}Served == {every}({self._call(stage)} => ENABLED {self._call(stage, 'Helps')})\n"
            own = self.text(smaller(stage.ranks), names)
            helped = f"({self._call(stage, 'Helps')} => ({closer} \\/ {own}))"
            yield f"{name}Advanced == [][Contract => {every}{helped}]_vars\n"
        if stage.ranks:
            bounded = self.text(reduce(and_, [n >= 0 for n in stage.ranks]), names)
            yield f"{name}Bounded == {every}({self._call(stage)} => {bounded})\n"


def write_tla(spec: Spec, folder: Path, instance: Instance = INSTANCES[0]) -> list[Path]:
    """Write both modules, each with a configuration of the instance; returns the paths. Raises OSError if it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, printer in ((MODULE, TlaPrinter(spec, instance)), (LIVENESS, LivenessPrinter(spec, instance))):
        for suffix, text in (("tla", printer.module()), ("cfg", printer.configuration())):
            paths.append(folder / f"{name}.{suffix}")
            paths[-1].write_text(text, encoding="utf-8", newline="\n")
    return paths


__all__ = ["LIVENESS", "LivenessPrinter", "write_tla"]
