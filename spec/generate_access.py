"""Generates `machine_access.cpp`: the state of the compiled machine from bytes and to bytes, for the lock-step only."""

from __future__ import annotations

from textwrap import indent

from .cpp import header
from .expressions import BOOL
from .generate_scheduler import GROWING, RELATION_TABLES, SchedulerGenerator
from .language import Spec, Variable
from .layout import shared_order


def machine_access(spec: Spec) -> str:
    """The file, for release builds: without the ghosts of a checked build no state can be restored."""
    g = SchedulerGenerator(spec)
    out = [header(spec, "Restores and compares states of a machine; see scheduler/state_access.h.")]
    out.append('#if !TOKENSPEED_CHECKED\n\n#include "../state_access.h"\n\n#include "machine.h"\n')
    out.append("namespace tokenspeed {\n")
    out.append("// The one friend of Machine. Verification puts states in with it; the scheduler never does.")
    out.append("struct MachineAccess {")
    out += [indent(text, "  ") for text in (_create(g), _restore(g), _difference(g), _propose())]
    out.append("};\n")
    out.append("const StateAccess kStateAccess = {")
    out.append(f'  "{spec.digest()}",\n  static_cast<std::uint16_t>(Guard::bad_index),')
    out.append("  MachineAccess::create,\n  [](void* machine) { delete static_cast<Machine*>(machine); },")
    out.append("  MachineAccess::restore,\n  MachineAccess::difference,\n  MachineAccess::propose,\n};\n")
    out.append("}  // namespace tokenspeed\n\n#endif")
    return "\n".join(out) + "\n"


def _create(g: SchedulerGenerator) -> str:
    spec = g.spec
    lines = ["Limits limits;"]
    lines += [f"limits.{name.lower()} = constants[{i}];" for i, name in enumerate(spec.constants)]
    for i, sort in enumerate(spec.sorts):
        if spec.size(sort) is None and sort != GROWING:
            lines.append(f"limits.{sort.lower()}_records = population[{i}];")
    lines.append("auto* machine = new Machine(limits);")
    growing = list(spec.sorts).index(GROWING)
    lines.append(f"for (std::int32_t i = 0; i < population[{growing}]; ++i) machine->add_{GROWING.lower()}();")
    body = indent("\n".join([*lines, "return machine;"]), "  ")
    return f"static void* create(const std::int64_t* constants, const std::int32_t* population) {{\n{body}\n}}\n"


def _visited(g: SchedulerGenerator, v: Variable, body: str) -> str:
    """The body for every individual, with `*state++` as its byte."""
    for sort in reversed(v.sorts):
        head = f"for ({g.ids[sort.name]} {sort.letter} = 0; {sort.letter} < m.{sort.name.lower()}_count(); ++{sort.letter})"
        body = f"{head} {{\n{indent(body, '  ')}\n}}"
    return body


def _restore(g: SchedulerGenerator) -> str:
    lines = ["Machine& m = *static_cast<Machine*>(machine);"]
    table = g.spec.variables
    for name in RELATION_TABLES:
        holder = table[name].sorts[0]
        one = holder.letter
        clear = (
            f"while (!m.{name}_.of({one}).empty()) {{\n"
            f"  const auto last = static_cast<std::int64_t>(m.{name}_.of({one}).size()) - 1;\n"
            f"  m.{name}_.set({one}, m.{name}_.of({one}).back(), last * m.limits_.page, false);\n}}"
        )
        head = f"for ({g.ids[holder.name]} {one} = 0; {one} < m.{holder.name.lower()}_count(); ++{one})"
        lines.append(f"{head} {{\n{indent(clear, '  ')}\n}}")
    for v in shared_order(g.spec):
        index = [s.letter for s in v.sorts]
        if v.name in RELATION_TABLES:
            where = f"m.{g.place(table[RELATION_TABLES[v.name]], [index[1]])}"
            body = f"if (*state++ != 0) m.{v.name}_.set({', '.join(index)}, {where}, true);"
        elif v.one:
            place = f"m.{g.place(v, index[:1])}"
            inner = f"for ({g.ids[v.sorts[1].name]} {index[1]} = 0; {index[1]} < m.{v.sorts[1].name.lower()}_count(); ++{index[1]})"
            body = f"{place} = kNone;\n{inner} {{\n  if (*state++ != 0) {place} = {index[1]};\n}}"
            head = f"for ({g.ids[v.sorts[0].name]} {index[0]} = 0; {index[0]} < m.{v.sorts[0].name.lower()}_count(); ++{index[0]})"
            lines.append(f"{head} {{\n{indent(body, '  ')}\n}}")
            continue
        else:
            value = "*state++ != 0" if v.type == BOOL else "*state++"
            value = f"static_cast<{v.type}>(*state++)" if v.type in g.spec.enums else value
            body = f"m.{g.place(v, index)} = {value};"
        lines.append(_visited(g, v, body))
    body = indent("\n".join(lines), "  ")
    return f"static void restore(void* machine, const std::int8_t* state) {{\n{body}\n}}\n"


def _difference(g: SchedulerGenerator) -> str:
    lines = ["const Machine& m = *static_cast<const Machine*>(machine);", "const std::int8_t* const start = state;"]
    for v in shared_order(g.spec):
        value = f"m.{g.read(v, [s.letter for s in v.sorts])}".replace("m.(", "(m.")
        test = f"if (static_cast<std::int64_t>({value}) != *state++) return static_cast<std::int32_t>(state - 1 - start);"
        lines.append(_visited(g, v, test))
    for name in RELATION_TABLES:
        first, second = g.spec.variables[name].sorts
        where = g.place(g.spec.variables[RELATION_TABLES[name]], ["one"])
        lines.append(
            f"for ({g.ids[first.name]} {first.letter} = 0; {first.letter} < m.{first.name.lower()}_count(); ++{first.letter}) {{\n"
            f"  std::int64_t at = 0;\n"
            f"  for (const {g.ids[second.name]} one : m.{name}_.of({first.letter})) {{\n"
            f"    if (one != kNoBlock && m.{where} / m.limits_.page != at) return static_cast<std::int32_t>(state - start);\n"
            f"    ++at;\n  }}\n}}"
        )
    body = indent("\n".join([*lines, "return -1;"]), "  ")
    return f"static std::int32_t difference(const void* machine, const std::int8_t* state) {{\n{body}\n}}\n"


def _propose() -> str:
    return """static std::size_t propose(void* machine, const Proposal* proposals, std::size_t from, std::size_t count,
                           std::uint16_t* answer) {
  Machine& m = *static_cast<Machine*>(machine);
  for (; from < count; ++from) {
    const Proposal& p = proposals[from];
    const Guard guard = m.apply(static_cast<Transition>(p.transition),
                                {p.arguments[0], p.arguments[1], p.arguments[2], p.arguments[3]});
    *answer = static_cast<std::uint16_t>(guard);
    if (*answer != p.guard || guard == Guard::none) return from;
  }
  return count;
}
"""


__all__ = ["machine_access"]
