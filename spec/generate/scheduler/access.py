"""Generates `machine_access.cpp`: the state of the compiled machine from bytes and to bytes, for the lock-step only."""

from __future__ import annotations

from textwrap import indent

from ...language.expressions import BOOL
from ...language.spec import Sort, Spec, Variable
from ...search.state_order import shared_order
from ..cpp import header
from ..writer import widened
from .machine import Storage


def machine_access(spec: Spec) -> str:
    """The file, for release builds: without the ghosts of a checked build no state can be restored."""
    g = Storage(spec)
    out = [header(spec, "Restores and compares states of a machine; see scheduler/verification/state_access.h.")]
    out.append("#if !TOKENSPEED_CHECKED\n")
    out.append("#include <algorithm>\n#include <array>\n#include <cstddef>\n#include <cstdint>\n#include <vector>\n")
    ours = ("generated/machine", "verification/state_access", "verification/state_image")
    out.append("\n".join(f'#include "scheduler/{name}.h"' for name in ours) + "\n")
    out.append("namespace tokenspeed {\n")
    out.append("// The one friend of Machine. Verification puts states in with it; the scheduler never does.")
    out.append("struct MachineAccess {")
    parts = (_shown(g), _create(g), OWNED, _restore(g), _save(g), _difference(g), _propose(g), _take(g))
    out += [indent(text, "  ") for text in parts]
    out.append("};\n")
    out.append("const StateAccess kStateAccess = {")
    out.append(f'  "{spec.digest()}",\n  static_cast<std::uint16_t>(Guard::bad_index),')
    out.append(f"  {len(spec.constants)},\n  {len(spec.sorts)},")
    methods = ("create", "destroy", "values", "restore", "save", "difference", "propose", "reaches", "take")
    out.append("\n".join(f"  MachineAccess::{method}," for method in methods) + "\n};\n")
    out.append("}  // namespace tokenspeed\n\n#endif")
    return widened("\n".join(out) + "\n")


OWNED = """static void destroy(void* machine) { delete static_cast<Restored*>(machine); }
static std::size_t values(const void* machine) { return static_cast<const Restored*>(machine)->image.size(); }
"""


def _tables(g: Storage) -> list[tuple[str, Sort]]:
    return [(name, g.spec.variables[name].sorts[0]) for name in g.tables]


def _shown(g: Storage) -> str:
    """The machine with its image: all records, and where each value is in them."""
    tables = _tables(g)
    restored = (
        "struct Restored {\n  explicit Restored(const Limits& limits) : machine(limits) {}\n\n  Machine machine;\n"
        f"  StateImage image;\n  std::array<std::vector<std::vector<BlockId>>, {len(tables)}> tables;\n"
        f"  std::array<std::int32_t, {len(tables)}> base{{}};  // their first values in a state\n"
        "};\n"
    )
    lines = ["Machine& m = restored.machine;", "StateImage& image = restored.image;"]
    lines += [f"const {g.ids[s.name]} {s.name.lower()}s = m.{s.name.lower()}_count();" for s in g.spec.sorts.values()]
    found: dict[str, Variable] = {}
    for v in shared_order(g.spec):
        if v.name not in g.tables:
            found.setdefault(g.place(v, [*v.letters[: 1 if v.one else None]]).rpartition(".")[0], v)
    for place, v in found.items():
        sorts = v.sorts[:1] if v.one else v.sorts
        if not sorts:
            lines.append(f"image.region(&m.{place}, 1);")
            continue
        outer = place[: place.rindex("[")]
        body = f"image.region(m.{outer}.data(), m.{outer}.size());"
        for sort, letter in reversed([*zip(sorts[:-1], v.letters, strict=False)]):
            body = _loop(g, sort, body, letter)
        lines.append(body)
    for v in shared_order(g.spec):
        index = [*v.letters]
        sorts = v.sorts
        moves = str(v.name in g.tables.values()).lower()
        if v.name in g.tables:
            count = " * ".join(f"{s.name.lower()}s" for s in v.sorts)
            lines.append(f"restored.base[{list(g.tables).index(v.name)}] = image.table({count});")
            continue
        if v.one:
            many, sorts = f"{v.sorts[1].name.lower()}s", v.sorts[:1]
            place = g.place(v, index[:1])
            body = f"image.cell(m.{place}, {many}, {moves});"
        else:
            body = f"image.cell(m.{g.place(v, index)}, 0, {moves});"
        for sort, letter in reversed([*zip(sorts, index, strict=False)]):
            body = _loop(g, sort, body, letter)
        lines.append(body)
    for i, (_, holder) in enumerate(tables):
        lines.append(f"restored.tables[{i}].resize(static_cast<std::size_t>({holder.name.lower()}s));")
    body = indent("\n".join(lines), "  ")
    return f"{restored}\nstatic void show(Restored& restored) {{\n{body}\n}}\n"


