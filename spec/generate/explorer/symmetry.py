"""Generates the normal form of the explorer's states: numbers that only order matters for, and names of individuals.

Individuals of a sort are interchangeable: a state and one in which they have other names behave alike. The normal
form orders them by a signature of what the state says about them. It is always a renaming of the state, so two states
with the same form behave alike; where signatures cannot tell individuals apart, two forms of one state may remain,
which costs time and nothing else.
"""

from __future__ import annotations

import hashlib
from textwrap import indent
from typing import TYPE_CHECKING

from ...language.expressions import TICK
from ...language.spec import Parameter, Variable

if TYPE_CHECKING:
    from .model import ExplorerGenerator


def symmetry_methods(g: ExplorerGenerator) -> str:
    """Members of the model: `normalise`, `shift`, `Order`, `rename`, `canonicalise` and `twins`."""
    parts = [_normalise(g), _shift(g), _order(g), _rename(g), _signatures(g), _canonicalise(g), _twins(g)]
    return "\n".join(parts)


def _odd(*key: str) -> str:
    """A 64-bit odd number that depends on the key only."""
    number = int.from_bytes(hashlib.sha256(" ".join(key).encode()).digest()[:8], "big") | 1
    return f"0x{number:016x}ULL"


def _each(g: ExplorerGenerator, v: Variable, statement: str) -> str:
    parameters = tuple(Parameter(f"i{n}", s.name) for n, s in enumerate(v.sorts))
    place = f"s.{v.name}{''.join(f'[{p.name}]' for p in parameters)}"
    return g.loops(parameters, statement.format(place))


def _method(comment: str, signature: str, lines: list[str]) -> str:
    body = indent("\n".join(lines), "  ")
    return f"// {comment}\nstatic {signature} {{\n{body}\n}}\n"


def _normalise(g: ExplorerGenerator) -> str:
    """Shift ticks so that the origin is 0, and replace numbers of which only the order matters by their ranks."""
    spec = g.spec
    lines = []
    if spec.tick_origin is not None:
        lines.append(f"const int origin = s.{spec.tick_origin.name};")
        for v in spec.variables.values():
            if v.type == TICK and v is not spec.tick_origin:
                lines.append(_each(g, v, "{0} = static_cast<std::int8_t>(std::max(0, {0} - origin));"))
        lines.append(f"s.{spec.tick_origin.name} = 0;")
    ranks = []
    if spec.order_only:
        capacity = " + ".join(g.cells(v) for v in spec.order_only)
        ranks.append(f"std::array<std::int8_t, {capacity}> values{{}};\nstd::size_t n = 0;")
        ranks += [_each(g, v, "values[n++] = {0};") for v in spec.order_only]
        ranks.append("std::sort(values.begin(), values.end());")
        ranks.append("const auto last = std::unique(values.begin(), values.end());")
        ranks.append("const int zero = values[0] == 0 ? 0 : 1;")
        rank = "{0} = static_cast<std::int8_t>(zero + (std::lower_bound(values.begin(), last, {0}) - values.begin()));"
        ranks += [_each(g, v, rank) for v in spec.order_only]
    written = {t.name: any(e.variable in spec.order_only for e in t.effects) for t in spec.transitions.values()}
    cases = "\n".join(f"case Transition::{name}:" for name, writes in written.items() if writes)
    body = indent("\n".join([*ranks, "break;"]), "    ")
    lines.append(
        f"switch (after) {{\n{indent(cases, '  ')} {{\n{body}\n  }}\n  default:\n    break;\n}}"
        if ranks
        else "(void)after;"
    )
    comment = "States that behave alike get the same numbers; `after` led here from one that had such numbers."
    return _method(comment, "void normalise(State& s, Transition after)", lines)


def _shift(g: ExplorerGenerator) -> str:
    lines = ["(void)s;", "(void)by;"]
    for v in g.spec.variables.values():
        if v.type == TICK:
            lines.append(_each(g, v, "{0} = static_cast<std::int8_t>({0} + by);"))
    comment = "The same state later: all step numbers are higher (normalise undoes it)."
    return _method(comment, "void shift(State& s, int by)", lines)


