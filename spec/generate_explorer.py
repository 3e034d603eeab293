"""Generates the C++ model of small instances that the explorer searches: state, successors, properties, normal form."""

from __future__ import annotations

from textwrap import indent

from .cpp import camel, cpp_expression, effect_label, effect_labels, guard_labels, header, plain
from .expressions import TICK, Expr
from .language import Parameter, Spec, Transition, Variable

SEARCH_CONSTANTS = ("MAX_PROMPT", "MAX_OUTPUT")


class ExplorerGenerator:
    """Writes `model.h` for one specification."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.size = {s.name: f"N{s.letter.upper()}" for s in spec.sorts.values()}

    def _read(self, variable: Variable, index: list[str], state: str = "pre") -> str:
        value = f"{state}.{variable.name}{''.join(f'[{i}]' for i in index)}"
        return f"{variable.type}({value})" if variable.type in self.spec.enums else value

    def _read_next(self, variable: Variable, index: list[str]) -> str:
        return self._read(variable, index, "post")

    def _expression(self, e: Expr, parameters: tuple[Parameter, ...]) -> str:
        constants = {c: f"k.{c.lower()}" for c in (*self.spec.constants, *SEARCH_CONSTANTS)}
        return plain(cpp_expression(e, {p.name: p.name for p in parameters} | constants, self._read, self._read_next))

    def _loops(self, parameters: tuple[Parameter, ...], body: str, transition: str = "") -> str:
        """Nested loops over individuals, and over the ranges of integers."""
        for p in reversed(parameters):
            low, high = "0", f"{self.size[p.type]} - 1" if p.type in self.size else ""
            if p.type not in self.size:
                low, high = (self._expression(x, parameters) for x in self.spec.ranges[transition, p.name])
            body = f"for (int {p.name} = {low}; {p.name} <= {high}; ++{p.name}) {{\n{indent(body, '  ')}\n}}"
        return body

    def model_h(self) -> str:
        """The header with the model."""
        spec = self.spec
        out = [header(spec, "Small instances of the specification, for exhaustive search."), "#pragma once\n"]
        out.append(
            "#include <algorithm>\n#include <array>\n#include <cstdint>\n#include <cstring>\n#include <stdexcept>\n"
            "#include <string>\n#include <string_view>\n"
        )
        out.append("namespace tokenspeed::explorer {\n")
        for enum in spec.enums.values():
            out.append(f"enum class {enum.name} : std::int8_t {{ {', '.join(map(camel, enum.values))} }};")
        out.append(f"enum class Transition : std::int8_t {{ {', '.join(spec.transitions)} }};\n")
        out.append(f'inline constexpr std::string_view kSpecHash = "{spec.digest()}";\n')
        out += self._name_tables()
        out.append("// The constants of an instance, and what is switched off or checked.\nstruct Instance {")
        out += [f"  int {c.lower()} = 1;" for c in (*spec.constants, *SEARCH_CONSTANTS)]
        out.append("  std::array<bool, kGuards.size()> dropped{};\n  std::array<bool, kEffects.size()> omitted{};\n")
        out.append("  std::array<bool, kTransitions.size()> disabled{};")
        out.append("  std::array<bool, kInvariants.size()> checked = kIsProperty;\n")
        out.append("  // Throws std::invalid_argument for a constant that there is not.")
        out.append("  void set(std::string_view name, int value) {")
        for c in (*spec.constants, *SEARCH_CONSTANTS):
            out.append(f'    if (name == "{c}") {{\n      {c.lower()} = value;\n      return;\n    }}')
        out.append('    throw std::invalid_argument("no constant is called " + std::string(name));\n  }\n};\n')
        sizes = ", ".join(f"int {n}" for n in self.size.values())
        out.append(f"template <{sizes}>\nstruct Model {{\n  struct State {{")
        for v in spec.variables.values():
            dimensions = "".join(f"[{self.size[s.name]}]" for s in v.sorts)
            out.append(f"    std::int8_t {v.name}{dimensions};")
        out.append("  };\n")
        out.append(indent(self._initial(), "  "))
        out.append(indent(self._successors(), "  "))
        out.append(indent(self._properties("invariant", action=False), "  "))
        out.append(indent(self._properties("action", action=True), "  "))
        out.append(indent(self._normalise(), "  "))
        out.append("};\n\n}  // namespace tokenspeed::explorer")
        return "\n".join(out) + "\n"

    def _name_tables(self) -> list[str]:
        spec = self.spec
        tables = {
            "kTransitions": list(spec.transitions),
            "kGuards": guard_labels(spec),
            "kEffects": effect_labels(spec),
            "kInvariants": [p.name for p in spec.invariants()] + [f"count {c}" for c in spec.counts],
            "kActions": [p.name for p in spec.properties.values() if p.kind == "action"],
        }
        out = []
        for name, values in tables.items():
            quoted = ",\n    ".join(f'"{v}"' for v in values)
            out.append(f"inline constexpr std::array<std::string_view, {len(values)}> {name} = {{\n    {quoted}}};\n")
        named = ", ".join(str(p.kind == "property").lower() for p in spec.invariants())
        counts = ", ".join("false" for _ in spec.counts)
        out.append("// Whether the invariant is a property that users rely on (not a lemma or a counter).")
        out.append(f"inline constexpr std::array<bool, kInvariants.size()> kIsProperty = {{{named}, {counts}}};\n")
        return out

    def _initial(self) -> str:
        sets = [
            f"s.{v.name} = static_cast<std::int8_t>({self._expression(v.init, ())});"
            for v in self.spec.variables.values()
            if v.init.op == "const"
        ]
        body = "\n".join(["State s;", "std::memset(&s, 0, sizeof s);", *sets, "return s;"])
        return f"static State initial(const Instance& k) {{\n{indent(body, '  ')}\n}}\n"

    def _successors(self) -> str:
        number = 0
        parts = []
        for t in self.spec.transitions.values():
            parts.append(self._transition(t, number))
            number += len(t.guards)
        body = indent("\n".join(parts), "  ")
        return (
            "// Calls found(next state, transition, arguments) for everything that may happen in state pre.\n"
            "template <class Found>\n"
            f"static void successors(const State& pre, const Instance& k, Found&& found) {{\n{body}\n}}\n"
        )

    def _transition(self, t: Transition, first_guard: int) -> str:
        """Guards are tested in the innermost loop in which all their parameters are bound."""
        lines = [
            f"if (!k.dropped[{first_guard + i}] && !({self._expression(g.condition, t.parameters)})) continue;"
            for i, g in enumerate(t.guards)
        ]
        lines.append("State post = pre;")
        labels = effect_labels(self.spec)
        for e in t.effects:
            omitted = labels.index(effect_label(t, e))
            names = (*t.parameters, *e.binders)
            index = "".join(f"[{self._expression(i, names)}]" for i in e.index)
            value = f"static_cast<std::int8_t>({self._expression(e.value, names)})"
            write = self._loops(e.binders, f"post.{e.variable.name}{index} = {value};")
            lines.append(f"if (!k.omitted[{omitted}]) {{\n{indent(write, '  ')}\n}}")
        arguments = [self._argument(t, p) for p in t.parameters] + ["0"] * (4 - len(t.parameters))
        lines.append(f"found(post, Transition::{t.name}, std::array<int, 4>{{{', '.join(arguments)}}});")
        return self._loops(t.parameters, "\n".join(lines), t.name)

    def _argument(self, t: Transition, p: Parameter) -> str:
        """An individual's number, or an integer's distance from the start of its range (which normalising keeps)."""
        if p.type in self.size:
            return p.name
        return f"{p.name} - ({self._expression(self.spec.ranges[t.name, p.name][0], t.parameters)})"

    def _properties(self, name: str, action: bool) -> str:
        """A function that returns the number of the first false property, or -1."""
        lines = []
        chosen = [p for p in self.spec.properties.values() if (p.kind == "action") == action]
        for i, p in enumerate(chosen):
            test = f"if (!({self._expression(p.formula, p.parameters)})) return {i};"
            if p.given is not None:
                every, fact = p.given
                falsified = f"if (!({self._expression(fact, (*p.parameters, every))})) given = false;"
                test = f"bool given = true;\n{self._loops((every,), falsified)}\nif (given) {{\n{indent(test, '  ')}\n}}"
            block = self._loops(p.parameters, test)
            lines.append(block if action else f"if (all || k.checked[{i}]) {{\n{indent(block, '  ')}\n}}")
        if not action:
            lines += [self._recount(i + len(chosen), c) for i, c in enumerate(self.spec.counts)]
        body = indent("\n".join([*lines, "return -1;"]), "  ")
        if action:
            states = "const State& pre, const State& post, Transition taken, const Instance& k"
            return f"static int false_{name}({states}) {{\n  (void)k;\n{body}\n}}\n"
        return f"static int false_{name}(const State& pre, const Instance& k, bool all) {{\n{body}\n}}\n"

    def _recount(self, number: int, counter: str) -> str:
        count = self.spec.counts[counter]
        parameters = (*count.index, count.over)
        weight = "1" if count.weight is None else self._expression(count.weight, parameters)
        inner = self._loops((count.over,), f"if ({self._expression(count.condition, parameters)}) total += {weight};")
        kept = self._read(count.variable, [i.name for i in count.index])
        body = f"int total = 0;\n{inner}\nif (total != {kept}) return {number};"
        return f"if (all || k.checked[{number}]) {{\n{indent(self._loops(count.index, body), '  ')}\n}}"

    def _normalise(self) -> str:
        """Shift ticks so that the origin is 0, and replace numbers of which only the order matters by their ranks."""
        spec = self.spec
        lines = []
        if spec.tick_origin is not None:
            lines.append(f"const int origin = s.{spec.tick_origin.name};")
            for v in spec.variables.values():
                if v.type == TICK and v is not spec.tick_origin:
                    lines.append(self._each(v, "{0} = static_cast<std::int8_t>(std::max(0, {0} - origin));"))
            lines.append(f"s.{spec.tick_origin.name} = 0;")
        if spec.order_only:
            capacity = " + ".join(" * ".join([self.size[x.name] for x in v.sorts] or ["1"]) for v in spec.order_only)
            lines.append(f"std::array<std::int8_t, {capacity}> values{{}};\nstd::size_t n = 0;")
            lines += [self._each(v, "values[n++] = {0};") for v in spec.order_only]
            lines.append("std::sort(values.begin(), values.end());")
            lines.append("const auto last = std::unique(values.begin(), values.end());")
            lines.append("const int zero = values[0] == 0 ? 0 : 1;")
            rank = (
                "{0} = static_cast<std::int8_t>(zero + (std::lower_bound(values.begin(), last, {0}) - values.begin()));"
            )
            lines += [self._each(v, rank) for v in spec.order_only]
        return (
            "// States that behave alike get the same normal form.\nstatic void normalise(State& s) {\n"
            + indent("\n".join(lines), "  ")
            + "\n}"
        )

    def _each(self, v: Variable, statement: str) -> str:
        parameters = tuple(Parameter(f"i{n}", s.name) for n, s in enumerate(v.sorts))
        place = f"s.{v.name}{''.join(f'[{p.name}]' for p in parameters)}"
        return self._loops(parameters, statement.format(place))


__all__ = ["ExplorerGenerator"]
