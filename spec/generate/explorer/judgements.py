"""Generates which proposals there are, and what the specification answers to each, one tuple of individuals at a time.

Transitions over the same sorts are judged together: all those over (Request, Block) for each request and block. What
their guards and the ranges of their integers read is known from the specification, so equal values of just these
variables have equal answers. Tuples that name the same request (or none) are a batch; `batches` gives each a key, and
the lock-step asks about each key once.
"""

from __future__ import annotations

import hashlib
from textwrap import indent
from typing import TYPE_CHECKING

from ...language.expressions import Expr, children, variables_read
from ...language.spec import Transition

if TYPE_CHECKING:
    from .model import ExplorerGenerator

Read = tuple[str, tuple[int, ...] | None]
"""A variable and the places of its indices in the tuple, or None if it may be read for anybody."""


def judgement_methods(g: ExplorerGenerator) -> str:
    """Members of the model: `batches`, `tuples`, `judge` and `look_at_guards`."""
    return f"{_batches(g)}\n{_tuples(g)}\n{_judge(g)}\n{_guards(g)}"


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
    if e.op == "call":
        return _reads(e.meaning, places)
    if e.op == "read":
        index = [places.get(str(i.args[0])) if i.op == "param" else None for i in e.args[1:]]
        known = tuple(i for i in index if i is not None)
        found.add((e.args[0].name, known if len(known) == len(index) else None))
    return found.union(*(_reads(c, places) for c in children(e)))


def named_place(g: ExplorerGenerator, t: Transition) -> int:
    """Which argument of a transition its batch names, or -1: the first individual of the specification's first sort."""
    first = next(iter(g.spec.sorts))
    return next((i for i, p in enumerate(t.parameters) if p.type == first), -1)


def _odd(*key: str) -> str:
    number = int.from_bytes(hashlib.sha256(f"judgement {' '.join(key)}".encode()).digest()[:8], "big") | 1
    return f"0x{number:016x}ULL"


def _batches(g: ExplorerGenerator) -> str:
    first = next(iter(g.spec.sorts))
    blocks, number_of = [], []
    for number, (sorts, transitions) in enumerate(groups(g).items()):
        group = " ".join(sorts)
        named = sorts.index(first) if first in sorts else None
        alone = sorts.count(first) == 1
        common, own = [_odd(group)], ["common"]
        for name, places in sorted(reads(g, transitions), key=str):
            odd = _odd(group, name)
            if named is None or places is None or named not in places:
                common.append(f"hash(pre.{name}, {odd})")
            elif len(places) == 1:
                own.append(f"static_cast<std::uint64_t>(pre.{name}[i]) * {_odd(group, name, 'own')}")
            else:
                own.append(f"{'hash' if places[0] == named else 'hash_column'}({_of(name, places, named)}, {odd})")
        for sort in sorted(set(sorts)):
            if sort != first or not alone:
                common.append(f"hash(twins.{g.spec.sorts[sort].letter}, {_odd(group, 'twins', sort)})")
        lines = ["const std::uint64_t common = " + "\n    + ".join(dict.fromkeys(common)) + ";"]
        if named is None:
            lines.append(f"visit({number}, 0, common);")
        else:
            if alone:
                skip = f"if (twins.{g.spec.sorts[first].letter}[i] != 0) continue;\n"
            else:
                skip = ""
                own.append(f"static_cast<std::uint64_t>(i) * {_odd(group, 'who')}")
            body = f"{skip}visit({number}, i, " + "\n    + ".join(dict.fromkeys(own)) + ");"
            lines.append(f"for (int i = 0; i < {g.size[first]}; ++i) {{\n{indent(body, '  ')}\n}}")
        number_of.append("1" if named is None else g.size[first])
        blocks.append(f"{{  // {', '.join(sorts)}\n{indent(chr(10).join(lines), '  ')}\n}}")
    body = indent("\n".join(blocks), "  ")
    return f"""\
// How many batches there are of each group of transitions over the same sorts: all that names the same
// {first.lower()}, where a group names any; otherwise one.
static constexpr std::array<int, {len(number_of)}> kBatches = {{{", ".join(number_of)}}};
static constexpr std::size_t kMostBatches = {" + ".join(number_of)};

// Calls visit(group, named, key) for every batch; of those that differ in twins only, for one.
// Batches with the same key get the same answers: it hashes all that the guards of the group read.
template <class Visit>
static void batches(const State& pre, const Twins& twins, Visit&& visit) {{
{body}
}}
"""


def _of(name: str, places: tuple[int, ...], named: int) -> str:
    return f"pre.{name}[i]" if places[0] == named else f"pre.{name}, i"