def _take(g: Storage) -> str:
    """One proposal, and whether all is then as it must be; tables are put back through their own methods."""
    touched, checked, undone = [], [], []
    for i, (name, holder) in enumerate(_tables(g)):
        one, other = holder.letter, g.spec.variables[name].sorts[1]
        kept = f"restored.tables[{i}][static_cast<std::size_t>({one})]"
        touched.append(_loop(g, holder, f"moved = moved || !same(m.{name}_.of({one}), {kept});"))
        where = g.read(g.spec.variables[g.tables[name]], [other.letter])
        row = f"state + restored.base[{i}] + {one} * {other.name.lower()}s"
        checked.append(
            _loop(
                g,
                holder,
                f"""\
const std::int8_t* const flags = {row};
auto left = std::count_if(flags, flags + {other.name.lower()}s, [](std::int8_t flag) {{ return flag != 0; }});
std::int64_t at = 0;
for (const {g.ids[other.name]} {other.letter} : m.{name}_.of({one})) {{
  if ({other.letter} != kNone) {{
    is = is && 0 <= {other.letter} && {other.letter} < {other.name.lower()}s && flags[{other.letter}] != 0;
    is = is && at <= m.{where} && m.{where} < at + m.limits_.page;
    --left;
  }}
  at += m.limits_.page;
}}
is = is && left == 0;""",
            )
        )
        put = (
            f"const auto& kept = {kept};\nif (m.{name}_.of({one}) == kept) continue;\n{_clear(name, one)}\n"
            f"for (std::size_t at = 0; at < kept.size(); ++at) {{\n"
            f"  const auto position = static_cast<std::int64_t>(at) * m.limits_.page;\n"
            f"  if (kept[at] != kNone) m.{name}_.set({one}, kept[at], position, true);\n}}"
        )
        undone.append(_loop(g, holder, put))
    used = {s.name: s for name in g.tables for s in g.spec.variables[name].sorts}
    counts = [f"const {g.ids[name]} {name.lower()}s = m.{name.lower()}_count();" for name in used]
    lines = [
        "Machine& m = restored.machine;",
        "StateImage& image = restored.image;",
        *counts,
        "bool moved = false;",
        *touched,
        "bool is = image.is_met();",
        "if (moved || moves) {",
        *(indent(text, "  ") for text in checked),
        "}",
        "if (moved) {",
        indent("\n".join(undone), "  "),
        "}",
        "image.back();",
        "return is;",
    ]
    body = indent("\n".join(lines), "  ")
    return f"""static bool same(const std::vector<BlockId>& one, const std::vector<BlockId>& other) {{
  if (one.size() != other.size()) return false;
  for (std::size_t i = 0; i < one.size(); ++i) {{
    if (one[i] != other[i]) return false;
  }}
  return true;
}}
// Whether the machine is in the state that was expected, and nothing that is no value of a state has changed. It goes
// back. `moves`: what was expected concerns tables.
static bool was(Restored& restored, const std::int8_t* state, bool moves) {{
{body}
}}

static bool reaches(void* machine, const Proposal* proposal, const std::int8_t* after) {{
  auto& restored = *static_cast<Restored*>(machine);
  const bool moves = restored.image.expect(after);
  std::uint16_t answer = 0;
  propose(machine, proposal, 1, &answer);
  return was(restored, after, moves) && answer == 0;
}}
static bool take(void* machine, const Proposal* proposal, std::uint16_t* answer, std::int8_t* after) {{
  auto& restored = *static_cast<Restored*>(machine);
  propose(machine, proposal, 1, answer);
  if (*answer == 0) {{
    save(machine, after);
  }} else {{
    restored.image.copy(after);  // a refusal changes nothing
  }}
  return was(restored, after, restored.image.expect(after));
}}
"""


