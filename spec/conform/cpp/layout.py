"""Where the generated class `Machine` keeps each variable, read from machine.h, and the checks of what it declares.

Names, orders, tables, initial values and accessors are compared with the specification here; what the transitions
do is proved in translation.py with the places that this module found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...language.expressions import BOOL, Expr, variables_read
from ...language.spec import Definition, Spec, Transition, Variable
from .declarations import Field, Function, Structure, Unit
from .parser import Node

ID_TYPE = "std::int32_t"
ENUM_SIZES = {"std::uint8_t": 256, "std::uint16_t": 65536}


@dataclass(frozen=True)
class Finding:
    """Something that is not as the specification says. `by`: "parser", "declarations", "structure" or "z3"."""

    file: str
    line: int
    what: str
    by: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Place:
    """A field of a record in a container (`block_[b].fill`), or a relation in a table (`holds_.contains(r, b, at)`)."""

    member: str
    field: str
    at: Node | None = None


@dataclass
class Layout:
    """What machine.h says: places of variables, C++ names of ids and enumerators, and what contradicts the spec."""

    spec: Spec
    unit: Unit
    machine: Structure
    places: dict[str, Place] = field(default_factory=dict)
    accessors: dict[str, Function] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    none: int = 0

    def report(self, line: int, what: str) -> None:
        """Note a contradiction in the header."""
        self.findings.append(Finding(self.unit.file, line, what, "declarations"))

    def id_type(self, sort: str) -> str:
        """The C++ type of a sort's individuals."""
        return f"{sort}Id"

    def value_type(self, type_: str) -> str:
        """The C++ type of a value or parameter."""
        if type_ in self.spec.sorts:
            return self.id_type(type_)
        return type_ if type_ in self.spec.enums else "bool" if type_ == BOOL else "std::int64_t"

    def kept_type(self, variable: Variable) -> str:
        """The C++ type of the field that keeps a variable."""
        return self.id_type(variable.sorts[1].name) if variable.one else self.value_type(variable.type)

    def is_relation(self, variable: Variable) -> bool:
        """Kept as a table or an id, and in the checked build as a ghost too."""
        place = self.places.get(variable.name)
        return variable.one or (place is not None and place.at is not None)

    def enumerator(self, enum: str, name: str) -> int | None:
        """The number of `BlockState::Free`, or None if there is none."""
        values = self.unit.enums[enum].values if enum in self.unit.enums else ()
        return values.index(name) if name in values else None

    def variable_at(self, member: str, field_: str) -> Variable | None:
        """The variable that a place holds."""
        names = [n for n, p in self.places.items() if (p.member, p.field) == (member, field_)]
        return self.spec.variables[names[0]] if names else None

    def relation_in(self, member: str) -> tuple[Variable, Place] | None:
        """The relation that a table holds."""
        found = [(self.spec.variables[n], p) for n, p in self.places.items() if p.member == member and p.at is not None]
        return found[0] if found else None


def guard_enumerator(transition: str, guard: str) -> str:
    """The enumerator that names a guard in C++."""
    return f"{transition}__{re.sub('[^A-Za-z0-9]', '_', guard)}"


def read_layout(spec: Spec, unit: Unit, ids: str) -> Layout:
    """Read places from machine.h and check everything that it declares. `ids`: text of ids.h."""
    machine = unit.structures.get("Machine") or Structure("Machine", 1)
    layout = Layout(spec, unit, machine)
    none = re.search(r"inline constexpr std::int32_t kNone = (-?\d+);", ids)
    layout.none = int(none[1]) if none else 0
    if not unit.source.once:
        layout.report(1, "#pragma once is missing")
    _check_ids(layout, ids)
    _check_enums(layout)
    _check_tables(layout)
    _find_places(layout)
    _check_initial_values(layout)
    _check_limits(layout)
    _check_transitions(layout)
    _check_counts(layout)
    _check_definitions(layout)
    return layout


def _check_ids(layout: Layout, text: str) -> None:
    known = dict(re.findall(r"using (\w+) = ([\w:]+);", text)) | layout.unit.names
    for sort in layout.spec.sorts:
        if known.get(layout.id_type(sort)) != ID_TYPE:
            layout.report(1, f"{layout.id_type(sort)} is {known.get(layout.id_type(sort))}, not {ID_TYPE}")


