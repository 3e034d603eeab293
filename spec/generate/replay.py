"""Generates the C++ that `verify trace` replays traces with: guards and effects over any number of individuals.

It shares nothing with the scheduler's generator but the specification: values are plain 64-bit integers (states by
their position, truth as 0 and 1), and relations are hash tables. Ghost variables that some transition writes for all
individuals at once are left out (a replay takes constant time for each event), and with them whatever depends on them;
guards over those are listed as unchecked.
"""

from __future__ import annotations

from textwrap import indent

from ..language.expressions import BOOL, Expr, SpecError, inlined, variables_read
from ..language.labels import guard_labels
from ..language.printing import CPP_NUMBERS, Printer
from ..language.spec import Count, Parameter, Spec, Transition, Variable
from .cpp import header
from .scheduler.header import MAX_ARGUMENTS


class ReplayGenerator:
    """Writes `monitor.h` for one specification."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.sorts = list(spec.sorts)
        self.kept = self._kept()
        self.variables = [v for v in spec.variables.values() if v.name in self.kept]
        self.cpp = Printer(CPP_NUMBERS, self._name, lambda v, index: f"{v.name}.get({', '.join(index)})")

    def _kept(self) -> set[str]:
        """Variables that can be followed in constant time."""
        effects = [e for t in self.spec.transitions.values() for e in t.effects]
        dropped = {e.variable.name for e in effects if e.binders}
        while True:
            more = {e.variable.name for e in effects if variables_read(e.value) & dropped} - dropped
            if not more:
                break
            dropped |= more
        for name in dropped:
            if not self.spec.variables[name].ghost:
                raise SpecError(f"{name} is concrete but depends on ghosts that a replay leaves out: {sorted(dropped)}")
        return set(self.spec.variables) - dropped

    def _followed(self, e: Expr) -> bool:
        return variables_read(e) <= self.kept

    def _name(self, e: Expr) -> str:
        return str(e.args[0]) if e.op == "param" else f"constants[{list(self.spec.constants).index(e.args[0])}]"

    def monitor_h(self) -> str:
        """The header."""
        spec = self.spec
        out = [header(spec, "Follows any behaviour: guards, effects and counters, in constant time for each event.")]
        out.append("#pragma once\n\n#include <array>\n#include <cstdint>\n#include <string_view>\n#include <vector>\n")
        out.append('#include "../columns.h"\n\nnamespace tokenspeed::replay {\n')
        unchecked = [f"{t.name}:{g.name}" for t in spec.transitions.values() for g in t.guards
                     if not self._followed(g.condition)]  # fmt: skip
        tables = {
            "kSorts": self.sorts, "kConstants": list(spec.constants), "kTransitions": list(spec.transitions),
            "kVariables": [v.name for v in self.variables], "kGuards": ["", *guard_labels(spec)],
            "kUnchecked": unchecked, "kCounts": [c.variable.name for c in self._counts()],
        }  # fmt: skip
        out.append(f'inline constexpr std::string_view kSpec = "{spec.digest()}";')
        for name, values in tables.items():
            quoted = ", ".join(f'"{v}"' for v in values)
            out.append(f"inline constexpr std::array<std::string_view, {len(values)}> {name} = {{{quoted}}};")
        concrete = ", ".join(str(int(not v.ghost)) for v in self.variables)
        out.append(f"inline constexpr std::array<bool, kVariables.size()> kConcrete = {{{concrete}}};")
        out.append("// For each parameter of each transition: its sort, or -1 for an integer, or -2 for none.")
        rows = [f"{{{', '.join(self._parameter_sorts(t))}}}" for t in spec.transitions.values()]
        out.append(f"using Parameters = std::array<int, {MAX_ARGUMENTS}>;")
        out.append(f"inline constexpr Parameters kParameters[kTransitions.size()] = {{{', '.join(rows)}}};\n")
        out.append("struct Monitor {")
        body = [
            "std::array<std::int64_t, kConstants.size()> constants{};",
            "std::array<std::int64_t, kSorts.size()> population{};",
        ]
        body += [f"{self._column(v)} {v.name};" for v in self.variables]
        body += [self._grow(), self._start(), self._take(), self._visit(), self._recount()]
        out.append(indent("\n".join(body), "  "))
        out.append("};\n\n}  // namespace tokenspeed::replay")
        return "\n".join(out) + "\n"

    def _parameter_sorts(self, t: Transition) -> list[str]:
        if len(t.parameters) > MAX_ARGUMENTS:
            raise SpecError(f"{t.name} has {len(t.parameters)} parameters; a trace record has room for {MAX_ARGUMENTS}")
        numbers = [str(self.sorts.index(p.type)) if p.type in self.sorts else "-1" for p in t.parameters]
        return numbers + ["-2"] * (MAX_ARGUMENTS - len(numbers))

    def _column(self, v: Variable) -> str:
        return ("Scalar", "Column")[len(v.sorts)] if len(v.sorts) < 2 else f"Relation<{len(v.sorts)}>"

    def _grow(self) -> str:
        lines = []
        for number, sort in enumerate(self.sorts):
            columns = [v for v in self.variables if [s.name for s in v.sorts] == [sort]]
            grown = " ".join(f"{v.name}.grow(count);" for v in columns)
            lines.append(f"if (sort == {number}) {{ {grown} }}")
        return (
            "// The sort has this many individuals from now on; new ones are in their initial state.\n"
            "void grow(std::size_t sort, std::int64_t count) {\n  population[sort] = count;\n"
            + indent("\n".join(lines), "  ") + "\n}"
        )  # fmt: skip

    def _start(self) -> str:
        starts = [f"{v.name}.initial = {self.cpp.text(v.init)};" for v in self.variables]
        scalars = [f"{v.name}.value = {v.name}.initial;" for v in self.variables if not v.sorts]
        return (
            "// Call once, when the constants are known and before any individual is.\nvoid start() {\n"
            + indent("\n".join([*starts, *scalars]), "  ") + "\n}"
        )  # fmt: skip

    def _take(self) -> str:
        cases = []
        first = 1
        for number, t in enumerate(self.spec.transitions.values()):
            cases.append(self._case(t, number, first))
            first += len(t.guards)
        return (
            "// Takes a transition whose individuals exist. Returns 0, or the number of the first false guard; then\n"
            "// nothing has changed. `log(variable, index, before, after)` is called for every write.\n"
            "template <class Log>\nint take(std::size_t transition, const std::int64_t* a, Log&& log) {\n"
            "  switch (transition) {\n" + indent("\n".join(cases), "    ") + "\n  }\n  return 0;\n}"
        )

    def _case(self, t: Transition, number: int, first_guard: int) -> str:
        used = [e for g in t.guards if self._followed(g.condition) for e in [g.condition]]
        effects = [e for e in t.effects if e.variable.name in self.kept]
        used += [x for e in effects for x in (*e.index, e.value)]
        lines = [f"const std::int64_t {p.name} = a[{i}];" for i, p in enumerate(t.parameters)]
        lines = [line for line, p in zip(lines, t.parameters, strict=True) if any(_mentions(e, p) for e in used)]
        for i, g in enumerate(t.guards):
            if self._followed(g.condition):
                lines.append(f"if ({self.cpp.refuted(g.condition)}) return {first_guard + i};")
        lines += [f"const std::int64_t new{i} = {self.cpp.text(e.value)};" for i, e in enumerate(effects)]
        for i, e in enumerate(effects):
            index = ", ".join(self.cpp.text(x) for x in e.index)
            place = f"{e.variable.name}.get({index})"
            column = self.variables.index(e.variable)
            lines.append(f"log({column}, Index{{{index}}}, {place}, new{i});")
            lines.append(f"{e.variable.name}.set({', '.join(filter(None, [index, f'new{i}']))});")
        body = indent("\n".join([*lines, "return 0;"]), "  ")
        return f"case {number}: {{  // {t.name}\n{body}\n}}"

    def _visit(self) -> str:
        calls = "\n".join(f"{v.name}.visit([&](const Index& i, std::int64_t x) {{ see({n}, i, x); }});"
                          for n, v in enumerate(self.variables))  # fmt: skip
        return (
            "// Calls see(variable, index, value) for every value that is not 0.\n"
            f"template <class See>\nvoid visit(See&& see) const {{\n{indent(calls, '  ')}\n}}"
        )

    # Counters are recounted from what they count, which no guard does.

    def _counts(self) -> list[Count]:
        return [c for c in self.spec.counts.values() if self._pairs(c) is not None]

    def _pairs(self, c: Count) -> Variable | str | None:
        """The relation whose members alone can be counted; "" if all individuals are gone through; None: too many."""
        weight = set() if c.weight is None else variables_read(c.weight)
        needed = {c.variable.name} | variables_read(c.condition) | weight
        if not needed <= self.kept:
            return None
        if not c.index:
            return ""
        names = {c.over.name, *(i.name for i in c.index)}
        for part in _conjuncts(inlined(c.condition)):
            if part.op == "read" and part.type == BOOL and {i.args[0] for i in part.args[1:]} == names:
                relation: Variable = part.args[0]
                return relation
        return None

    def _recount(self) -> str:
        blocks = []
        for number, c in enumerate(self._counts()):
            weight = "1" if c.weight is None else self.cpp.text(c.weight)
            add = f"if ({self.cpp.text(c.condition)}) "
            pairs = self._pairs(c)
            if isinstance(pairs, Variable):
                read = next(p for p in _conjuncts(inlined(c.condition)) if p.op == "read" and p.args[0] is pairs)
                names = [f"const std::int64_t {x.args[0]} = i[{n}];" for n, x in enumerate(read.args[1:])
                         if _used(c, str(x.args[0]))]  # fmt: skip
                index = ", ".join(p.name for p in c.index)
                total = f"totals.add({index}, {weight});"
                see = f"{' '.join(names)}\n{add}{total}"
                loop = f"{pairs.name}.visit([&](const Index& i, std::int64_t) {{\n{indent(see, '  ')}\n}});"
                blocks.append(
                    f"{{\n  Totals<{len(c.index)}> totals;\n{indent(loop, '  ')}\n"
                    f"  if (!totals.same({c.variable.name})) return {number};\n}}"
                )
            else:
                sort = self.sorts.index(c.over.type)
                loop = f"for (std::int64_t {c.over.name} = 0; {c.over.name} < population[{sort}]; ++{c.over.name})"
                blocks.append(
                    f"{{\n  std::int64_t total = 0;\n  {loop} {{\n    {add}total += {weight};\n  }}\n"
                    f"  if (total != {c.variable.name}.get()) return {number};\n}}"
                )
        return (
            "// Recounts counters from what they count; returns the number of the first that is wrong, or -1.\n"
            "int wrong_count() const {\n" + indent("\n".join([*blocks, "return -1;"]), "  ") + "\n}"
        )


def _mentions(e: Expr, p: Parameter) -> bool:
    if e.op == "param":
        return bool(e.args[0] == p.name)
    return any(_mentions(x, p) for x in e.args if isinstance(x, Expr))


def _used(c: Count, name: str) -> bool:
    parameter = Parameter(name, "")
    wanted = [c.condition, *([c.weight] if c.weight is not None else []), *(i.expr for i in c.index)]
    return any(_mentions(e, parameter) for e in wanted)


def _conjuncts(e: Expr) -> list[Expr]:
    return [x for side in e.args for x in _conjuncts(side)] if e.op == "and" else [e]


__all__ = ["ReplayGenerator"]
