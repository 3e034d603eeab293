"""Generates the model's side of the lock-step: what may be proposed to the scheduler, and what it must answer."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

from .expressions import variables_read
from .language import Transition

if TYPE_CHECKING:
    from .generate_explorer import ExplorerGenerator


def lockstep_methods(g: ExplorerGenerator) -> str:
    """Members of the model: `proposals` and `apply`."""
    return f"{_proposals(g)}\n{_apply(g)}"


def _proposals(g: ExplorerGenerator) -> str:
    number = 1
    inside = []
    for t in g.spec.transitions.values():
        inside.append(_inside(g, t, number))
        number += len(t.guards)
    body = indent("\n".join(inside), "  ")
    outside = indent("\n".join(_outside(g, t) for t in g.spec.transitions.values() if t.parameters), "  ")
    return (
        "// Every transition with arguments of which one names nobody.\n"
        f"static void outside(Proposals& refused) {{\n{outside}\n}}\n\n"
        "// Every transition with all arguments, and the first guard that refuses it (numbered as in kGuards, "
        "from 1; 0 is\n"
        "// none). Guards over what only proofs know cannot refuse; they forbid to explore. kBeyond: "
        "integers go so far\n"
        "// beyond the ranges that are explored.\n"
        "template <int kBeyond>\n"
        "static void proposals(const State& pre, const Instance& k, Proposals& refused, Proposals& accepted) {\n"
        "  const auto propose = [&](Transition transition, std::array<std::int8_t, 4> arguments, int guard, "
        "bool explored) {\n"
        "    (guard == 0 ? accepted : refused).add(transition, arguments, guard, explored);\n"
        f"  }};\n{body}\n}}\n"
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


def _inside(g: ExplorerGenerator, t: Transition, first: int) -> str:
    ghosts = {v.name for v in g.spec.variables.values() if v.ghost}
    answer, unseen = "0", []
    for i, guard in reversed(list(enumerate(t.guards))):
        condition = g.expression(guard.condition, t.parameters)
        if variables_read(guard.condition) & ghosts:
            unseen.append(f"({condition})")
        else:
            answer = f"!({condition}) ? {first + i}\n    : {answer}"
    ranges = {p.name: g.spec.ranges[t.name, p.name] for p in t.parameters if p.type not in g.size}
    known = [f"{name} <= {g.expression(high, t.parameters)}" for name, (_, high) in ranges.items()]
    explored = " && ".join([*known, *unseen]) or "true"
    arguments = ", ".join(f"static_cast<std::int8_t>({p.name})" for p in t.parameters)
    body = f"propose(Transition::{t.name}, {{{arguments}}},\n    {answer}, {explored});"
    return g.loops(t.parameters, body, t.name, beyond="kBeyond")


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


__all__ = ["lockstep_methods"]
