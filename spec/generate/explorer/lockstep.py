"""Generates the model's side of the lock-step: what may be proposed to the scheduler, and what it must answer."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

from ...language.spec import Transition
from .judgements import judgement_methods, named_place

if TYPE_CHECKING:
    from .model import ExplorerGenerator


def lockstep_methods(g: ExplorerGenerator) -> str:
    """Members of the model: `outside`, `batches`, `tuples`, `judge` and `apply`."""
    return f"{_all_outside(g)}\n{judgement_methods(g)}\n{_apply(g)}"


def named_table(g: ExplorerGenerator) -> str:
    """For each transition, which argument is the individual that its batch names."""
    rows = [f"    {named_place(g, t)},  // {t.name}" for t in g.spec.transitions.values()]
    body = "\n".join(rows)
    return (
        "// Which argument of a transition is the individual that a batch of proposals names, or -1.\n"
        f"inline constexpr std::array<std::int8_t, kTransitions.size()> kNamed = {{\n{body}\n}};\n"
    )


def _all_outside(g: ExplorerGenerator) -> str:
    outside = indent("\n".join(_outside(g, t) for t in g.spec.transitions.values() if t.parameters), "  ")
    return (
        "// Every transition with arguments of which one names nobody.\n"
        f"static void outside(Proposals& refused) {{\n{outside}\n}}\n"
    )


def _outside(g: ExplorerGenerator, t: Transition) -> str:
    """One individual at a time does not exist."""
    lines = []
    for i, p in enumerate(t.parameters):
        if p.type not in g.size:
            continue
        for value in ("-1", g.size[p.type]):
            arguments = ", ".join(value if j == i else "0" for j in range(len(t.parameters)))
            lines.append(f"refused.add(Transition::{t.name}, {{{arguments}}}, kBadIndex, false);")
    return "\n".join(lines)


def _apply(g: ExplorerGenerator) -> str:
    cases = []
    for t in g.spec.transitions.values():
        bind = [f"const int {p.name} = arguments[{i}];" for i, p in enumerate(t.parameters)]
        used = g.effects(t, switches=False)
        unused = [f"(void){p.name};" for p in t.parameters]
        lines = indent("\n".join([*bind, *unused, used, "break;"]), "  ")
        cases.append(f"case Transition::{t.name}: {{\n{lines}\n}}")
    body = indent("(void)k;\nswitch (transition) {\n" + indent("\n".join(cases), "  ") + "\n}", "  ")
    return (
        "// The effects of a transition, whatever its guards say; post is a copy of pre.\n"
        "static void apply(const State& pre, const Instance& k, Transition transition, const Arguments& arguments,\n"
        f"                  State& post) {{\n{body}\n}}\n"
    )


__all__ = ["lockstep_methods", "named_table"]