def _tuples(g: ExplorerGenerator) -> str:
    first = next(iter(g.spec.sorts))
    cases = []
    for number, sorts in enumerate(groups(g)):
        who = ", ".join(f"static_cast<std::int8_t>(i{i})" for i in range(len(sorts)))
        body = f"visit(Tuple{{{who}}});"
        named = sorts.index(first) if first in sorts else None
        for i, sort in reversed(list(enumerate(sorts))):
            body = "\n".join(filter(None, (_represented(g, sorts, i), body)))
            if i == named:
                body = f"const int i{i} = named;\n{body}"
            else:
                body = f"for (int i{i} = 0; i{i} < {g.size[sort]}; ++i{i}) {{\n{indent(body, '  ')}\n}}"
        cases.append(f"case {number}: {{  // {', '.join(sorts)}\n{indent(body, '  ')}\n  break;\n}}")
    body = indent("(void)named;\nswitch (group) {\n" + indent("\n".join(cases), "  ") + "\n}", "  ")
    most = max(len(sorts) for sorts in groups(g))
    return (
        f"using Tuple = std::array<std::int8_t, {most}>;\n"
        "\n"
        "// Calls visit(individuals) for every tuple of individuals of a batch; for one of those that differ in twins\n"
        "// only.\n"
        "template <class Visit>\n"
        f"static void tuples(int group, int named, const Twins& twins, Visit&& visit) {{\n{body}\n}}\n"
        "// Calls visit(group, individuals) for every tuple that there is.\n"
        "template <class Visit>\n"
        "static void everybody(Visit&& visit) {\n"
        "  for (int group = 0; group < static_cast<int>(kBatches.size()); ++group) {\n"
        "    for (int named = 0; named < kBatches[group]; ++named) {\n"
        "      tuples(group, named, Twins(), [&](const Tuple& who) { visit(group, who); });\n"
        "    }\n  }\n}\n"
    )


def _represented(g: ExplorerGenerator, sorts: tuple[str, ...], at: int) -> str:
    """Skips a tuple for which one with twins in the place of others stands; once all of the sort are bound."""
    same = [i for i, sort in enumerate(sorts) if sort == sorts[at]]
    if at != same[-1]:
        return ""
    if len(same) == 1 and sorts[at] == next(iter(g.spec.sorts)):
        return ""  # its batch is skipped
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


def _guards(g: ExplorerGenerator) -> str:
    """Whatever the guards before it say, and for integers one below and one above their ranges too."""
    number, first = 0, {}
    for t in g.spec.transitions.values():
        first[t.name] = number
        number += len(t.guards)
    cases = []
    for i, transitions in enumerate(groups(g).values()):
        looks = []
        for t in transitions:
            marks = [
                f"seen[{first[t.name] + n}].mark({g.expression(guard.condition)});" for n, guard in enumerate(t.guards)
            ]
            looks.append(_for_tuple(g, t, "\n".join(marks), below="1", beyond="1"))
        cases.append(f"case {i}:\n{indent(chr(10).join(looks), '  ')}\n  break;")
    body = indent("switch (group) {\n" + indent("\n".join(cases), "  ") + "\n}", "  ")
    return (
        "// What each guard says, whatever those before it say, about every proposal of a group to one tuple.\n"
        "static void look_at_guards(int group, const Tuple& who, const State& pre, const Instance& k,\n"
        f"                           std::array<Seen, kGuards.size()>& seen) {{\n  (void)k;\n{body}\n}}\n"
    )


def _for_tuple(g: ExplorerGenerator, t: Transition, body: str, below: str, beyond: str) -> str:
    """The body for each proposal of a transition to a tuple of individuals."""
    integers = tuple(p for p in t.parameters if p.type not in g.size)
    individuals = [p for p in t.parameters if p.type in g.size]
    bind = [f"const int {p.name} = who[{i}];" for i, p in enumerate(individuals)]
    unused = [f"(void){p.name};" for p in individuals] if below else []
    lines = [*bind, *unused, g.loops(integers, body, t.name, beyond=beyond, below=below)]
    return f"{{\n{indent(chr(10).join(lines), '  ')}\n}}"


def _judged(g: ExplorerGenerator, t: Transition, first: int) -> str:
    ghosts = {v.name for v in g.spec.variables.values() if v.ghost}
    answer, unseen = "0", []
    for i, guard in reversed(list(enumerate(t.guards))):
        condition = g.expression(guard.condition)
        if variables_read(guard.condition) & ghosts:
            unseen.append(f"({condition})")
        else:
            answer = f"!({condition}) ? {first + i}\n    : {answer}"
    integers = tuple(p for p in t.parameters if p.type not in g.size)
    known = [f"{p.name} <= {g.expression(g.spec.ranges[t.name, p.name][1])}" for p in integers]
    explored = " && ".join([*known, *unseen]) or "true"
    arguments = ", ".join(f"static_cast<std::int8_t>({p.name})" for p in t.parameters)
    body = f"propose(Transition::{t.name}, {{{arguments}}},\n    {answer}, {explored});"
    return _for_tuple(g, t, body, below="", beyond="kBeyond")


__all__ = ["groups", "judgement_methods", "named_place", "reads"]