def _clear(name: str, one: str) -> str:
    """Empties one table."""
    return (
        f"while (!m.{name}_.of({one}).empty()) {{\n"
        f"  const auto last = static_cast<std::int64_t>(m.{name}_.of({one}).size()) - 1;\n"
        f"  m.{name}_.set({one}, m.{name}_.of({one}).back(), last * m.limits_.page, false);\n}}"
    )


def _create(g: Storage) -> str:
    spec = g.spec
    lines = ["Limits limits;"]
    lines += [f"limits.{name.lower()} = constants[{i}];" for i, name in enumerate(spec.constants)]
    for i, sort in enumerate(spec.sorts):
        if spec.size(sort) is None and sort != g.growing:
            lines.append(f"limits.{sort.lower()}_records = population[{i}];")
    lines.append("auto* restored = new MachineAccess::Restored(limits);")
    growing = list(spec.sorts).index(g.growing)
    lines.append(
        f"for (std::int32_t i = 0; i < population[{growing}]; ++i) restored->machine.add_{g.growing.lower()}();"
    )
    lines.append("show(*restored);")
    body = indent("\n".join([*lines, "return restored;"]), "  ")
    return f"static void* create(const std::int64_t* constants, const std::int32_t* population) {{\n{body}\n}}\n"


def _loop(g: Storage, sort: Sort, body: str, letter: str = "") -> str:
    """The body for every individual of the sort, which it knows by `letter` (the sort's own if none is given)."""
    letter = letter or sort.letter
    count = f"{sort.name.lower()}s"
    return f"for ({g.ids[sort.name]} {letter} = 0; {letter} < {count}; ++{letter}) {{\n{indent(body, '  ')}\n}}"


def _locals(g: Storage, const: str) -> list[str]:
    """Counts and arrays in local variables: for all that a compiler knows, a write of a byte may change any member."""
    lines = [f"{const}Machine& m = static_cast<{const}Restored*>(machine)->machine;"]
    for sort in g.spec.sorts.values():
        lines.append(f"const {g.ids[sort.name]} {sort.name.lower()}s = m.{sort.name.lower()}_count();")
    lines += [f"{const}auto* const {member} = m.{member}.data();" for member in _members(g)]
    return lines


def _members(g: Storage) -> list[str]:
    variables = [v for v in shared_order(g.spec) if v.sorts and v.name not in g.tables]
    first = [g.place(v, [*v.letters[: 1 if v.one else None]]).split("[")[0] for v in variables]
    return list(dict.fromkeys(first))


