"""Generates which proposals there are, and what the specification answers to each, one tuple of individuals at a time.

Transitions over the same sorts are judged together: all those over (Request, Block) for each request and block. What
their guards and the ranges of their integers read is known from the specification, so equal values of just these
variables have equal answers; `tuples` says so with a key, and the lock-step asks about each key once.
"""

from __future__ import annotations

import hashlib
from textwrap import indent
from typing import TYPE_CHECKING

from .expressions import Expr, children, variables_read
from .language import Transition, Variable

if TYPE_CHECKING:
    from .generate_explorer import ExplorerGenerator

Read = tuple[str, tuple[int, ...] | None]
"""A variable and the places of its indices in the tuple, or None if it may be read for anybody."""


def judgement_methods(g: ExplorerGenerator) -> str:
    """Members of the model: `tuples` and `judge`."""
    return f"{_tuples(g)}\n{_judge(g)}"


def groups(g: ExplorerGenerator) -> dict[tuple[str, ...], list[Transition]]:
    """Transitions by the sorts of their individuals."""
    found: dict[tuple[str, ...], list[Transition]] = {}
    for t in g.spec.transitions.values():
        found.setdefault(tuple(p.type for p in t.parameters if p.type in g.size), []).append(t)
    return found


def reads(g: ExplorerGenerator, transitions: list[Transition]) -> set[Read]:
    """What the answers to proposals of these transitions depend on, besides constants."""
    found: set[Read] = set()
    for t in transitions:
        places = {p.name: i for i, p in enumerate(p for p in t.parameters if p.type in g.size)}
        ranges = [e for p in t.parameters if p.type not in g.size for e in g.spec.ranges[t.name, p.name]]
        for e in [*(guard.condition for guard in t.guards), *ranges]:
            found |= _reads(e, places)
    return found


def _reads(e: Expr, places: dict[str, int]) -> set[Read]:
    found: set[Read] = set()
    if e.op == "read":
        index = [places.get(str(i.args[0])) if i.op == "param" else None for i in e.args[1:]]
        known = tuple(i for i in index if i is not None)
        found.add((e.args[0].name, known if len(known) == len(index) else None))
    return found.union(*(_reads(c, places) for c in children(e)))


def _odd(*key: str) -> str:
    number = int.from_bytes(hashlib.sha256(f"judgement {' '.join(key)}".encode()).digest()[:8], "big") | 1
    return f"0x{number:016x}ULL"


def _term(v: Variable, group: str, places: tuple[int, ...]) -> str:
    index = "".join(f"[i{place}]" for place in places)
    value = f"static_cast<std::uint64_t>(pre.{v.name}{index})"
    return f"{value} * {_odd(group, v.name, *map(str, places))}"


def _tuples(g: ExplorerGenerator) -> str:
    blocks = []
    for number, (sorts, transitions) in enumerate(groups(g).items()):
        group = " ".join(sorts)
        found = sorted(reads(g, transitions), key=str)
        sums: dict[tuple[int, ...], list[str]] = {}
        lines = [f"std::uint64_t common = {_odd(group)};"]
        for name, places in found:
            v = g.spec.variables[name]
            if places is None:
                everybody = tuple(range(len(v.sorts)))
                body = f"common = (common ^ static_cast<std::uint64_t>(pre.{name}"
                body += "".join(f"[i{i}]" for i in everybody) + f")) * {_odd(group, name)};"
                for i, over in reversed(list(enumerate(v.sorts))):
                    body = f"for (int i{i} = 0; i{i} < {g.size[over.name]}; ++i{i}) {{\n{indent(body, '  ')}\n}}"
                lines.append(body)
            else:
                sums.setdefault(tuple(sorted(set(places))), []).append(_term(v, group, places))
        key = ["common"]
        for places, terms in sums.items():
            total_of = "\n    + ".join(terms)
            if not places:
                lines.append(f"common += {total_of};")
            elif len(places) == 1:
                at = places[0]
                lines.append(f"std::array<std::uint64_t, {g.size[sorts[at]]}> of{at};")
                lines.append(f"for (int i{at} = 0; i{at} < {g.size[sorts[at]]}; ++i{at}) of{at}[i{at}] = {total_of};")
                key.append(f"of{at}[i{at}]")
            else:
                key.append(f"({total_of})")
        for j, sort in enumerate(sorts):  # one individual may be named twice
            for i in (i for i in range(j) if sorts[i] == sort):
                key.append(f"(i{i} == i{j} ? {_odd(group, str(i), str(j))} : 0)")
        who = ", ".join(f"static_cast<std::int8_t>(i{i})" for i in range(len(sorts)))
        body = f"visit({number}, {' + '.join(key)}, Tuple{{{who}}});"
        for i, sort in reversed(list(enumerate(sorts))):
            body = "\n".join(filter(None, (_represented(g, sorts, i), body)))
            body = f"for (int i{i} = 0; i{i} < {g.size[sort]}; ++i{i}) {{\n{indent(body, '  ')}\n}}"
        lines.append(body)
        blocks.append(f"{{  // {', '.join(sorts)}\n{indent(chr(10).join(lines), '  ')}\n}}")
    body = indent("\n".join(blocks), "  ")
    most = max(len(sorts) for sorts in groups(g))
    return (
        f"using Tuple = std::array<std::int8_t, {most}>;\n"
        "\n"
        "// Calls visit(group, key, individuals) for every tuple of individuals that a group of transitions may name;\n"
        "// of those that differ in twins only, for one.\n"
        "// Tuples with the same key get the same answers: it hashes all that the guards of the group read.\n"
        "template <class Visit>\n"
        f"static void tuples(const State& pre, const Twins& twins, Visit&& visit) {{\n{body}\n}}\n"
    )