def _check_enums(layout: Layout) -> None:
    expected = {
        e.name: tuple("".join(w.title() for w in v.split("_")) for v in e.values) for e in layout.spec.enums.values()
    }
    expected["Transition"] = tuple(layout.spec.transitions)
    guards = [guard_enumerator(t.name, g.name) for t in layout.spec.transitions.values() for g in t.guards]
    expected["Guard"] = ("none", *guards, "bad_index")
    for name in expected.keys() | layout.unit.enums.keys():
        found = layout.unit.enums.get(name)
        if found is None:
            layout.report(1, f"enum {name} is missing")
        elif name not in expected:
            layout.report(found.line, f"enum {name} is not in the specification")
        elif found.values != expected[name]:
            layout.report(found.line, f"enum {name} {_difference(found.values, expected[name])}")
        elif len(found.values) > ENUM_SIZES.get(found.type, 0):
            layout.report(found.line, f"enum {name} has {len(found.values)} values; {found.type} cannot hold them")


def _difference(found: tuple[str, ...], expected: tuple[str, ...]) -> str:
    for i, name in enumerate(expected):
        if i >= len(found) or found[i] != name:
            return f"has {found[i] if i < len(found) else 'nothing'} at {i}, the specification has {name}"
    return f"has {found[len(expected)]} beyond the specification"


def _check_tables(layout: Layout) -> None:
    spec, constants = layout.spec, layout.unit.constants
    guards = [f"{t.name}:{g.name}" for t in spec.transitions.values() for g in t.guards]
    tables = {
        "kTransitionNames": ("kTransitions", tuple(spec.transitions)),
        "kGuardNames": (str(len(guards) + 2), ("none", *guards, "index out of range")),
    }
    expected = {"kSpecHash": spec.digest(), "kTransitions": str(len(spec.transitions))}
    for name in [*tables, *expected]:
        if name not in constants:
            layout.report(1, f"{name} is missing")
    for name, constant in constants.items():
        value = constant.value
        if name in expected:
            text = value.args[0].strip('"') if value is not None and value.kind in ("string", "number") else None
            if text != expected[name]:
                layout.report(constant.line, f"{name} is {text}, the specification says {expected[name]}")
        elif name in tables:
            size, texts = tables[name]
            found = tuple(a.args[0].strip('"') for a in value.args[1]) if value and value.kind == "braces" else ()
            if found != texts:
                layout.report(constant.line, f"{name} {_difference(found, texts)}")
            if constant.type != f"std::array<std::string_view, {size}>":
                layout.report(constant.line, f"{name} is a {constant.type}, which does not have {size} places")
        else:
            layout.report(constant.line, f"{name}: a constant that nothing is known about")


def _find_places(layout: Layout) -> None:
    """Each accessor `T name(ids) const { return place; }` says where its variable is."""
    taken: dict[tuple[str, str], str] = {}
    for variable in layout.spec.variables.values():
        if variable.ghost:
            continue
        accessor = layout.machine.functions.get(variable.name)
        if accessor is None or accessor.body is None:
            layout.report(layout.machine.line, f"no accessor {variable.name}")
            continue
        place = _place_of(layout, accessor)
        types = tuple(t for t, _ in accessor.parameters)
        wanted = tuple(layout.id_type(s.name) for s in (variable.sorts[:1] if variable.one else variable.sorts))
        if types != wanted or not accessor.const or accessor.private:
            layout.report(accessor.line, f"{variable.name} is not a public constant function of {wanted}")
        elif accessor.returns != layout.kept_type(variable):
            layout.report(accessor.line, f"{variable.name} gives {accessor.returns}, not {variable.type}")
        elif place is None or (place.at is None and place.field != variable.name):
            layout.report(accessor.line, f"{variable.name} does not return its own field for its own parameters")
        elif (place.member, place.field) in taken:
            layout.report(accessor.line, f"{variable.name} and {taken[place.member, place.field]} share one place")
        else:
            taken[place.member, place.field] = variable.name
            layout.places[variable.name], layout.accessors[variable.name] = place, accessor
    for name, place in layout.places.items():
        _check_storage(layout, layout.spec.variables[name], place)