def _order(g: ExplorerGenerator) -> str:
    lines = ["// For each individual of the new state, who it is in the old one.", "struct Order {"]
    for sort in g.spec.sorts.values():
        lines.append(f"  std::array<std::int8_t, {g.size[sort.name]}> {sort.letter}{{}};")
    names = "\n".join(
        f"    for (int i = 0; i < {g.size[s.name]}; ++i) {s.letter}[i] = static_cast<std::int8_t>(i);"
        for s in g.spec.sorts.values()
    )
    lines.append(f"\n  Order() {{\n{names}\n  }}")
    cases = []
    for t in g.spec.transitions.values():
        maps = [
            f"arguments[{i}] = {g.spec.sorts[p.type].letter}[arguments[{i}]];"
            for i, p in enumerate(t.parameters)
            if p.type in g.spec.sorts
        ]
        cases.append(f"case Transition::{t.name}:\n" + indent("\n".join([*maps, "break;"]), "  "))
    body = indent("switch (transition) {\n" + indent("\n".join(cases), "  ") + "\n}\nreturn arguments;", "    ")
    lines.append("  // The arguments under the old names.")
    lines.append(f"  Arguments old_names(Transition transition, Arguments arguments) const {{\n{body}\n  }}")
    assigns = "\n".join(
        f"    for (std::size_t i = 0; i < {s.letter}.size(); ++i) "
        f"{s.letter}[i] = static_cast<std::int8_t>(of.at({n}).at(i));"
        for n, s in enumerate(g.spec.sorts.values())
    )
    lines.append(
        f"  // From one list for each sort.\n  void assign(const std::vector<std::vector<int>>& of) {{\n{assigns}\n  }}"
    )
    behind = "\n".join(
        f"    for (std::size_t i = 0; i < {s.letter}.size(); ++i) "
        f"result.{s.letter}[i] = older.{s.letter}[{s.letter}[i]];"
        for s in g.spec.sorts.values()
    )
    lines.append("  // Through this one and then through an older one.")
    lines.append(f"  Order behind(const Order& older) const {{\n    Order result;\n{behind}\n    return result;\n  }}")
    return "\n".join([*lines, "};\n"])


def _rename(g: ExplorerGenerator) -> str:
    lines = ["const State old = s;", "const Order to = order;  // no byte of the state", "const Order same;"]
    lines += [f"const bool moved_{s.letter} = to.{s.letter} != same.{s.letter};" for s in g.spec.sorts.values()]
    for v in g.spec.variables.values():
        if not v.sorts:
            continue
        parameters = tuple(Parameter(f"i{n}", s.name) for n, s in enumerate(v.sorts))
        new = "".join(f"[{p.name}]" for p in parameters)
        before = "".join(f"[to.{s.letter}[{p.name}]]" for p, s in zip(parameters, v.sorts, strict=True))
        renamed = g.loops(parameters, f"s.{v.name}{new} = old.{v.name}{before};")
        needed = " || ".join(dict.fromkeys(f"moved_{s.letter}" for s in v.sorts))
        lines.append(f"if ({needed}) {{\n{indent(renamed, '  ')}\n}}")
    return _method("Gives individuals other names.", "void rename(State& s, const Order& order)", lines)


def _signatures(g: ExplorerGenerator) -> str:
    sorts = list(g.spec.sorts.values())
    lines = ["struct Signatures {"]
    lines += [f"  std::array<std::uint64_t, {g.size[s.name]}> {s.letter}{{}};" for s in sorts]
    lines.append("};")
    lines.append("static std::uint64_t mix(std::uint64_t x) {\n  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ULL;")
    lines.append("  return x ^ (x >> 32);\n}")
    own = []
    for sort in sorts:
        for v in (v for v in g.spec.variables.values() if v.sorts == (sort,)):
            term = f"of.{sort.letter}[i0] += static_cast<std::uint8_t>({{0}}) * {_odd(v.name)};"
            own.append(_each(g, v, term))
        own.append(f"for (auto& x : of.{sort.letter}) x = mix(x);")
    lines.append(
        _method("What the state says about each individual alone.", "void own(const State& s, Signatures& of)", own)
    )
    related = []
    for v in (v for v in g.spec.variables.values() if len(v.sorts) > 1):
        parameters = tuple(Parameter(f"i{n}", x.name) for n, x in enumerate(v.sorts))
        place = "".join(f"[{p.name}]" for p in parameters)
        value = f"static_cast<std::uint8_t>(s.{v.name}{place})"
        whole = " + ".join(
            [f"{value} * {_odd(v.name)}"]
            + [f"of.{x.letter}[i{n}] * {_odd(v.name, str(n))}" for n, x in enumerate(v.sorts)]
        )
        adds = "\n".join(f"  add.{x.letter}[i{n}] += mix(term + {n + 1});" for n, x in enumerate(v.sorts))
        block = f"if (s.{v.name}{place} != 0) {{\n  const std::uint64_t term = {whole};\n{adds}\n}}"
        related.append(f"if (any(s.{v.name})) {{\n{indent(g.loops(parameters, block), '  ')}\n}}")
    comment = "What it says about each together with others; 0 where there are none."
    lines.append(_method(comment, "void related(const State& s, const Signatures& of, Signatures& add)", related))
    return "\n".join(lines)


