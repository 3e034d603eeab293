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
    out.append('#if !TOKENSPEED_CHECKED\n\n#include "../state_access.h"\n\n#include <cstddef>\n#include <cstring>\n\n#include "machine.h"\n')
    out.append("namespace tokenspeed {\n")
    out.append("// The one friend of Machine. Verification puts states in with it; the scheduler never does.")
    out.append("struct MachineAccess {")
    out.append(indent(IMAGE, "  "))
    parts = (_shown(g), _create(g), _restore(g), _difference(g), _propose(g), _take(g))
    out += [indent(text, "  ") for text in parts]
    out.append("};\n")
    out.append("const StateAccess kStateAccess = {")
    out.append(f'  "{spec.digest()}",\n  static_cast<std::uint16_t>(Guard::bad_index),')
    out.append("  MachineAccess::create,\n  [](void* machine) { delete static_cast<MachineAccess::Restored*>(machine); },")
    methods = ("restore", "difference", "propose", "take")
    out.append("\n".join(f"  MachineAccess::{method}," for method in methods) + "\n};\n")
    out.append("}  // namespace tokenspeed\n\n#endif")
    return "\n".join(out) + "\n"


IMAGE = """// The memory of a machine's records, and what it was when the state was restored. Word by word it is cheap to see what
// a transition changed, whatever that is, and to change it back.
class Image {
 public:
  // One value: where it is, and which bytes of a state give it. `many`: an id that is one of so many flags.
  struct Cell {
    const void* at;
    std::int32_t value;
    std::int16_t many;
    std::int8_t size;
    bool moves;  // the tables depend on it
  };
  using Word = std::uint64_t;

  template <class Record>
  void region(Record* at, std::size_t count) {
    static_assert(sizeof(Record) % sizeof(Word) == 0);
    const std::size_t words = count * sizeof(Record) / sizeof(Word);
    regions_.push_back({reinterpret_cast<std::byte*>(at), kept_.size(), words});
    kept_.resize(kept_.size() + words);
    cells_.resize(kept_.size());
  }
  template <class T>
  void cell(const T& at, std::int32_t value, std::int16_t many, bool moves) {
    const auto* place = reinterpret_cast<const std::byte*>(&at);
    for (const Region& region : regions_) {
      const auto offset = place - region.at;
      if (offset < 0 || offset >= static_cast<std::ptrdiff_t>(region.words * sizeof(Word))) continue;
      const auto word = region.first + static_cast<std::size_t>(offset) / sizeof(Word);
      cells_[word].push_back({place, value, many, static_cast<std::int8_t>(sizeof(T)), moves});
    }
  }
  void keep() {
    for (const Region& region : regions_) std::memcpy(&kept_[region.first], region.at, region.words * sizeof(Word));
  }

  // Writes back what has changed. True if exactly the values in which `post` and `pre` differ had changed, each to what
  // `post` says; false if that is not so or not clear. `shared`: the number of values.
  bool undo(const std::int8_t* pre, const std::int8_t* post, std::size_t shared) {
    bool clear = true;
    std::size_t changed = 0;
    for (const Region& region : regions_) {
      std::size_t at = 0;
      for (; at + 4 <= region.words; at += 4) {
        if (same<4>(region, at)) continue;
        for (std::size_t i = at; i < at + 4; ++i) clear = undo(region, i, pre, post, changed) && clear;
      }
      for (; at < region.words; ++at) clear = undo(region, at, pre, post, changed) && clear;
    }
    std::size_t expected = 0;
    for (std::size_t i = 0; i < shared; ++i) expected += static_cast<std::size_t>(pre[i] != post[i]);
    return clear && changed == expected;
  }

 private:
  struct Region {
    std::byte* at;
    std::size_t first;  // of its words
    std::size_t words;
  };

  template <int kWords>
  bool same(const Region& region, std::size_t at) const {
    std::array<Word, kWords> now;
    std::memcpy(now.data(), region.at + at * sizeof(Word), sizeof now);
    Word differs = 0;
    for (std::size_t i = 0; i < kWords; ++i) differs |= now[i] ^ kept_[region.first + at + i];
    return differs == 0;
  }

  bool undo(const Region& region, std::size_t at, const std::int8_t* pre, const std::int8_t* post,
            std::size_t& changed) {
    if (same<1>(region, at)) return true;
    const std::size_t word = region.first + at;
    bool clear = !cells_[word].empty();
    for (const Cell& cell : cells_[word]) {
      const std::int64_t now = number(cell.at, cell.size);
      const auto offset = static_cast<const std::byte*>(cell.at) - (region.at + at * sizeof(Word));
      if (now == number(reinterpret_cast<const std::byte*>(&kept_[word]) + offset, cell.size)) continue;
      clear = clear && !cell.moves;
      if (cell.many == 0) {
        clear = clear && now == post[cell.value];
        ++changed;
        continue;
      }
      clear = clear && now >= kNone && now < cell.many;
      for (std::int32_t i = 0; i < cell.many; ++i) {
        clear = clear && static_cast<std::int8_t>(now == i) == post[cell.value + i];
        changed += static_cast<std::size_t>(pre[cell.value + i] != post[cell.value + i]);
      }
    }
    std::memcpy(region.at + at * sizeof(Word), &kept_[word], sizeof(Word));
    return clear;
  }

  static std::int64_t number(const void* at, std::int8_t size) {
    if (size == 8) return read<std::int64_t>(at);
    return size == 4 ? read<std::int32_t>(at) : read<std::uint8_t>(at);
  }
  template <class T>
  static T read(const void* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }

  std::vector<Region> regions_;
  std::vector<Word> kept_;
  std::vector<std::vector<Cell>> cells_;
};
"""


