"""Generates the C++ class `Machine`: the state of the specification and one `apply_*` function for each transition.

`apply_*` functions are the only writers of the state. They check every guard (in release builds too), evaluate all
effects in the state before, write them, and return `Guard::none`, or the guard that refused and nothing has
changed. Ghost variables, guards over them and the recount of every property exist in the checked build only
(`TOKENSPEED_CHECKED`).
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import indent

from ...language.expressions import BOOL, Expr, SpecError, variables_read
from ...language.labels import guard_labels
from ...language.spec import Effect, Parameter, Spec, Transition, Variable
from ..cpp import camel, cpp_expression, guard_identifier, header, plain

RELATION_TABLES = {"holds": "position"}
"""Concrete relations kept in a table of their own class: relation -> the block variable that says where to look."""

GROWING = "Request"
"""The sort whose records are added one by one."""


class SchedulerGenerator:
    """Writes `machine.h`, `machine.cpp` and `machine_check.cpp` for one specification."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.sorts = [s.name for s in spec.sorts.values()]
        self.ids = {name: f"{name}Id" for name in self.sorts}

    # Types and places.

    def _cpp_type(self, type_: str) -> str:
        if type_ in self.spec.enums or type_ in self.ids:
            return self.ids.get(type_, type_)
        return "bool" if type_ == BOOL else "std::int64_t"

    def _groups(self, ghost: bool) -> dict[str, list[Variable]]:
        """Variables over the same sorts live in the same struct: Request, StepRequest, Globals."""
        found: dict[str, list[Variable]] = {}
        for v in self.spec.variables.values():
            if v.ghost == ghost and v.name not in RELATION_TABLES:
                sorts = v.sorts[:1] if v.one else v.sorts
                found.setdefault("".join(s.name for s in sorts) or "Globals", []).append(v)
        return found

    def _is_relation(self, variable: Variable) -> bool:
        """Kept in another form than one value for each tuple of individuals."""
        return variable.one or variable.name in RELATION_TABLES

    def place(self, variable: Variable, index: list[str]) -> str:
        """The lvalue of a concrete field."""
        sorts = [s.name for s in variable.sorts[: len(index)]]
        if not sorts:
            return f"globals_.{variable.name}"
        field = "".join(s.lower() + "_" for s in sorts)
        return f"{field}{''.join(f'[{at}]' for at in index)}.{variable.name}"

    def read(self, variable: Variable, index: list[str]) -> str:
        """The variable's value as C++."""
        if variable.name in RELATION_TABLES:
            return f"{variable.name}({', '.join(index)})"
        if variable.one:
            return f"({self.place(variable, index[:1])} == {index[1]})"
        if variable.ghost:
            return f"ghost_.{variable.name}.get({{{', '.join(index)}}})"
        return self.place(variable, index)

    def _names(self, parameters: tuple[Parameter, ...] = ()) -> dict[str, str]:
        return {p.name: p.name for p in parameters} | {c: f"limits_.{c.lower()}" for c in self.spec.constants}

    def _expression(self, e: Expr, parameters: tuple[Parameter, ...] = ()) -> str:
        return cpp_expression(e, self._names(parameters), self.read)

    def _is_ghost(self, e: Expr) -> bool:
        return any(self.spec.variables[v].ghost for v in variables_read(e))

    def _signature(self, t: Transition) -> str:
        return ", ".join(f"{self._cpp_type(p.type)} {p.name}" for p in t.parameters)

    # machine.h

    def _machine_h(self) -> str:
        spec = self.spec
        out = [header(spec, "The state and the transitions of requests, KV blocks and steps."), "#pragma once\n"]
        out.append("#include <array>\n#include <cstdint>\n#include <string_view>\n#include <vector>\n")
        ours = ("block_tables", "ghost", "ids", "trace_buffer")
        out.append("\n".join(f'#include "scheduler/core/state/{name}.h"' for name in ours) + "\n")
        out.append("namespace tokenspeed {\n")
        out.append(f'inline constexpr std::string_view kSpecHash = "{spec.digest()}";\n')
        for enum in spec.enums.values():
            values = "\n".join(f"  {camel(v)},  // {enum.docs[v]}" for v in enum.values)
            out.append(f"enum class {enum.name} : std::uint8_t {{\n{values}\n}};\n")
        transitions = "\n".join(f"  {t.name}," for t in spec.transitions.values())
        out.append(f"enum class Transition : std::uint8_t {{\n{transitions}\n}};\n")
        out.append(f"inline constexpr std::size_t kTransitions = {len(spec.transitions)};\n")
        names = ", ".join(f'"{t}"' for t in spec.transitions)
        out.append(f"inline constexpr std::array<std::string_view, kTransitions> kTransitionNames = {{{names}}};\n")
        guards = [f"  {guard_identifier(t, g.name)}," for t in spec.transitions.values() for g in t.guards]
        out.append("// Why a transition was refused: the first guard that is false.")
        out.append("enum class Guard : std::uint16_t {\n  none,\n" + "\n".join(guards) + "\n  bad_index,\n};\n")
        labels = ", ".join(f'"{x}"' for x in ["none", *guard_labels(spec), "index out of range"])
        out.append(f"inline constexpr std::array<std::string_view, {len(guards) + 2}> kGuardNames = {{{labels}}};\n")
        for name, variables in self._groups(ghost=False).items():
            out.append(f"struct {name}Fields {{")
            for v in variables:
                init = "0" if v.init.op == "const" else cpp_expression(v.init, {}, self.read)
                field = f"{self.ids[v.sorts[1].name]} {v.name} = kNone" if v.one else None
                out.append(f"  {field or f'{self._cpp_type(v.type)} {v.name} = {init}'};  // {v.doc}")
            out.append("};\n")
        out.append(self._limits())
        out.append(self._machine_class())
        out.append("}  // namespace tokenspeed")
        return "\n".join(out) + "\n"

    def _limits(self) -> str:
        """The constants of a machine, and how many records it has of sorts that no constant counts."""
        out = ["// The size of a machine. Requests are added one by one.", "struct Limits {"]
        for name, (_, low, doc) in self.spec.constants.items():
            out.append(f"  std::int64_t {name.lower()} = {low};  // {doc}")
        out += [f"  {self.ids[sort]} {sort.lower()}_records = 0;" for sort in self._recorded()]
        names = [c.lower() for c in self.spec.constants] + [f"{sort.lower()}_records" for sort in self._recorded()]
        out += ["", "  // Calls visit(name, value) for every field."]
        out.append("  template <class Visit>\n  void visit(Visit&& visit) const {")
        out += [f'    visit("{name}", static_cast<std::int64_t>({name}));' for name in names]
        return "\n".join([*out, "  }", "};\n"])

    def _recorded(self) -> list[str]:
        """Sorts with a fixed number of records that no constant counts."""
        return [sort for sort in self.sorts if self.spec.size(sort) is None and sort != GROWING]

    def _machine_class(self) -> str:
        spec = self.spec
        out = ["class Machine {", " public:"]
        out.append("  explicit Machine(const Limits& limits);\n")
        out.append("  const Limits& limits() const { return limits_; }")
        out.append("  // One more request record, in its initial state.")
        out.append("  RequestId add_request();\n")
        for sort in self.sorts:
            out.append(f"  {self.ids[sort]} {sort.lower()}_count() const {{ return {self._count(sort)}; }}")
        out.append("")
        for v in spec.variables.values():
            if v.one:
                first = v.sorts[0]
                kept = self.place(v, [first.letter])
                get = f"{self.ids[v.sorts[1].name]} {v.name}({self.ids[first.name]} {first.letter})"
                out.append(f"  {get} const {{ return {kept}; }}  // or kNone")
            if v.ghost or self._is_relation(v):
                continue
            parameters = ", ".join(f"{self.ids[s.name]} {x}" for s, x in zip(v.sorts, v.letters, strict=True))
            body = self.place(v, [*v.letters])
            out.append(f"  {self._cpp_type(v.type)} {v.name}({parameters}) const {{ return {body}; }}")
        for name, where in RELATION_TABLES.items():
            v = spec.variables[name]
            parameters = ", ".join(f"{self.ids[s.name]} {x}" for s, x in zip(v.sorts, v.letters, strict=True))
            one, other = v.letters
            at = self.place(spec.variables[where], [other])
            out.append(f"  bool {name}({parameters}) const {{ return {name}_.contains({one}, {other}, {at}); }}")
        out.append("  // The request's blocks in order of position.")
        out.append("  const BlockTables& tables() const { return holds_; }\n")
        out.append(
            "  // The transitions. Each returns Guard::none, or the guard that is false, and then nothing has changed."
        )
        for t in spec.transitions.values():
            out.append(f"  // {t.doc}")
            out.append(f"  [[nodiscard]] Guard apply_{t.name}({self._signature(t)});")
        out.append(
            "\n  // Any transition, by its number; the arguments are those of apply_*, in order. An id that its type"
        )
        out.append("  // cannot hold is refused like one of no record.")
        out.append("  [[nodiscard]] Guard apply(Transition transition, const std::array<std::int64_t, 4>& arguments);")
        out.append("\n  // How often each transition was taken.")
        out.append("  const std::array<std::uint64_t, kTransitions>& taken() const { return taken_; }")
        out.append("  // Log every transition from now on into `sink` (nullptr: stop).")
        out.append("  void record_to(TraceBuffer* sink) { trace_ = sink; }")
        out.append(
            "  // Calls visit(name, index, value) for every concrete variable of every individual; of relations kept"
        )
        out.append("  // in another form only for those that hold.")
        out.append("  template <class Visit>\n  void visit(Visit&& visit) const;")
        out.append(
            "  // Checked build: throws InvariantFalse naming the property and the individuals. Release build: nothing."
        )
        out.append("  void recheck() const;\n")
        out.append(" private:")
        out.append("  friend struct MachineAccess;  // restores states for verification only")
        out.append("  template <class... Argument>\n  void record(Transition transition, Argument... arguments) {")
        out.append("    const auto at = static_cast<std::size_t>(transition);\n    ++taken_[at];")
        out.append("    if (trace_ != nullptr) [[unlikely]] trace_->push(at, sizeof...(arguments), arguments...);\n  }")
        out.append("  Limits limits_;")
        for name, variables in self._groups(ghost=False).items():
            out.append(f"  {self._storage_type(name, variables)}")
        for name in RELATION_TABLES:
            out.append(f"  BlockTables {name}_;")
        out.append("  std::array<std::uint64_t, kTransitions> taken_{};")
        out.append("  TraceBuffer* trace_ = nullptr;")
        out.append("#if TOKENSPEED_CHECKED\n  struct Ghosts {")
        for v in [v for v in spec.variables.values() if v.ghost or self._is_relation(v)]:
            out.append(f"    Ghost<{len(v.sorts)}, {self._cpp_type(v.type)}> {v.name};")
        out.append("  } ghost_;\n#endif")
        out.append("};\n")
        out.append(self._visitor())
        return "\n".join(out) + "\n"

    def _count(self, sort: str) -> str:
        return f"static_cast<{self.ids[sort]}>({sort.lower()}_.size())"

    def _storage_type(self, name: str, variables: list[Variable]) -> str:
        type_ = f"{name}Fields"
        sorts = variables[0].sorts[:1] if variables[0].one else variables[0].sorts
        for _ in sorts:
            type_ = f"std::vector<{type_}>"
        member = "".join(s.name.lower() + "_" for s in sorts) or "globals_"
        return f"{type_} {member};"

    def _loops(self, parameters: list[tuple[str, str]], body: str) -> str:
        """Nested loops over all individuals: (name, sort)."""
        for name, sort in reversed(parameters):
            head = f"for ({self.ids[sort]} {name} = 0; {name} < {sort.lower()}_count(); ++{name})"
            body = f"{head} {{\n{indent(body, '  ')}\n}}"
        return body

    def _visitor(self) -> str:
        body = []
        for v in self.spec.variables.values():
            if v.ghost:
                continue
            loop = [(x, s.name) for s, x in zip(v.sorts, v.letters, strict=True)]
            index = ", ".join(f"static_cast<int>({x})" for x in v.letters)
            value = self.read(v, [*v.letters])
            value = f"static_cast<std::int64_t>({value})"
            call = f'visit("{v.name}", std::vector<int>{{{index}}}, {value});'
            if self._is_relation(v):
                (first, second), loop = v.letters, loop[:1]
                others = f"{v.name}_.of({first})" if v.name in RELATION_TABLES else f"{{{self.place(v, [first])}}}"
                head = f"for (const {self.ids[v.sorts[1].name]} {second} : {others})"
                call = f"{head} {{\n  if ({second} != kNone) {call}\n}}"
            body.append(self._loops(loop, call))
        lines = indent("\n".join(body), "  ")
        return f"template <class Visit>\nvoid Machine::visit(Visit&& visit) const {{\n{lines}\n}}"

    # machine.cpp

    def _machine_cpp(self) -> str:
        out = [header(self.spec, "What each transition checks and does."), '#include "scheduler/generated/machine.h"\n']
        out.append("namespace tokenspeed {\n")
        out.append(self._constructor())
        for t in self.spec.transitions.values():
            out.append(self._apply(t))
        out.append(self._dispatch())
        out.append("#if !TOKENSPEED_CHECKED\nvoid Machine::recheck() const {}\n#endif\n")
        out.append("}  // namespace tokenspeed")
        return "\n".join(out) + "\n"

    def _dispatch(self) -> str:
        cases = []
        for t in self.spec.transitions.values():
            arguments = [
                f"static_cast<{self._cpp_type(p.type)}>(arguments[{i}])" if p.type in self.ids else f"arguments[{i}]"
                for i, p in enumerate(t.parameters)
            ]
            wide = [
                f"arguments[{i}] != static_cast<{self.ids[p.type]}>(arguments[{i}])"
                for i, p in enumerate(t.parameters)
                if p.type in self.ids
            ]
            refused = f"      if ({' || '.join(wide)}) return Guard::bad_index;\n" if wide else ""
            call = f"      return apply_{t.name}({', '.join(arguments)});"
            cases.append(f"    case Transition::{t.name}:\n{refused}{call}")
        body = "\n".join(cases)
        return (
            "Guard Machine::apply(Transition transition, const std::array<std::int64_t, 4>& arguments) {\n"
            f"  switch (transition) {{\n{body}\n  }}\n  return Guard::bad_index;\n}}\n"
        )

    def _constructor(self) -> str:
        starts = []
        for v in (v for v in self.spec.variables.values() if v.init.op == "const"):
            value = self._expression(v.init)
            ghost = self._checked_only([f"  ghost_.{v.name}.set({{}}, {value});"])
            starts += ghost if v.ghost else [f"  globals_.{v.name} = {value};"]
        sizes = {s: f"limits.{(self.spec.size(s) or f'{s}_records').lower()}" for s in self.sorts if s != GROWING}
        made = ["limits_(limits)"]
        for variables in self._groups(ghost=False).values():
            sorts = [s.name for s in variables[0].sorts[: 1 if variables[0].one else None]]
            if sorts and sorts[0] in sizes:
                member = "".join(f"{s.lower()}_" for s in sorts)
                made.append(f"{member}(static_cast<std::size_t>({sizes[sorts[0]]}))")
        made += [f"{name}_(limits.page)" for name in RELATION_TABLES]
        return (
            "Machine::Machine(const Limits& limits)\n    : "
            + ",\n      ".join(made)
            + " {\n"
            + "\n".join(starts)
            + "\n}\n\n"
            "RequestId Machine::add_request() {\n"
            "  request_.emplace_back();\n"
            "  for (auto& rows : step_request_) rows.emplace_back();\n"
            "  holds_.add_request();\n"
            "  return request_count() - 1;\n"
            "}\n\n"
        )

    def _apply(self, t: Transition) -> str:
        out = [f"Guard Machine::apply_{t.name}({self._signature(t)}) {{"]
        bounds = [
            f"{p.name} < 0 || {p.name} >= {p.type.lower()}_count()" for p in t.parameters if p.type in self.spec.sorts
        ]
        if bounds:
            out.append(f"  if ({' || '.join(bounds)}) return Guard::bad_index;")
        for g in t.guards:
            condition = plain(self._expression(g.condition, t.parameters))
            line = f"  if (!({condition})) return Guard::{guard_identifier(t, g.name)};"
            out += self._checked_only([line]) if self._is_ghost(g.condition) else [line]
        concrete = [e for e in t.effects if not e.variable.ghost]
        ghost = [e for e in t.effects if e.variable.ghost]
        copies = [e for e in concrete if self._is_relation(e.variable)]
        out += (
            self._checked_only([self._ghost_effect(t, i, e) for i, e in enumerate([*ghost, *copies])])
            if ghost or copies
            else []
        )
        concrete, early = self._in_order(concrete)
        for e in early:
            kind = self._cpp_type(e.variable.type)
            out.append(f"  const {kind} new_{e.variable.name} = {plain(self._expression(e.value, t.parameters))};")
        for e in concrete:
            value = f"new_{e.variable.name}" if e in early else plain(self._expression(e.value, t.parameters))
            out.append(self._write(t, e, value))
        out += self._checked_only(["  commit_ghosts();"]) if ghost or copies else []
        out.append(f"  record({', '.join([f'Transition::{t.name}', *(p.name for p in t.parameters)])});")
        out += self._checked_only(["  recheck();"])
        out.append("  return Guard::none;\n}\n")
        return "\n".join(out).replace("  commit_ghosts();\n", "  ghost_writes.commit();\n")

    def _in_order(self, effects: list[Effect]) -> tuple[list[Effect], list[Effect]]:
        """The effects so that none reads what one before it wrote; and those to be computed before all are written."""
        left, order, early = [*effects], [], []
        while left:
            free = next((e for e in left if not self._is_read(e.variable, left, early, e)), left[0])
            if self._is_read(free.variable, left, early, free):
                early += [e for e in left if e is not free and free.variable.name in variables_read(e.value)]
            left.remove(free)
            order.append(free)
        return sorted(order, key=lambda e: e.variable.name in RELATION_TABLES), early

    def _is_read(self, variable: Variable, left: list[Effect], early: list[Effect], but: Effect) -> bool:
        return any(variable.name in variables_read(e.value) for e in left if e is not but and e not in early)

    def _write(self, t: Transition, e: Effect, value: str) -> str:
        index = [self._expression(i, t.parameters) for i in e.index]
        if e.variable.name in RELATION_TABLES:
            where = self.place(self.spec.variables[RELATION_TABLES[e.variable.name]], [index[1]])
            return f"  {e.variable.name}_.set({', '.join(index)}, {where}, {value});"
        if e.variable.one:
            if value not in ("true", "false"):
                raise SpecError(f"{t.name}: {e.variable.name} is set to {e.value}; it must be set to true or false")
            return f"  {self.place(e.variable, index[:1])} = {index[1] if value == 'true' else 'kNone'};"
        return f"  {self.place(e.variable, index)} = {value};"

    def _ghost_effect(self, t: Transition, number: int, e: Effect) -> str:
        index = ", ".join(cpp_expression(i, self._names((*t.parameters, *e.binders)), self.read) for i in e.index)
        value = plain(cpp_expression(e.value, self._names((*t.parameters, *e.binders)), self.read))
        body = f"ghost_writes.add(ghost_.{e.variable.name}, {{{index}}}, {value});"
        text = self._loops([(b.name, b.type) for b in e.binders], body)
        return ("  GhostWrites ghost_writes;\n" if number == 0 else "") + indent(text, "  ")

    def _checked_only(self, lines: list[str]) -> list[str]:
        return ["#if TOKENSPEED_CHECKED", *lines, "#endif"]

    # machine_check.cpp

    def _machine_check_cpp(self) -> str:
        out = [header(self.spec, "Checked build: recounts every property and counter."), "#if TOKENSPEED_CHECKED\n"]
        out.append('#include "scheduler/generated/machine.h"\n\nnamespace tokenspeed {\n')
        out.append("void Machine::recheck() const {")
        out += [indent(text, "  ") for text in self._checks()]
        out.append("}\n\n}  // namespace tokenspeed\n\n#endif")
        return "\n".join(out) + "\n"

    def _checks(self) -> Iterator[str]:
        for p in self.spec.invariants():
            shown = ", ".join(x.name for x in p.parameters)
            fail = f'fail_invariant("{p.name}", {{{shown}}});'
            condition = plain(self._expression(p.formula, p.parameters))
            yield self._loops([(x.name, x.type) for x in p.parameters], f"if (!({condition})) {fail}")
        for count in self.spec.counts.values():
            parameters = (*count.index, count.over)
            weight = "1" if count.weight is None else self._expression(count.weight, parameters)
            condition = plain(self._expression(count.condition, parameters))
            inner = self._loops([(count.over.name, count.over.type)], f"if ({condition}) total += {weight};")
            kept = self.read(count.variable, [i.name for i in count.index])
            shown = ", ".join(i.name for i in count.index)
            fail = f'fail_invariant("count {count.variable.name}", {{{shown}}});'
            body = f"std::int64_t total = 0;\n{inner}\nif ({kept} != total) {fail}"
            loops = self._loops([(i.name, i.type) for i in count.index], body)
            yield loops if count.index else f"{{\n{indent(body, '  ')}\n}}"
        for name, v in self.spec.variables.items():
            if not self._is_relation(v):
                continue
            index = ", ".join(v.letters)
            kept = self.read(v, [*v.letters])
            body = f'if ({kept} != ghost_.{name}.get({{{index}}})) fail_invariant("{name} table", {{{index}}});'
            yield self._loops([(x, s.name) for s, x in zip(v.sorts, v.letters, strict=True)], body)

    def files(self) -> dict[str, str]:
        """File name -> content."""
        return {
            "machine.h": self._machine_h(),
            "machine.cpp": self._machine_cpp(),
            "machine_check.cpp": self._machine_check_cpp(),
        }