def _represented(g: ExplorerGenerator, sorts: tuple[str, ...], at: int) -> str:
    """Skips a tuple for which one with twins in the place of others stands; once all of the sort are bound."""
    same = [i for i, sort in enumerate(sorts) if sort == sorts[at]]
    if at != same[-1]:
        return ""
    letter = g.spec.sorts[sorts[at]].letter
    others = " | ".join(f"twins.{letter}[i{i}]" for i in same)
    if len(same) == 1:
        return f"if ({others} != 0) continue;"
    named = " | ".join(f"1U << i{i}" for i in same)
    return f"if ((({others}) & ~({named})) != 0) continue;"


def _judge(g: ExplorerGenerator) -> str:
    first, number = {}, 1
    for t in g.spec.transitions.values():
        first[t.name] = number
        number += len(t.guards)
    cases = []
    for i, transitions in enumerate(groups(g).values()):
        body = "\n".join(_judged(g, t, first[t.name]) for t in transitions)
        cases.append(f"case {i}:\n{indent(body, '  ')}\n  break;")
    body = indent("switch (group) {\n" + indent("\n".join(cases), "  ") + "\n}", "  ")
    return (
        "// Every proposal of a group to one tuple, and the first guard that refuses it (numbered as in kGuards, from\n"
        "// 1; 0 is none). Guards over what only proofs know cannot refuse; they forbid to explore. kBeyond: integers\n"
        "// go so far beyond the ranges that are explored.\n"
        "template <int kBeyond>\n"
        "static void judge(int group, const Tuple& who, const State& pre, const Instance& k, Proposals& refused, "
        "Proposals& accepted) {\n"
        "  const auto propose = [&](Transition transition, std::array<std::int8_t, 4> arguments, int guard, "
        "bool explored) {\n"
        "    (guard == 0 ? accepted : refused).add(transition, arguments, guard, explored);\n"
        f"  }};\n  (void)k;\n{body}\n}}\n"
    )


def _judged(g: ExplorerGenerator, t: Transition, first: int) -> str:
    ghosts = {v.name for v in g.spec.variables.values() if v.ghost}
    answer, unseen = "0", []
    for i, guard in reversed(list(enumerate(t.guards))):
        condition = g.expression(guard.condition, t.parameters)
        if variables_read(guard.condition) & ghosts:
            unseen.append(f"({condition})")
        else:
            answer = f"!({condition}) ? {first + i}\n    : {answer}"
    integers = tuple(p for p in t.parameters if p.type not in g.size)
    known = [f"{p.name} <= {g.expression(g.spec.ranges[t.name, p.name][1], t.parameters)}" for p in integers]
    explored = " && ".join([*known, *unseen]) or "true"
    arguments = ", ".join(f"static_cast<std::int8_t>({p.name})" for p in t.parameters)
    body = f"propose(Transition::{t.name}, {{{arguments}}},\n    {answer}, {explored});"
    individuals = [p for p in t.parameters if p.type in g.size]
    bind = [f"const int {p.name} = who[{i}];" for i, p in enumerate(individuals)]
    lines = [*bind, g.loops(integers, body, t.name, beyond="kBeyond")]
    return f"{{\n{indent(chr(10).join(lines), '  ')}\n}}"


__all__ = ["groups", "judgement_methods", "reads"]
