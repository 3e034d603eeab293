"""Generates machine.cpp, what each transition checks and does, and for the checked build machine_ghosts.cpp, what it
does to ghosts, and machine_check.cpp, which recounts every property.

`apply_*` functions are the only writers of the state. They check every guard (in release builds too), write all
effects, each read in the state before, and return `Guard::none`, or the guard that refused and nothing has changed.
"""

from __future__ import annotations

from ...language.expressions import SpecError, to_text, variables_read
from ...language.spec import Count, Effect, Parameter, Spec, Transition, Variable
from ..cpp import guard_identifier, header
from ..writer import Writer
from .header import ARGUMENTS, machine_h, nested
from .machine import Storage

INCLUDE = '#include "scheduler/generated/machine.h"'


def machine_files(spec: Spec) -> dict[str, str]:
    """File name -> content."""
    storage = Storage(spec)
    return {
        "machine.h": machine_h(storage),
        "machine.cpp": _machine_cpp(storage),
        "machine_ghosts.cpp": _machine_ghosts_cpp(storage),
        "machine_check.cpp": _machine_check_cpp(storage),
    }


def _machine_cpp(storage: Storage) -> str:
    out = Writer()
    out.line(header(storage.spec, "What each transition checks and does."), INCLUDE, "", "namespace tokenspeed {", "")
    _constructor(out, storage)
    for t in storage.spec.transitions.values():
        _apply(out, storage, t)
    _dispatch(out, storage)
    with out.only_if("!TOKENSPEED_CHECKED"):
        out.line("void Machine::recheck() const {}")
    out.line("", "}  // namespace tokenspeed")
    return out.text()


def _constructor(out: Writer, storage: Storage) -> None:
    spec, growing = storage.spec, storage.growing
    sizes = {s: f"limits.{(spec.size(s) or f'{s}_records').lower()}" for s in storage.sorts if s != growing}
    made = ["limits_(limits)"]
    for variables in storage.records().values():
        sorts = [s.name for s in variables[0].sorts[: 1 if variables[0].one else None]]
        if sorts and sorts[0] in sizes:
            member = "".join(f"{s.lower()}_" for s in sorts)
            made.append(f"{member}(static_cast<std::size_t>({sizes[sorts[0]]}))")
    made += [f"{name}_(limits.page)" for name in storage.tables]
    out.line("Machine::Machine(const Limits& limits)")
    out.line("    : " + ",\n      ".join(made) + " {")
    out.depth += 1
    for v in (v for v in spec.variables.values() if v.init.op == "const"):
        value = storage.text(v.init)
        out.line(f"CHECKED_ONLY(ghost_.{v.name}.set({{}}, {value});)" if v.ghost else f"globals_.{v.name} = {value};")
    out.depth -= 1
    out.line("}", "")
    with out.block(f"{storage.ids[growing]} Machine::add_{growing.lower()}() {{"):
        for variables in storage.records().values():
            sorts = [s.name for s in variables[0].sorts[: 1 if variables[0].one else None]]
            member = "".join(f"{s.lower()}_" for s in sorts)
            if sorts[:1] == [growing]:
                out.line(f"{member}.emplace_back();")
            elif growing in sorts:
                out.line(f"for (auto& rows : {member}) rows.emplace_back();")
        for name in storage.tables:
            if spec.variables[name].sorts[0].name == growing:
                out.line(f"{name}_.add_{growing.lower()}();")
        out.line(f"return {growing.lower()}_count() - 1;")
    out.line("")


def _apply(out: Writer, storage: Storage, t: Transition) -> None:
    with out.block(f"Guard Machine::apply_{t.name}({storage.signature(t.parameters)}) {{"):
        known = [f"!has_{p.type.lower()}({p.name})" for p in t.parameters if p.type in storage.ids]
        if known:
            out.line(f"if ({' || '.join(known)}) return Guard::bad_index;")
        for g in t.guards:
            test, refuse = f"if ({storage.refuted(g.condition)})", f"return Guard::{guard_identifier(t, g.name)};"
            if storage.is_ghost(g.condition):
                out.line(f"CHECKED_ONLY({test} {refuse})")
            elif out.fits(f"{test} {refuse}"):
                out.line(f"{test} {refuse}")
            else:
                nested(out, [f"{test} {{"], refuse)
        if storage.ghost_effects(t):
            names = ", ".join(p.name for p in storage.ghost_parameters(t))
            out.line(f"CHECKED_ONLY(ghost_{t.name}({names});)")
        effects, early = _in_order([e for e in t.effects if not e.variable.ghost])
        for e in early:
            out.line(f"const {storage.cpp_type(e.variable.type)} new_{e.variable.name} = {storage.text(e.value)};")
        for e in effects:
            out.line(_write(storage, t, e, f"new_{e.variable.name}" if e in early else ""))
        out.line(f"record({', '.join([f'Transition::{t.name}', *(p.name for p in t.parameters)])});")
        out.line("return Guard::none;")
    out.line("")


def _in_order(effects: list[Effect]) -> tuple[list[Effect], list[Effect]]:
    """The effects so that none reads what one before it wrote; and those to be computed before all are written."""
    left, order, early = [*effects], list[Effect](), list[Effect]()
    while left:
        free = next((e for e in left if not _is_read(e.variable, left, early, e)), left[0])
        if _is_read(free.variable, left, early, free):
            early += [e for e in left if e is not free and free.variable.name in variables_read(e.value)]
        left.remove(free)
        order.append(free)
    return sorted(order, key=lambda e: e.variable.table is not None), early


