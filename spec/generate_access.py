"""Generates `machine_access.cpp`: the state of the compiled machine from bytes and to bytes, for the lock-step only."""

from __future__ import annotations

from textwrap import indent

from .cpp import header
from .expressions import BOOL
from .generate_scheduler import GROWING, RELATION_TABLES, SchedulerGenerator
from .language import Sort, Spec, Variable
from .layout import shared_order


def machine_access(spec: Spec) -> str:
    """The file, for release builds: without the ghosts of a checked build no state can be restored."""
    g = SchedulerGenerator(spec)
    out = [header(spec, "Restores and compares states of a machine; see scheduler/state_access.h.")]
    out.append('#if !TOKENSPEED_CHECKED\n\n#include "../state_access.h"\n\n#include "machine.h"\n')
    out.append("namespace tokenspeed {\n")
    out.append("// The one friend of Machine. Verification puts states in with it; the scheduler never does.")
    out.append("struct MachineAccess {")
    out += [indent(text, "  ") for text in (_create(g), _restore(g), _difference(g), _propose(g))]
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


def _loop(g: SchedulerGenerator, sort: Sort, body: str, letter: str) -> str:
    """The body for every individual of the sort."""
    count = f"{sort.name.lower()}s"
    return f"for ({g.ids[sort.name]} {letter} = 0; {letter} < {count}; ++{letter}) {{\n{indent(body, '  ')}\n}}"


def _locals(g: SchedulerGenerator, const: str) -> list[str]:
    """Counts and arrays in local variables: for all that a compiler knows, a write of a byte may change any member."""
    lines = [f"{const}Machine& m = *static_cast<{const}Machine*>(machine);"]
    for sort in g.spec.sorts.values():
        lines.append(f"const {g.ids[sort.name]} {sort.name.lower()}s = m.{sort.name.lower()}_count();")
    lines += [f"{const}auto* const {member} = m.{member}.data();" for member in _members(g)]
    return lines


def _members(g: SchedulerGenerator) -> list[str]:
    variables = [v for v in shared_order(g.spec) if v.sorts and v.name not in RELATION_TABLES]
    first = [g.place(v, [*v.letters[: 1 if v.one else None]]).split("[")[0] for v in variables]
    return list(dict.fromkeys(first))


def _restore(g: SchedulerGenerator) -> str:
    lines = _locals(g, "")
    table = g.spec.variables
    for name in RELATION_TABLES:
        holder = table[name].sorts[0]
        one = holder.letter
        clear = (
            f"while (!m.{name}_.of({one}).empty()) {{\n"
            f"  const auto last = static_cast<std::int64_t>(m.{name}_.of({one}).size()) - 1;\n"
            f"  m.{name}_.set({one}, m.{name}_.of({one}).back(), last * m.limits_.page, false);\n}}"
        )
        lines.append(_loop(g, holder, clear, one))
    for v in shared_order(g.spec):
        index = [*v.letters]
        if v.name in RELATION_TABLES:
            where = g.place(table[RELATION_TABLES[v.name]], [index[1]])
            body = f"if (*state++ != 0) m.{v.name}_.set({', '.join(index)}, {where}, true);"
        elif v.one:
            place = g.place(v, index[:1])
            inner = _loop(g, v.sorts[1], f"if (*state++ != 0) {place} = {index[1]};", index[1])
            lines.append(_loop(g, v.sorts[0], f"{place} = kNone;\n{inner}", index[0]))
            continue
        else:
            value = "*state++ != 0" if v.type == BOOL else "*state++"
            value = f"static_cast<{v.type}>(*state++)" if v.type in g.spec.enums else value
            body = f"{_member(g, v, index)} = {value};"
        for sort, letter in reversed([*zip(v.sorts, v.letters, strict=True)]):
            body = _loop(g, sort, body, letter)
        lines.append(body)
    body = indent("\n".join(lines), "  ")
    return f"static void restore(void* machine, const std::int8_t* state) {{\n{body}\n}}\n"


def _member(g: SchedulerGenerator, v: Variable, index: list[str]) -> str:
    """How a concrete value is reached: through a local array, or as a member."""
    if v.name in RELATION_TABLES or not v.sorts:
        return f"m.{g.read(v, index)}"
    return g.read(v, index)


def _difference(g: SchedulerGenerator) -> str:
    """Everything is compared without a branch; only if something differs, the first such value is looked for."""
    quick, slow = [], []
    for v in shared_order(g.spec):
        value = f"static_cast<std::int64_t>({_member(g, v, [*v.letters])})"
        fast = f"differs |= {value} ^ *state++;"
        exact = f"if ({value} != *state++) return static_cast<std::int32_t>(state - 1 - start);"
        for sort, letter in reversed([*zip(v.sorts, v.letters, strict=True)]):
            fast, exact = _loop(g, sort, fast, letter), _loop(g, sort, exact, letter)
        quick.append(fast)
        slow.append(exact)
    for name in RELATION_TABLES:
        first, second = g.spec.variables[name].sorts
        where = g.place(g.spec.variables[RELATION_TABLES[name]], ["one"])
        body = (
            f"std::int64_t at = 0;\n"
            f"for (const {g.ids[second.name]} one : m.{name}_.of({first.letter})) {{\n"
            f"  differs |= static_cast<std::int64_t>(one != kNoBlock && {where} / m.limits_.page != at);\n"
            f"  ++at;\n}}"
        )
        quick.append(_loop(g, first, body, first.letter))
    lines = [*_locals(g, "const "), "const std::int8_t* const start = state;", "std::int64_t differs = 0;", *quick]
    lines += [
        "if (differs == 0) return -1;",
        "state = start;",
        *slow,
        "return static_cast<std::int32_t>(state - start);",
    ]
    body = indent("\n".join(lines), "  ")
    return f"static std::int32_t difference(const void* machine, const std::int8_t* state) {{\n{body}\n}}\n"


def _propose(g: SchedulerGenerator) -> str:
    """Proposals of the same transition follow each other: one jump for all of them."""
    cases = []
    for t in g.spec.transitions.values():
        arguments = ", ".join(f"p->arguments[{i}]" for i in range(len(t.parameters)))
        cases.append(
            f"      case Transition::{t.name}:\n"
            f"        for (; p < end && p->transition == transition; ++p) {{\n"
            f"          if (!agreed(*answer = answer_of(m.apply_{t.name}({arguments})), *p)) return number(p);\n"
            f"        }}\n        break;"
        )
    listed = "\n".join(cases)
    return f"""static std::uint16_t answer_of(Guard guard) {{ return static_cast<std::uint16_t>(guard); }}
static bool agreed(std::uint16_t answer, const Proposal& p) {{ return answer == p.guard && answer != 0; }}

static std::size_t propose(void* machine, const Proposal* proposals, std::size_t count, std::uint16_t* answer) {{
  Machine& m = *static_cast<Machine*>(machine);
  const Proposal* p = proposals;
  const Proposal* const end = proposals + count;
  const auto number = [&](const Proposal* at) {{ return static_cast<std::size_t>(at - proposals); }};
  while (p < end) {{
    const std::uint8_t transition = p->transition;
    switch (static_cast<Transition>(transition)) {{
{listed}
    }}
  }}
  return count;
}}
"""


__all__ = ["machine_access"]
