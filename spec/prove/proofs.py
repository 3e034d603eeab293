"""Everything that is to be proved of a specification, in parts that several processes can share."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Protocol

from .. import system
from ..language.expressions import antecedents
from ..language.progress import Progress
from ..language.spec import Choice, Property, Spec, Transition
from .prover import Obligation, Prover

SOLVERS = ("z3", "cvc5")
"""Who can decide the obligations; the first is the default."""

Part = tuple[str, str]
"""What kind of proof, and of what: ("transition", "admit")."""

GENERAL = ("initial", "transition", "counters", "liveness")
"""Kinds of parts whose obligations belong to properties, counters and stages."""


class Decider(Protocol):
    """A solver with its way to put the obligations."""

    solver_name: str

    def prove_initial(self) -> list[Obligation]:
        """The start satisfies every invariant."""

    def prove_transition(self, transition: Transition) -> list[Obligation]:
        """The transition keeps every property and counter."""

    def prove_choice(self, choice: Choice) -> list[Obligation]:
        """Exactly one transition of the choice is possible."""

    def prove_progress(self, claim: Progress) -> Obligation:
        """In the situation of the claim, some option may be taken."""

    def prove_stages(self, transition: Transition | None = None) -> list[Obligation]:
        """Stages of liveness against one transition, or what concerns single states."""

    def prove_parts(self) -> list[Obligation]:
        """Side conditions of counters: parts of others, tilings."""

    def vacuous_antecedents(self, p: Property) -> list[Obligation]:
        """Each antecedent of the property can hold."""

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


def parts(spec: Spec) -> list[Part]:
    """All parts, in the order of the report."""
    found = [("initial", "initial state"), *(("transition", name) for name in spec.transitions)]
    found += [("counters", "counters"), *(("choice", choice.name) for choice in spec.choices)]
    found += [("progress", name) for name in spec.progress]
    if spec.stages:
        found += [("liveness", name) for name in ("", *spec.transitions)]
    found += [("vacuity", name) for name in spec.transitions]
    return found + [("antecedents", p.name) for p in spec.properties.values() if antecedents(p.formula)]


def prove(prover: Decider, spec: Spec, part: Part) -> list[Obligation]:
    """The obligations of one part."""
    kind, name = part
    match kind:
        case "initial":
            return prover.prove_initial()
        case "transition":
            return prover.prove_transition(spec.transitions[name])
        case "counters":
            return prover.prove_parts()
        case "choice":
            return prover.prove_choice(next(c for c in spec.choices if c.name == name))
        case "progress":
            return [prover.prove_progress(spec.progress[name])]
        case "liveness":
            return prover.prove_stages(spec.transitions[name] if name else None)
        case "vacuity":
            return [prover.vacuous(spec.transitions[name])]
        case "antecedents":
            return prover.vacuous_antecedents(spec.properties[name])
    raise AssertionError(f"unknown part {kind}")


def proofs(spec: Spec, solver: str, processes: int) -> Iterator[tuple[Part, list[Obligation]]]:
    """All parts with their obligations, in order. Models of what is not proved are lost between processes."""
    todo = parts(spec)
    if processes > 1 and spec is system.SPEC:
        context = multiprocessing.get_context("spawn")  # z3 does not survive a fork
        with ProcessPoolExecutor(processes, context, _start, (spec.digest(), solver)) as pool:
            first = next(results := pool.map(_prove, todo))
            if first is not None:
                yield todo[0], first
                for part, obligations in zip(todo[1:], results, strict=True):
                    assert obligations is not None
                    yield part, obligations
                return
            pool.shutdown(cancel_futures=True)  # the specification was changed in this process
    prover = decider(spec, solver)
    for part in todo:
        yield part, prove(prover, spec, part)


_prover: list[Decider] = []


def _start(digest: str, solver: str) -> None:
    if system.SPEC.digest() == digest:
        _prover.append(decider(system.SPEC, solver))


def _prove(part: Part) -> list[Obligation] | None:
    """None if this process has another specification."""
    if not _prover:
        return None
    return [dataclasses.replace(o, model=None) for o in prove(_prover[0], system.SPEC, part)]