def _place_of(layout: Layout, accessor: Function) -> Place | None:
    body = accessor.body
    if body is None or len(body.args) != 1 or body.args[0].kind != "return" or body.args[0].args[0] is None:
        return None
    result, names = body.args[0].args[0], [n for _, n in accessor.parameters]
    if result.kind == "call" and result.args[0].kind == "member" and result.args[0].args[1] == "contains":
        table, (*ids, at) = result.args[0].args[0], result.args[1]
        if table.kind == "name" and [str(i) for i in ids] == [f"(name {n})" for n in names]:
            return Place(table.args[0], "", at)
        return None
    if result.kind != "member":
        return None
    record, field_ = result.args
    for name in reversed(names):
        if record.kind != "index" or str(record.args[1]) != f"(name {name})":
            return None
        record = record.args[0]
    return Place(record.args[0], field_) if record.kind == "name" else None


def _check_storage(layout: Layout, variable: Variable, place: Place) -> None:
    """The member is private and is as many vectors deep as the variable has indices; its record has the field."""
    member = layout.machine.fields.get(place.member)
    if member is None or not member.private:
        layout.report(layout.machine.line, f"{place.member}, where {variable.name} is kept, is not a private member")
        return
    if place.at is not None:
        if member.type != "BlockTables":
            layout.report(member.line, f"{place.member} is a {member.type}, not BlockTables")
        return
    type_ = member.type
    for _ in variable.sorts[:1] if variable.one else variable.sorts:
        inner = re.fullmatch(r"std::vector<(.*)>", type_)
        type_ = inner[1] if inner else "?"
    structure = layout.unit.structures.get(type_)
    found = structure.fields.get(place.field) if structure else None
    if found is None or found.type != layout.kept_type(variable):
        layout.report(member.line, f"{place.member} is a {member.type}: {variable.name} needs another type there")


def _check_initial_values(layout: Layout) -> None:
    """Every field of a record is a variable of the specification and starts as it says (constants: see constructor)."""
    kept = {p.field for p in layout.places.values()}
    for structure in layout.unit.structures.values():
        if structure.name in ("Machine", "Limits"):
            continue
        for name, found in structure.fields.items():
            if name not in kept:
                layout.report(found.line, f"{structure.name}.{name} is no variable of the specification")
                continue
            init = layout.spec.variables[name].init
            value = found.value if found.value is not None else Node("missing", (), found.line)
            if str(value) != start_text(layout.spec.variables[name]):
                layout.report(found.line, f"{name} starts differently; the specification says {init}")
    for name, found in _ghosts(layout).items():
        variable = layout.spec.variables.get(name)
        if variable is None or not (variable.ghost or layout.is_relation(variable)):
            layout.report(found.line, f"{name} is no ghost of the specification")
        elif found.type != f"Ghost<{len(variable.sorts)}, {layout.value_type(variable.type)}>":
            layout.report(found.line, f"ghost {name} is a {found.type}")
        elif variable.init.op != "const" and initial_text(variable.init) not in ("(name false)", "(number 0)"):
            layout.report(found.line, f"ghost {name} starts as {variable.init}, but Ghost starts from zero")


def _check_limits(layout: Layout) -> None:
    """The constants start at their minimum; the other fields are numbers of records; `visit` shows all in order."""
    limits = layout.unit.structures.get("Limits") or Structure("Limits", layout.machine.line)
    wanted = {c.lower(): ("std::int64_t", f"(number {low})") for c, (_, low, _) in layout.spec.constants.items()}
    counted = [s for s in layout.spec.sorts if layout.spec.size(s) is None]
    grown = {s for s in counted if f"add_{s.lower()}" in layout.machine.functions}
    wanted |= {f"{s.lower()}_records": (layout.id_type(s), "(number 0)") for s in counted if s not in grown}
    for name in wanted.keys() | limits.fields.keys():
        found = limits.fields.get(name)
        if found is None or (found.type, str(found.value)) != wanted.get(name):
            line = limits.line if found is None else found.line
            layout.report(line, f"Limits.{name} is not what the specification's constants and sorts need")
    visit = limits.functions.get("visit")
    shown = [f'(do (call (name visit) [(string "{n}") (cast std::int64_t (name {n}))]))' for n in wanted]
    if visit is None or visit.template != "class Visit" or str(visit.body) != f"(block {' '.join(shown)})":
        layout.report(limits.line if visit is None else visit.line, "Limits.visit does not show every field once")