def _is_read(variable: Variable, left: list[Effect], early: list[Effect], but: Effect) -> bool:
    return any(variable.name in variables_read(e.value) for e in left if e is not but and e not in early)


def _write(storage: Storage, t: Transition, e: Effect, computed: str) -> str:
    """One assignment. `computed`: the local value that has been computed before."""
    index, value = [storage.text(i) for i in e.index], computed or storage.text(e.value)
    if e.variable.name in storage.tables:
        where = storage.place(storage.spec.variables[storage.tables[e.variable.name]], [index[1]])
        return f"{e.variable.name}_.set({', '.join(index)}, {where}, {value});"
    if e.variable.one:
        if value not in ("true", "false"):
            raise SpecError(f"{t.name}: {e.variable.name} is set to {e.value}; it must be set to true or false")
        return f"{storage.place(e.variable, index[:1])} = {index[1] if value == 'true' else 'kNone'};"
    place = storage.place(e.variable, index)
    if not computed and e.value.op in ("add", "sub") and to_text(e.value.args[0]) == to_text(e.variable(*e.index)):
        sign = "+=" if e.value.op == "add" else "-="
        return f"{place} {sign} {storage.text(e.value.args[1])};"
    return f"{place} = {value};"


def _dispatch(out: Writer, storage: Storage) -> None:
    with out.block(f"Guard Machine::apply(Transition transition, {ARGUMENTS}) {{"):
        with out.block("switch (transition) {"):
            for t in storage.spec.transitions.values():
                given = [f"arguments[{i}]" for i in range(len(t.parameters))]
                cast = {i: f"static_cast<{storage.ids[p.type]}>({given[i]})" for i, p in enumerate(t.parameters)
                        if p.type in storage.ids}  # fmt: skip
                with out.block(f"case Transition::{t.name}:", ""):
                    if cast:
                        wide = " || ".join(f"{given[i]} != {narrow}" for i, narrow in cast.items())
                        out.line(f"if ({wide}) return Guard::bad_index;")
                    taken = ", ".join(cast.get(i, x) for i, x in enumerate(given))
                    out.line(f"return apply_{t.name}({taken});")
        out.line("return Guard::bad_index;")
    out.line("")


# The checked build.


def _machine_ghosts_cpp(storage: Storage) -> str:
    out = Writer()
    out.line(header(storage.spec, "Checked build: what each transition does to ghosts, all read in the state before."))
    out.line(INCLUDE, "")
    with out.only_if("TOKENSPEED_CHECKED"):
        out.line("", "namespace tokenspeed {", "")
        for t in storage.spec.transitions.values():
            effects = storage.ghost_effects(t)
            if not effects:
                continue
            with out.block(f"void Machine::ghost_{t.name}({storage.signature(storage.ghost_parameters(t))}) {{"):
                out.line("GhostWrites ghost_writes;")
                for e in effects:
                    index, value = ", ".join(map(storage.text, e.index)), storage.text(e.value)
                    write = f"ghost_writes.add(ghost_.{e.variable.name}, {{{index}}}, {value});"
                    nested(out, storage.loops([*e.binders]), write)
                out.line("ghost_writes.commit();")
            out.line("")
        out.line("}  // namespace tokenspeed", "")
    return out.text()


def _machine_check_cpp(storage: Storage) -> str:
    out = Writer()
    out.line(header(storage.spec, "Checked build: recounts every property and counter."))
    with out.only_if("TOKENSPEED_CHECKED"):
        out.line("", INCLUDE, "", "namespace tokenspeed {", "")
        with out.block("void Machine::recheck() const {"):
            for p in storage.spec.invariants():
                fail = _fail(p.name, p.parameters)
                nested(out, storage.loops([*p.parameters]), f"if ({storage.refuted(p.formula)}) {fail}")
            for count in storage.spec.counts.values():
                _recount(out, storage, count)
            for v in (v for v in storage.ghosts() if storage.is_relation(v)):
                index, kept = storage.letters(v), storage.read(v, [*v.letters])
                test = (
                    f"if ({kept} != ghost_.{v.name}.get({{{', '.join(v.letters)}}})) {_fail(f'{v.name} table', index)}"
                )
                nested(out, storage.loops(index), test)
        out.line("", "}  // namespace tokenspeed", "")
    return out.text()


def _recount(out: Writer, storage: Storage, count: Count) -> None:
    weight = "1" if count.weight is None else storage.text(count.weight)
    kept = storage.read(count.variable, [i.name for i in count.index])
    (loop,) = storage.loops([count.over])
    body = [
        "std::int64_t total = 0;",
        loop,
        f"{out.unit}if ({storage.text(count.condition)}) total += {weight};",
        "}",
        f"if ({kept} != total) {_fail(f'count {count.variable.name}', count.index)}",
    ]
    nested(out, storage.loops([*count.index]) or ["{"], *body)


def _fail(name: str, parameters: list[Parameter] | tuple[Parameter, ...]) -> str:
    return f'fail_invariant("{name}", {{{", ".join(p.name for p in parameters)}}});'


__all__ = ["machine_files"]
