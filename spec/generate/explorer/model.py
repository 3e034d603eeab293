"""Generates the C++ model of small instances that the explorer searches: state, successors, properties, normal form."""

from __future__ import annotations

from textwrap import indent

from ...language.expressions import BOOL, Expr, parameters_read
from ...language.labels import effect_label, effect_labels, guard_labels
from ...language.printing import ATOM, CPP_INLINED, Printer, camel
from ...language.progress import Progress
from ...language.spec import Parameter, Spec, Transition, Variable
from ...search.instances import COMPILED, SEARCH_CONSTANTS
from ...search.state_order import shared_order, state_order
from ..cpp import header
from .lockstep import lockstep_methods, named_table
from .symmetry import symmetry_methods

NOBODY = """// Loops over nobody are never entered; the compiler warns of their bodies all the same.
#pragma GCC diagnostic ignored "-Warray-bounds"
#pragma GCC diagnostic ignored "-Wstringop-overflow"
"""


class ExplorerGenerator:
    """Writes `model.h` for one specification.

    `claims`: also search for what only proofs look at otherwise: counters and progress claims count as properties, and
    a transition that changes nothing is a violation.
    """

    def __init__(self, spec: Spec, claims: bool = False) -> None:
        self.spec, self.claims = spec, claims
        self.arguments = max(len(t.parameters) for t in spec.transitions.values())
        self.size = {s.name: f"N{s.letter.upper()}" for s in spec.sorts.values()}

    def _read(self, variable: Variable, index: list[str], state: str = "pre") -> str:
        value = f"{state}.{variable.name}{''.join(f'[{i}]' for i in index)}"
        return f"{variable.type}({value})" if variable.type in self.spec.enums else value

    def _name(self, e: Expr) -> str:
        return str(e.args[0]) if e.op == "param" else f"k.{e.args[0].lower()}"

    def expression(self, e: Expr) -> str:
        """The expression as C++ over `pre` (and `post`), the instance `k` and the parameters."""
        after = Printer(CPP_INLINED, self._name, lambda v, index: self._read(v, index, "post"))
        taken = "(taken == Transition::{})".format
        return Printer(CPP_INLINED, self._name, self._read, lambda e: after.text(e, ATOM), taken).text(e)

    def loops(
        self, parameters: tuple[Parameter, ...], body: str, transition: str = "", beyond: str = "", below: str = ""
    ) -> str:
        """Nested loops over individuals, and over the ranges of integers and `below` and `beyond` more."""
        for p in reversed(parameters):
            low, high = "0", f"{self.size[p.type]} - 1" if p.type in self.size else ""
            if p.type not in self.size:
                low, high = (self.expression(x) for x in self.spec.ranges[transition, p.name])
            more = f" + {beyond}" if beyond and p.type not in self.size else ""
            low += f" - {below}" if below and p.type not in self.size else ""
            body = f"for (int {p.name} = {low}; {p.name} <= {high}{more}; ++{p.name}) {{\n{indent(body, '  ')}\n}}"
        return body

    def model_h(self) -> str:
        """The header with the model."""
        spec = self.spec
        out = [header(spec, "Small instances of the specification, for exhaustive search."), "#pragma once\n"]
        out.append(
            "#include <algorithm>\n#include <array>\n#include <cstdint>\n#include <cstring>\n#include <stdexcept>\n"
            '#include <string>\n#include <string_view>\n#include <vector>\n\n#include "../model_parts.h"\n'
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
        out.append("  std::array<bool, kInvariants.size()> checked = kIsProperty;  // of single states")
        out.append(
            "  std::array<bool, kActions.size()> kept;  // of successive states\n\n  Instance() { kept.fill(true); }\n"
        )
        out.append("  // Throws std::invalid_argument for a constant that there is not.")
        out.append("  void set(std::string_view name, int value) {")
        for c in (*spec.constants, *SEARCH_CONSTANTS):
            out.append(f'    if (name == "{c}") {{\n      {c.lower()} = value;\n      return;\n    }}')
        out.append('    throw std::invalid_argument("no constant is called " + std::string(name));\n  }\n')
        names = ", ".join(c.lower() for c in spec.constants)
        out.append("  // Those of the specification, in its order.")
        array = f"std::array<std::int64_t, {len(spec.constants)}>"
        out.append(f"  {array} spec_constants() const {{\n    return {{{names}}};\n  }}\n}};\n")
        out.append(f"// Arguments of a transition, at most.\ninline constexpr int kArguments = {self.arguments};")
        out.append("using Arguments = std::array<std::int8_t, kArguments>;")
        out.append(
            "// The answer to an argument that names nobody.\ninline constexpr int kBadIndex = kGuards.size() + 1;\n"
        )
        out.append(named_table(self))
        sizes = ", ".join(f"int {n}" for n in self.size.values())
        out.append(f"template <{sizes}>\nstruct Model {{")
        out.append(indent(self._state(), "  "))
        out.append(indent(self._initial(), "  "))
        out.append(indent(self._successors(), "  "))
        out.append(indent(self._properties("invariant", action=False), "  "))
        out.append(indent(self._properties("action", action=True), "  "))
        out.append(indent(symmetry_methods(self), "  "))
        out.append(indent(lockstep_methods(self), "  "))
        out.append("};\n\n}  // namespace tokenspeed::explorer")
        return "\n".join(out) + "\n"

    def _state(self) -> str:
        """The state, and where its relations start: what is left of them are numbers, behind them are numbers."""
        order = state_order(self.spec)
        flags = [self.cells(v) for v in order if v.type == BOOL]
        first = [self.cells(v) for v in order[: next(i for i, v in enumerate(order) if v.type == BOOL)]]
        lines = ["struct State {"]
        for v in order:
            dimensions = "".join(f"[{self.size[s.name]}]" for s in v.sorts)
            lines.append(f"  std::int8_t {v.name}{dimensions};")
        shared = " + ".join(self.cells(v) for v in shared_order(self.spec))
        lines += [
            "};",
            f"static constexpr std::array<int, {len(self.size)}> kPopulation = {{{', '.join(self.size.values())}}};",
        ]
        lines.append("// Bytes that the scheduler has too, bytes in front of the relations, bytes of the relations.")
        lines.append(f"static constexpr std::size_t kShared = {shared};")
        lines.append(f"static constexpr std::size_t kFlagsAt = {' + '.join(first)};")
        lines.append(f"static constexpr std::size_t kFlags = {' + '.join(flags)};\n")
        return "\n".join(lines)

    def cells(self, v: Variable) -> str:
        """How many values the variable has, as C++."""
        return " * ".join([self.size[s.name] for s in v.sorts] or ["1"])

    def _name_tables(self) -> list[str]:
        spec = self.spec
        tables = {
            "kSorts": list(spec.sorts),
            "kTransitions": list(spec.transitions),
            "kGuards": guard_labels(spec),
            "kEffects": effect_labels(spec),
            "kInvariants": [
                *(p.name for p in spec.invariants()),
                *(f"count {c}" for c in spec.counts),
                *(spec.progress if self.claims else ()),
            ],
            "kActions": [
                *(p.name for p in spec.properties.values() if p.kind == "action"),
                *(["no idle transition"] if self.claims else []),
            ],
        }
        out = []
        for name, values in tables.items():
            quoted = ",\n    ".join(f'"{v}"' for v in values)
            out.append(f"inline constexpr std::array<std::string_view, {len(values)}> {name} = {{\n    {quoted}}};\n")
        named = ", ".join(str(p.kind == "property").lower() for p in spec.invariants())
        also = len(spec.counts) + (len(spec.progress) if self.claims else 0)
        counts = ", ".join(str(self.claims).lower() for _ in range(also))
        out.append("// Whether the invariant is a property that users rely on (not a lemma or a counter).")
        out.append(f"inline constexpr std::array<bool, kInvariants.size()> kIsProperty = {{{named}, {counts}}};\n")
        return out

    def _initial(self) -> str:
        sets = [
            f"s.{v.name} = static_cast<std::int8_t>({self.expression(v.init)});"
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
        """Guards are tested in the outermost loop in which all their parameters are bound."""
        place = {p.name: depth for depth, p in enumerate(t.parameters, start=1)}
        tests: dict[int, list[str]] = {}
        for i, g in enumerate(t.guards):
            test = f"if (!k.dropped[{first_guard + i}] && !({self.expression(g.condition)})) continue;"
            tests.setdefault(max((place[p] for p in parameters_read(g.condition)), default=1), []).append(test)
        arguments = ", ".join(f"static_cast<std::int8_t>({self._argument(t, p)})" for p in t.parameters)
        found = f"found(post, Transition::{t.name}, Arguments{{{arguments}}});"
        body = "\n".join(["State post = pre;", self.effects(t, switches=True), found])
        for depth in range(len(t.parameters), 0, -1):
            body = self.loops((t.parameters[depth - 1],), "\n".join([*tests.get(depth, []), body]), t.name)
        return body

    def effects(self, t: Transition, switches: bool) -> str:
        """Writes to `post`; with switches, the instance can leave some out."""
        labels = effect_labels(self.spec)
        lines = []
        for e in t.effects:
            index = "".join(f"[{self.expression(i)}]" for i in e.index)
            value = f"static_cast<std::int8_t>({self.expression(e.value)})"
            write = self.loops(e.binders, f"post.{e.variable.name}{index} = {value};")
            switch = f"if (!k.omitted[{labels.index(effect_label(t, e))}]) " if switches else ""
            lines.append(f"{switch}{{\n{indent(write, '  ')}\n}}" if switches and e.binders else switch + write)
        return "\n".join(lines)

    def _argument(self, t: Transition, p: Parameter) -> str:
        """An individual's number, or an integer's distance from the start of its range (which normalising keeps)."""
        if p.type in self.size:
            return p.name
        return f"{p.name} - ({self.expression(self.spec.ranges[t.name, p.name][0])})"

    def _properties(self, name: str, action: bool) -> str:
        """A function that returns the number of the first false property, or -1."""
        lines = []
        chosen = [p for p in self.spec.properties.values() if (p.kind == "action") == action]
        for i, p in enumerate(chosen):
            test = f"if (!({self.expression(p.formula)})) return {i};"
            if p.given is not None:
                every, fact = p.given
                falsified = f"if (!({self.expression(fact)})) given = false;"
                test = f"bool given = true;\n{self.loops((every,), falsified)}\nif (given) {{\n{indent(test, '  ')}\n}}"
            block = self.loops(p.parameters, test)
            condition = f"k.kept[{i}]" if action else f"all || k.checked[{i}]"
            lines.append(f"if ({condition}) {{\n{indent(block, '  ')}\n}}")
        if not action:
            lines += [self._recount(i + len(chosen), c) for i, c in enumerate(self.spec.counts)]
            first = len(chosen) + len(self.spec.counts)
            claims = self.spec.progress.values() if self.claims else ()
            lines += [self._claim(i, c) for i, c in enumerate(claims, start=first)]
        elif self.claims:
            lines.append(
                f"if (k.kept[{len(chosen)}] && std::memcmp(&pre, &post, sizeof pre) == 0) return {len(chosen)};"
            )
        body = indent("\n".join([*lines, "return -1;"]), "  ")
        if action:
            states = "const State& pre, const State& post, Transition taken, const Instance& k"
            return f"static int false_{name}({states}) {{\n  (void)k;\n{body}\n}}\n"
        return f"static int false_{name}(const State& pre, const Instance& k, bool all) {{\n{body}\n}}\n"

    def _claim(self, number: int, claim: Progress) -> str:
        """A situation in which, with witnesses as they may be assumed, no option may be taken, is a violation.

        Integers of the claim run from 0 to one more than the longest request.
        """
        possible = " || ".join(f"({self.expression(e)})" for e in claim.outcomes())
        assumed = [*claim.conditions, *(f for _, f in claim.witnesses)]
        when = " && ".join(f"({self.expression(e)})" for e in assumed) or "true"
        given = [self.loops((every,), f"if (!({self.expression(fact)})) given = false;") for every, fact in claim.given]
        violated = f"if (given && !({possible})) return {number};"
        test = "\n".join([f"if ({when}) {{", indent("\n".join(["bool given = true;", *given, violated]), "  "), "}"])
        body = self.loops(tuple(w for w, _ in claim.witnesses), test)
        for p in reversed(claim.parameters):
            high = f"{self.size[p.type]} - 1" if p.type in self.size else "k.max_prompt + k.max_output + 1"
            body = f"for (int {p.name} = 0; {p.name} <= {high}; ++{p.name}) {{\n{indent(body, '  ')}\n}}"
        return f"if (all || k.checked[{number}]) {{\n{indent(body, '  ')}\n}}"

    def _recount(self, number: int, counter: str) -> str:
        count = self.spec.counts[counter]
        weight = "1" if count.weight is None else self.expression(count.weight)
        inner = self.loops((count.over,), f"if ({self.expression(count.condition)}) total += {weight};")
        kept = self._read(count.variable, [i.name for i in count.index])
        body = f"int total = 0;\n{inner}\nif (total != {kept}) return {number};"
        return f"if (all || k.checked[{number}]) {{\n{indent(self.loops(count.index, body), '  ')}\n}}"

    def files(self) -> dict[str, str]:
        """File name -> content: the model, a table of the sizes that are compiled, and one file for each of them."""
        models = {"_".join(str(n) for _, n in p): ", ".join(str(n) for _, n in p) for p in COMPILED}
        declared = [f"extern template std::unique_ptr<Engine> make_engine<Model<{m}>>();" for m in models.values()]
        table = [f"    {{{{{m}}}, make_engine<Model<{m}>>}}," for m in models.values()]
        includes = '#include "../search.h"\n\nnamespace tokenspeed::explorer {\n'
        sizes = [
            header(self.spec, "The sizes of instances that are compiled."), "#pragma once\n", includes, *declared,
            f"\ninline const std::array<CompiledSize, {len(models)}> kCompiledSizes = {{{{", *table, "}};",
            "\n}  // namespace tokenspeed::explorer\n",
        ]  # fmt: skip
        files = {"model.h": self.model_h(), "sizes.h": "\n".join(sizes)}
        for name, model in models.items():
            what = header(self.spec, f"Instances of {self._population(model)}.")
            made = f"template std::unique_ptr<Engine> make_engine<Model<{model}>>();\n"
            quiet = NOBODY if " 0" in model else ""
            files[f"size_{name}.cpp"] = f"{what}{quiet}{includes}\n{made}\n}}  // namespace tokenspeed::explorer\n"
        return files

    def _population(self, model: str) -> str:
        return ", ".join(f"{n} {sort}" for n, sort in zip(model.split(", "), self.spec.sorts, strict=True))


__all__ = ["ExplorerGenerator"]