def _tables(g: SchedulerGenerator) -> list[tuple[str, Sort]]:
    return [(name, g.spec.variables[name].sorts[0]) for name in RELATION_TABLES]


def _shown(g: SchedulerGenerator) -> str:
    """The machine with its image: all records, and where each value is in them."""
    tables = _tables(g)
    restored = (
        "struct Restored {\n  explicit Restored(const Limits& limits) : machine(limits) {}\n\n  Machine machine;\n"
        f"  Image image;\n  std::array<std::vector<std::vector<BlockId>>, {len(tables)}> tables;\n"
        "  std::size_t values = 0;  // that a state gives\n};\n"
    )
    lines = ["Machine& m = restored.machine;", "Image& image = restored.image;"]
    lines += [f"const {g.ids[s.name]} {s.name.lower()}s = m.{s.name.lower()}_count();" for s in g.spec.sorts.values()]
    found: dict[str, Variable] = {}
    for v in shared_order(g.spec):
        if v.name not in RELATION_TABLES:
            found.setdefault(g.place(v, [s.letter for s in v.sorts][: 1 if v.one else None]).rpartition(".")[0], v)
    for place, v in found.items():
        sorts = v.sorts[:1] if v.one else v.sorts
        if not sorts:
            lines.append(f"image.region(&m.{place}, 1);")
            continue
        outer = place[: place.rindex("[")]
        body = f"image.region(m.{outer}.data(), m.{outer}.size());"
        for sort in reversed(sorts[:-1]):
            body = _loop(g, sort, body)
        lines.append(body)
    lines.append("std::int32_t value = 0;")
    for v in shared_order(g.spec):
        index = [s.letter for s in v.sorts]
        sorts = v.sorts
        moves = str(v.name in RELATION_TABLES.values()).lower()
        if v.name in RELATION_TABLES:
            count = " * ".join(f"{s.name.lower()}s" for s in v.sorts)
            lines.append(f"value += {count};")
            continue
        if v.one:
            many, sorts = f"{v.sorts[1].name.lower()}s", v.sorts[:1]
            place = g.place(v, index[:1])
            body = f"image.cell(m.{place}, value, static_cast<std::int16_t>({many}), {moves});\nvalue += {many};"
        else:
            body = f"image.cell(m.{g.place(v, index)}, value++, 0, {moves});"
        for sort in reversed(sorts):
            body = _loop(g, sort, body)
        lines.append(body)
    lines.append("restored.values = static_cast<std::size_t>(value);")
    for i, (_, holder) in enumerate(tables):
        lines.append(f"restored.tables[{i}].resize(static_cast<std::size_t>({holder.name.lower()}s));")
    body = indent("\n".join(lines), "  ")
    return f"{restored}\nstatic void show(Restored& restored) {{\n{body}\n}}\n"


def _take(g: SchedulerGenerator) -> str:
    """One accepted proposal; tables are compared whole and changed back through their own methods."""
    touched, undone = [], []
    for i, (name, holder) in enumerate(_tables(g)):
        one = holder.letter
        kept = f"restored.tables[{i}][static_cast<std::size_t>({one})]"
        touched.append(_loop(g, holder, f"moved = moved || m.{name}_.of({one}) != {kept};"))
        put = (
            f"const auto& kept = {kept};\nif (m.{name}_.of({one}) == kept) continue;\n"
            f"while (!m.{name}_.of({one}).empty()) {{\n"
            f"  const auto last = static_cast<std::int64_t>(m.{name}_.of({one}).size()) - 1;\n"
            f"  m.{name}_.set({one}, m.{name}_.of({one}).back(), last * m.limits_.page, false);\n}}\n"
            f"for (std::size_t at = 0; at < kept.size(); ++at) {{\n"
            f"  if (kept[at] != kNone) m.{name}_.set({one}, kept[at], static_cast<std::int64_t>(at) * m.limits_.page, true);\n}}"
        )
        undone.append(_loop(g, holder, put))
    holders = {holder.name: holder for _, holder in _tables(g)}
    counts = [f"const {g.ids[s]} {s.lower()}s = m.{s.lower()}_count();" for s in holders]
    lines = [
        "auto& restored = *static_cast<Restored*>(machine);",
        "Machine& m = restored.machine;",
        *counts,
        "if (propose(machine, proposal, 1, answer) == 0 && *answer != 0) return -1;",
        "bool moved = false;",
        *touched,
        "std::int32_t value = moved ? difference(machine, post) : -1;",
        "if (moved) {",
        indent("\n".join(undone), "  "),
        "  restored.image.undo(pre, post, restored.values);",
        "  return value;",
        "}",
        "if (restored.image.undo(pre, post, restored.values)) return -1;",
        "// Not clear: position changed, or it is wrong. Once more, and value by value.",
        "propose(machine, proposal, 1, answer);",
        "value = difference(machine, post);",
        "restored.image.undo(pre, post, restored.values);",
        "return value;",
    ]
    body = indent("\n".join(lines), "  ")
    return (
        "static std::int32_t take(void* machine, const Proposal* proposal, const std::int8_t* pre, "
        f"const std::int8_t* post,\n                         std::uint16_t* answer) {{\n{body}\n}}\n"
    )