def _canonicalise(g: ExplorerGenerator) -> str:
    sorts = list(g.spec.sorts.values())
    letters = [s.letter for s in sorts]
    tied = " || ".join(f"alike(of.{x})" for x in letters)
    refine = "\n".join(
        f"for (std::size_t i = 0; i < of.{x}.size(); ++i) of.{x}[i] = mix(of.{x}[i] + add.{x}[i]);" for x in letters
    )
    hard = " || ".join(f"alike(of.{x}, add.{x})" for x in letters)
    breaks = "\n".join(
        f"if (alike(of.{x})) {{\n  for (std::size_t i = 0; i < of.{x}.size(); ++i) {{\n"
        f"    for (std::size_t j = 0; j < i; ++j) {{\n"
        f"      if (of.{x}[i] == of.{x}[j]) {{\n        of.{x}[i] = mix(of.{x}[i] + 1);\n"
        f"        j = 0;\n      }}\n    }}\n  }}\n"
        f"  refine(s, of);\n}}"
        for x in letters
    )
    sorted_ = "\n".join(f"changed = sort_by(of.{x}, order.{x}) || changed;" for x in letters)
    refine_method = _method(
        "Tells individuals apart by whom they have to do with.",
        "Signatures refine(const State& s, Signatures& of)",
        ["Signatures add;", "related(s, of, add);", refine, "return add;"],
    )
    body = [
        "Signatures of;", "own(s, of);", f"if ({tied}) {{", "  Signatures add = refine(s, of);",
        f"  if ({hard}) {{", "    add = refine(s, of);", f"    if ({hard}) {{",
        indent(breaks, "      "), "    }", "  }", "}",
        "Order order;", "bool changed = false;", sorted_, "if (changed) rename(s, order);", "return order;",
    ]  # fmt: skip
    comment = "Renames individuals so that states that differ in names only become the same, and says how."
    return refine_method + _method(comment, "Order canonicalise(State& s)", body)


def _twins(g: ExplorerGenerator) -> str:
    """Individuals that can change places without changing the state: proposals to one stand for those to the other."""
    sorts = list(g.spec.sorts.values())
    lines = [
        "// For each individual, those before it with which it can change places and the state stays the same (bits).",
        "struct Twins {",
        *(f"  std::array<std::uint8_t, {g.size[s.name]}> {s.letter}{{}};" for s in sorts),
        "};",
    ]
    for sort in sorts:
        tests = [_same_swapped(g, v, sort.name) for v in g.spec.variables.values() if sort in v.sorts]
        tests.sort(key=lambda test: test.count("for ("))
        body = ["(void)s;", *tests, "return true;"]
        comment = "Whether i and j can change places."
        lines.append(_method(comment, f"bool twins_{sort.letter}(const State& s, int i, int j)", body))
    fill = []
    for sort in sorts:
        of = f"of.{sort.letter}"
        # Who can change places with the first of others can do so with each of them.
        same = f"{of}[j] != 0 ? ({of}[i] & {of}[j]) != 0 : twins_{sort.letter}(s, i, j)"
        fill.append(
            f"for (int i = 1; i < {g.size[sort.name]}; ++i) {{\n  for (int j = 0; j < i; ++j) {{\n"
            f"    const bool same = {same};\n"
            f"    {of}[i] |= static_cast<std::uint8_t>(same << j);\n  }}\n}}"
        )
    lines.append(_method("All of them.", "Twins twins(const State& s)", ["Twins of;", *fill, "return of;"]))
    return "\n".join(lines)


def _same_swapped(g: ExplorerGenerator, v: Variable, sort: str) -> str:
    places = [n for n, s in enumerate(v.sorts) if s.name == sort]
    parameters = tuple(Parameter(f"i{n}", s.name) for n, s in enumerate(v.sorts))
    if len(places) == 1:
        others = tuple(p for n, p in enumerate(parameters) if n not in places)
        at = ["".join(f"[{who}]" if n in places else f"[i{n}]" for n in range(len(v.sorts))) for who in "ij"]
    else:
        others = parameters
        swap = "(i{0} == i ? j : i{0} == j ? i : i{0})"
        at = [
            "".join(f"[i{n}]" for n in range(len(v.sorts))),
            "".join(f"[{swap.format(n) if n in places else f'i{n}'}]" for n in range(len(v.sorts))),
        ]
    return g.loops(others, f"if (s.{v.name}{at[0]} != s.{v.name}{at[1]}) return false;")


__all__ = ["symmetry_methods"]