def start_text(variable: Variable) -> str:
    """What a field starts as; the constructor sets those that start at a constant."""
    if variable.one:
        return "(name kNone)"
    return "(number 0)" if variable.init.op == "const" else initial_text(variable.init)


def _ghosts(layout: Layout) -> dict[str, Field]:
    return layout.machine.nested["Ghosts"].fields if "Ghosts" in layout.machine.nested else {}


def initial_text(init: Expr) -> str:
    """A literal or enumerator as the parser shows it."""
    if init.op == "enum":
        return f"(name {init.args[0].name}::{''.join(w.title() for w in init.args[1].split('_'))})"
    return f"(name {str(init.args[0]).lower()})" if init.type == BOOL else f"(number {init.args[0]})"


def parameters_of(layout: Layout, transition: Transition) -> tuple[tuple[str, str], ...]:
    """The C++ parameters that a transition must have."""
    return tuple((layout.value_type(p.type), p.name) for p in transition.parameters)


def _check_transitions(layout: Layout) -> None:
    for transition in layout.spec.transitions.values():
        found = layout.machine.functions.get(f"apply_{transition.name}")
        if found is None:
            layout.report(layout.machine.line, f"apply_{transition.name} is not declared")
        elif found.parameters != parameters_of(layout, transition) or found.returns != "Guard":
            layout.report(found.line, f"apply_{transition.name} does not have the parameters of {transition.name}")
        elif not found.nodiscard:
            layout.report(found.line, f"apply_{transition.name} is not [[nodiscard]]")
    apply = layout.machine.functions.get("apply")
    if apply is None or not apply.nodiscard:
        layout.report(layout.machine.line, "apply is not declared as [[nodiscard]]")


def _check_counts(layout: Layout) -> None:
    for sort in layout.spec.sorts:
        name, type_ = f"{sort.lower()}_count", layout.id_type(sort)
        found = layout.machine.functions.get(name)
        size = f"(call (member (name {sort.lower()}_) size) [])"
        wanted = f"(block (return (cast {type_} {size})))"
        if found is None or found.returns != type_ or found.parameters or str(found.body) != wanted:
            line = layout.machine.line if found is None else found.line
            layout.report(line, f"{name} is not the number of {sort} records")

        existence = layout.machine.functions.get(f"has_{sort.lower()}")
        below = f"(binary < (name x) (call (name {name}) []))"
        wanted = f"(block (return (binary && (binary >= (name x) (number 0)) {below})))"
        if existence is None or existence.parameters != ((type_, "x"),) or str(existence.body) != wanted:
            line = layout.machine.line if existence is None else existence.line
            layout.report(line, f"has_{sort.lower()} does not say whether there is such a {sort}")


def readable_definitions(layout: Layout) -> list[Definition]:
    """Definitions that C++ can evaluate: those that speak of no ghost."""
    ghosts = {v.name for v in layout.spec.variables.values() if v.ghost}
    return [d for d in layout.spec.definitions.values() if not variables_read(d.formula) & ghosts]


def _check_definitions(layout: Layout) -> None:
    for definition in readable_definitions(layout):
        found = layout.machine.functions.get(definition.name)
        types = tuple((layout.value_type(p.type), p.name) for p in definition.parameters)
        if found is None or found.body is None:
            layout.report(layout.machine.line, f"{definition.name} is not defined")
        elif found.parameters != types or not found.const or found.private:
            layout.report(found.line, f"{definition.name} is not a public constant function of {types}")
        elif found.returns != layout.value_type(definition.formula.type):
            layout.report(found.line, f"{definition.name} gives {found.returns}")


def missing_ghosts(layout: Layout) -> Iterator[str]:
    """Ghosts of the specification that the checked build does not carry."""
    for variable in layout.spec.variables.values():
        if (variable.ghost or layout.is_relation(variable)) and variable.name not in _ghosts(layout):
            yield variable.name