def _create(g: SchedulerGenerator) -> str:
    spec = g.spec
    lines = ["Limits limits;"]
    lines += [f"limits.{name.lower()} = constants[{i}];" for i, name in enumerate(spec.constants)]
    for i, sort in enumerate(spec.sorts):
        if spec.size(sort) is None and sort != GROWING:
            lines.append(f"limits.{sort.lower()}_records = population[{i}];")
    lines.append("auto* restored = new MachineAccess::Restored(limits);")
    growing = list(spec.sorts).index(GROWING)
    lines.append(f"for (std::int32_t i = 0; i < population[{growing}]; ++i) restored->machine.add_{GROWING.lower()}();")
    lines.append("show(*restored);")
    body = indent("\n".join([*lines, "return restored;"]), "  ")
    return f"static void* create(const std::int64_t* constants, const std::int32_t* population) {{\n{body}\n}}\n"


def _loop(g: SchedulerGenerator, sort: Sort, body: str) -> str:
    """The body for every individual of the sort."""
    letter, count = sort.letter, f"{sort.name.lower()}s"
    return f"for ({g.ids[sort.name]} {letter} = 0; {letter} < {count}; ++{letter}) {{\n{indent(body, '  ')}\n}}"


def _locals(g: SchedulerGenerator, const: str) -> list[str]:
    """Counts and arrays in local variables: for all that a compiler knows, a write of a byte may change any member."""
    lines = [f"{const}Machine& m = static_cast<{const}Restored*>(machine)->machine;"]
    for sort in g.spec.sorts.values():
        lines.append(f"const {g.ids[sort.name]} {sort.name.lower()}s = m.{sort.name.lower()}_count();")
    lines += [f"{const}auto* const {member} = m.{member}.data();" for member in _members(g)]
    return lines


def _members(g: SchedulerGenerator) -> list[str]:
    variables = [v for v in shared_order(g.spec) if v.sorts and v.name not in RELATION_TABLES]
    first = [g.place(v, [s.letter for s in v.sorts][: 1 if v.one else None]).split("[")[0] for v in variables]
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
        lines.append(_loop(g, holder, clear))
    for v in shared_order(g.spec):
        index = [s.letter for s in v.sorts]
        if v.name in RELATION_TABLES:
            where = g.place(table[RELATION_TABLES[v.name]], [index[1]])
            body = f"if (*state++ != 0) m.{v.name}_.set({', '.join(index)}, {where}, true);"
        elif v.one:
            place = g.place(v, index[:1])
            inner = _loop(g, v.sorts[1], f"if (*state++ != 0) {place} = {index[1]};")
            lines.append(_loop(g, v.sorts[0], f"{place} = kNone;\n{inner}"))
            continue
        else:
            value = "*state++ != 0" if v.type == BOOL else "*state++"
            value = f"static_cast<{v.type}>(*state++)" if v.type in g.spec.enums else value
            body = f"{_member(g, v, index)} = {value};"
        for sort in reversed(v.sorts):
            body = _loop(g, sort, body)
        lines.append(body)
    lines.append("static_cast<Restored*>(machine)->image.keep();")
    for i, (name, holder) in enumerate(_tables(g)):
        body = f"auto& kept = static_cast<Restored*>(machine)->tables[{i}][static_cast<std::size_t>({holder.letter})];\n"
        body += f"if (kept != m.{name}_.of({holder.letter})) kept = m.{name}_.of({holder.letter});"
        lines.append(_loop(g, holder, body))
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
        value = f"static_cast<std::int64_t>({_member(g, v, [s.letter for s in v.sorts])})"
        fast = f"differs |= {value} ^ *state++;"
        exact = f"if ({value} != *state++) return static_cast<std::int32_t>(state - 1 - start);"
        for sort in reversed(v.sorts):
            fast, exact = _loop(g, sort, fast), _loop(g, sort, exact)
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
        quick.append(_loop(g, first, body))
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
