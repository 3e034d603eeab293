"""Names: what may be called how, labels of guards and effects, and whether whatever a formula names exists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .expressions import Expr, SpecError, children

if TYPE_CHECKING:
    from .declarations import Effect, Transition
    from .spec import Spec

RESERVED = ("any_", "each_", "every_", "some_")
"""How names begin of the individuals that the language itself speaks of."""


def new_name(what: str, name: str, *taken: Iterable[str]) -> None:
    """Refuse a name that something else has, or that no part of a formula could have. Raises SpecError."""
    if any(name in names for names in taken):
        raise SpecError(f"{what} {name!r}: this name is taken; two things with one name would be one for a solver")
    if not name.replace(" ", "_").isidentifier():
        raise SpecError(f"{what} {name!r}: write a name of letters, digits and _")


def check_parameters(names: Iterable[str]) -> None:
    """Refuse parameters that are called like individuals of the language itself. Raises SpecError."""
    for name in names:
        if name.startswith(RESERVED):
            raise SpecError(f"parameter {name!r}: names that begin with {', '.join(RESERVED)} are the language's own")


def guard_labels(spec: Spec) -> list[str]:
    """All guards as `transition:guard`, in the order in which generated code numbers them (from 1; 0 is no guard)."""
    return [f"{t.name}:{g.name}" for t in spec.transitions.values() for g in t.guards]


def effect_label(transition: Transition, effect: Effect) -> str:
    """The name under which the explorer can leave an effect out: evict:effect block_state."""
    return f"{transition.name}:effect {effect.variable.name}"


def effect_labels(spec: Spec) -> list[str]:
    """The label of every effect, without repetition: those of a transition on the same variable go together."""
    return list(dict.fromkeys(effect_label(t, e) for t in spec.transitions.values() for e in t.effects))


def check_complete(spec: Spec) -> None:
    """Whether every transition that a claim names is one, with these parameters. Raises SpecError that names the claim.

    `taken("lanch") >> ...` would hold of everything.
    """
    for where, formula in _two_state_formulas(spec):
        for name in sorted(named(formula) - spec.transitions.keys()):
            raise SpecError(f"{where}: there is no transition {name!r}")
    covers = [(s.name, s.cover) for s in spec.stages.values()]
    for where, claim in [*spec.progress.items(), *covers]:
        for option in claim.options:
            _check_arguments(spec, where, option.transition, [a.type for a in option.arguments])
    for choice in spec.choices:
        types = {p.name: p.type for p in choice.parameters} | {n: e.type for n, e in choice.arguments.items()}
        for name in choice.transitions:
            known = spec.transitions[name].parameters if name in spec.transitions else ()
            _check_arguments(spec, choice.name, name, [types.get(p.name, f"no {p.name}") for p in known])


def _check_arguments(spec: Spec, where: str, transition: str, types: list[str]) -> None:
    if transition not in spec.transitions:
        raise SpecError(f"{where}: there is no transition {transition!r}")
    wanted = [p.type for p in spec.transitions[transition].parameters]
    if types != wanted:
        raise SpecError(f"{where}: {transition} has the parameters {', '.join(wanted)}, not {', '.join(types)}")


def _two_state_formulas(spec: Spec) -> Iterator[tuple[str, Expr]]:
    for p in spec.properties.values():
        yield p.name, p.formula
    for clause in spec.clauses.values():
        yield clause.name, clause.formula
    for stage in spec.stages.values():
        for end in stage.ends:
            yield stage.name, end


def named(e: Expr) -> set[str]:
    """The transitions that a formula names."""
    return {str(e.args[0])} if e.op == "taken" else set[str]().union(*map(named, children(e)))