def _restore(g: Storage) -> str:
    lines = [*_locals(g, ""), "const std::int8_t* const start = state;"]
    table = g.spec.variables
    for name in g.tables:
        holder = table[name].sorts[0]
        one = holder.letter
        clear = _clear(name, one)
        lines.append(_loop(g, holder, clear))
    for run in _runs(g):
        v = run[0]
        index = [*v.letters]
        if v.name in g.tables:
            where = g.place(table[g.tables[v.name]], [index[1]])
            body = f"if (*state++ != 0) m.{v.name}_.set({', '.join(index)}, {where}, true);"
        elif v.one:
            place = g.place(v, index[:1])
            inner = _loop(g, v.sorts[1], f"if (*state++ != 0) {place} = {index[1]};", index[1])
            lines.append(_loop(g, v.sorts[0], f"{place} = kNone;\n{inner}", index[0]))
            continue
        else:
            body = "\n".join(f"{_member(g, v, index)} = {_value(g, v, _given(run, i))};" for i, v in enumerate(run))
        for sort, letter in reversed([*zip(v.sorts, v.letters, strict=True)]):
            body = _loop(g, sort, body, letter)
        lines.append(body)
        if v.name not in g.tables:
            lines.append(_behind(run))
    lines.append("static_cast<Restored*>(machine)->image.keep(start);")
    for i, (name, holder) in enumerate(_tables(g)):
        body = (
            f"auto& kept = static_cast<Restored*>(machine)->tables[{i}][static_cast<std::size_t>({holder.letter})];\n"
        )
        body += f"if (kept != m.{name}_.of({holder.letter})) kept = m.{name}_.of({holder.letter});"
        lines.append(_loop(g, holder, body))
    body = indent("\n".join(lines), "  ")
    return f"static void restore(void* machine, const std::int8_t* state) {{\n{body}\n}}\n"


def _runs(g: Storage) -> list[list[Variable]]:
    """Variables that follow each other in a state and are restored in one loop: numbers of the same sorts."""
    runs: list[list[Variable]] = []
    for v in shared_order(g.spec):
        alone = v.name in g.tables or v.one
        last = runs[-1][-1] if runs else None
        if last is None or alone or last.name in g.tables or last.one or last.sorts != v.sorts:
            runs.append([])
        runs[-1].append(v)
    return runs


def _given(run: list[Variable], number: int) -> str:
    """The byte of a state that gives the value of a variable of a run."""
    v = run[number]
    counts = [f"{s.name.lower()}s" for s in v.sorts]
    before = [" * ".join([str(number), *counts] if number > 1 or not counts else counts)] if number else []
    own = [" * ".join([letter, *counts[i + 1 :]]) for i, letter in enumerate(v.letters)]
    return f"state[{' + '.join([*before, *own]) or '0'}]"


def _behind(run: list[Variable]) -> str:
    return f"state += {' * '.join([str(len(run)), *(f'{s.name.lower()}s' for s in run[0].sorts)])};"


def _value(g: Storage, v: Variable, byte: str) -> str:
    if v.type == BOOL:
        return f"{byte} != 0"
    return f"static_cast<{v.type}>({byte})" if v.type in g.spec.enums else byte


def _member(g: Storage, v: Variable, index: list[str]) -> str:
    """How a concrete value is reached: through a local array, or as a member."""
    if v.name in g.tables or not v.sorts:
        return f"m.{g.read(v, index)}"
    return g.read(v, index)


def _save(g: Storage) -> str:
    lines = _locals(g, "const ")
    for run in _runs(g):
        v = run[0]
        alone = v.name in g.tables or v.one
        body = "\n".join(
            f"{'*state++' if alone else _given(run, i)} = static_cast<std::int8_t>({_member(g, one, [*one.letters])});"
            for i, one in enumerate(run)
        )
        for sort, letter in reversed([*zip(v.sorts, v.letters, strict=True)]):
            body = _loop(g, sort, body, letter)
        lines.append(body)
        if not alone:
            lines.append(_behind(run))
    body = indent("\n".join(lines), "  ")
    return f"static void save(const void* machine, std::int8_t* state) {{\n{body}\n}}\n"


def _difference(g: Storage) -> str:
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
    for name in g.tables:
        first, second = g.spec.variables[name].sorts
        where = g.place(g.spec.variables[g.tables[name]], ["one"])
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


def _propose(g: Storage) -> str:
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
  Machine& m = static_cast<Restored*>(machine)->machine;
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
