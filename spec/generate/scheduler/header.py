"""Generates machine.h: enums, records, and the class `Machine` with its readers and the names of its transitions."""

from __future__ import annotations

from ...language.labels import guard_labels
from ...language.printing import camel
from ..cpp import guard_identifier, header
from ..writer import Writer
from .machine import Storage

INCLUDES = ("block_tables", "ghost", "ids", "trace_buffer")


def machine_h(storage: Storage) -> str:
    """The file."""
    out, spec = Writer(), storage.spec
    out.line(header(spec, "The state and the transitions of requests, KV blocks and steps."), "#pragma once", "")
    out.line("#include <array>", "#include <cstdint>", "#include <string_view>", "#include <vector>", "")
    out.line(*[f'#include "scheduler/core/state/{name}.h"' for name in INCLUDES], "", "namespace tokenspeed {", "")
    out.line(f'inline constexpr std::string_view kSpecHash = "{spec.digest()}";', "")
    for enum in spec.enums.values():
        with out.block(f"enum class {enum.name} : std::uint8_t {{", "};"):
            out.line(*[f"{camel(v)},  // {enum.docs[v]}" for v in enum.values])
        out.line("")
    _names(out, storage)
    for name, variables in storage.records().items():
        with out.block(f"struct {name}Fields {{", "};"):
            for v in variables:
                init = "kNone" if v.one else "0" if v.init.op == "const" else storage.text(v.init)
                type_ = storage.ids[v.sorts[1].name] if v.one else storage.cpp_type(v.type)
                out.line(f"{type_} {v.name} = {init};  // {v.doc}")
        out.line("")
    _limits(out, storage)
    with out.block("class Machine {", "};"):
        _public(out, storage)
        _private(out, storage)
    out.line("")
    _visitor(out, storage)
    out.line("", "}  // namespace tokenspeed")
    return out.text()


def _names(out: Writer, storage: Storage) -> None:
    """Transitions and guards, as enumerators and as texts."""
    spec = storage.spec
    out.wrapped("enum class Transition : std::uint8_t {", spec.transitions, "};")
    out.line("", f"inline constexpr std::size_t kTransitions = {len(spec.transitions)};", "")
    head = "inline constexpr std::array<std::string_view, kTransitions> kTransitionNames = {"
    out.wrapped(head, [f'"{t}"' for t in spec.transitions], "};")
    guards = [guard_identifier(t, g.name) for t in spec.transitions.values() for g in t.guards]
    out.line("", "// Why a transition was refused: the first guard that is false.")
    out.wrapped("enum class Guard : std::uint16_t {", ["none", *guards, "bad_index"], "};")
    labels = [f'"{x}"' for x in ("none", *guard_labels(spec), "index out of range")]
    out.line("")
    out.wrapped(f"inline constexpr std::array<std::string_view, {len(labels)}> kGuardNames = {{", labels, "};")
    out.line("")


def _limits(out: Writer, storage: Storage) -> None:
    """The constants of a machine, and how many records it has of sorts that no constant counts."""
    spec, recorded = storage.spec, storage.recorded()
    out.line(f"// The size of a machine. {storage.growing}s are added one by one.")
    with out.block("struct Limits {", "};"):
        out.line(*[f"std::int64_t {name.lower()} = {low};  // {doc}" for name, (_, low, doc) in spec.constants.items()])
        out.line(*[f"{storage.ids[sort]} {sort.lower()}_records = 0;" for sort in recorded])
        out.line("", "// Calls visit(name, value) for every field.", "template <class Visit>")
        with out.block("void visit(Visit&& visit) const {"):
            names = [c.lower() for c in spec.constants] + [f"{sort.lower()}_records" for sort in recorded]
            out.line(*[f'visit("{name}", static_cast<std::int64_t>({name}));' for name in names])
    out.line("")


def _public(out: Writer, storage: Storage) -> None:
    spec = storage.spec
    _access(out, "public")
    out.line("explicit Machine(const Limits& limits);", "")
    out.line("const Limits& limits() const { return limits_; }", "// One more record, in its initial state.")
    out.line(f"{storage.ids[storage.growing]} add_{storage.growing.lower()}();", "")
    for sort in storage.sorts:
        low, id_ = sort.lower(), storage.ids[sort]
        out.line(f"{id_} {low}_count() const {{ return static_cast<{id_}>({low}_.size()); }}")
    for sort in storage.sorts:
        low = sort.lower()
        out.line(f"bool has_{low}({storage.ids[sort]} x) const {{ return x >= 0 && x < {low}_count(); }}")
    out.line("", "// The state.")
    _readers(out, storage)
    out.line("", "// What is said of it by name.")
    for d in spec.definitions.values():
        if not storage.is_ghost(d.formula):
            out.line(*[f"// {line}" for line in d.doc.split("\n\n")[0].split("\n")])
            head = f"{storage.cpp_type(d.formula.type)} {d.name}({storage.signature(d.parameters)}) const"
            with out.block(f"{head} {{"):
                out.line(f"return {storage.text(d.formula)};")
    out.line(
        "", "// The transitions. Each returns Guard::none, or the guard that is false, and then nothing has changed."
    )
    for t in spec.transitions.values():
        out.line(*[f"// {line}" for line in t.doc.split("\n")])
        out.line(f"[[nodiscard]] Guard apply_{t.name}({storage.signature(t.parameters)});")
    out.line(
        "",
        "// Any transition, by its number; the arguments are those of apply_*, in order. An id that its type cannot",
        "// hold is refused like one of no record.",
        f"[[nodiscard]] Guard apply(Transition transition, {ARGUMENTS});",
        "",
        "// How often each transition was taken.",
        "const std::array<std::uint64_t, kTransitions>& taken() const { return taken_; }",
        "// Log every transition from now on into `sink` (nullptr: stop).",
        "void record_to(TraceBuffer* sink) { trace_ = sink; }",
        "// Calls visit(name, index, value) for every concrete variable of every individual; of relations kept in",
        "// another form only for those that hold.",
        "template <class Visit>",
        "void visit(Visit&& visit) const;",
        "// Checked build: throws InvariantFalse naming the property and the individuals. Release build: nothing.",
        "void recheck() const;",
        "",
    )


def _readers(out: Writer, storage: Storage) -> None:
    spec = storage.spec
    for v in spec.variables.values():
        if v.one:
            first = v.sorts[0]
            head = f"{storage.ids[v.sorts[1].name]} {v.name}({storage.ids[first.name]} {first.letter}) const"
            out.line(f"{head} {{ return {storage.place(v, [first.letter])}; }}  // or kNone")
        elif not v.ghost and v.table is None:
            parameters = storage.signature(tuple(storage.letters(v)))
            body = storage.place(v, [*v.letters])
            out.line(f"{storage.cpp_type(v.type)} {v.name}({parameters}) const {{ return {body}; }}")
    for name, where in storage.tables.items():
        v = spec.variables[name]
        one, other = v.letters
        at = storage.place(spec.variables[where], [other])
        parameters = storage.signature(tuple(storage.letters(v)))
        out.line(f"bool {name}({parameters}) const {{ return {name}_.contains({one}, {other}, {at}); }}")
    out.line("// The request's blocks in order of position.", "const BlockTables& tables() const { return holds_; }")


def _private(out: Writer, storage: Storage) -> None:
    _access(out, "private")
    out.line("friend struct MachineAccess;  // restores states for verification only", "")
    out.line("template <class... Argument>")
    with out.block("void record(Transition transition, Argument... arguments) {"):
        out.line("const auto at = static_cast<std::size_t>(transition);", "++taken_[at];")
        out.line("if (trace_ != nullptr) [[unlikely]] trace_->push(at, sizeof...(arguments), arguments...);")
        out.line("CHECKED_ONLY(recheck();)")
    out.line("", "Limits limits_;")
    for name, variables in storage.records().items():
        sorts = variables[0].sorts[:1] if variables[0].one else variables[0].sorts
        member = "".join(s.name.lower() + "_" for s in sorts) or "globals_"
        out.line(f"{'std::vector<' * len(sorts)}{name}Fields{'>' * len(sorts)} {member};")
    out.line(*[f"BlockTables {name}_;" for name in storage.tables])
    out.line("std::array<std::uint64_t, kTransitions> taken_{};", "TraceBuffer* trace_ = nullptr;")
    with out.only_if("TOKENSPEED_CHECKED"):
        out.line("// Effects on ghosts, which are written before anything else is.")
        for t in storage.spec.transitions.values():
            if storage.ghost_effects(t):
                out.line(f"void ghost_{t.name}({storage.signature(storage.ghost_parameters(t))});")
        with out.block("struct Ghosts {", "} ghost_;"):
            for v in storage.ghosts():
                out.line(f"Ghost<{len(v.sorts)}, {storage.cpp_type(v.type)}> {v.name};")


def _access(out: Writer, kind: str) -> None:
    out.depth -= 1
    out.line(f"  {kind}:")
    out.depth += 1


def _visitor(out: Writer, storage: Storage) -> None:
    out.line("template <class Visit>")
    with out.block("void Machine::visit(Visit&& visit) const {"):
        for v in storage.spec.variables.values():
            if v.ghost:
                continue
            index = ", ".join(f"static_cast<int>({x})" for x in v.letters)
            value = f"static_cast<std::int64_t>({storage.read(v, [*v.letters])})"
            call = f'visit("{v.name}", std::vector<int>{{{index}}}, {value});'
            heads, letters = storage.loops(storage.letters(v)), v.letters
            if storage.is_relation(v):
                first, second = letters
                others = f"{v.name}_.of({first})" if v.table else f"{{{storage.place(v, [first])}}}"
                heads = [heads[0], f"for (const {storage.ids[v.sorts[1].name]} {second} : {others}) {{"]
                call = f"if ({second} != kNone) {call}"
            nested(out, heads, call)


def nested(out: Writer, heads: list[str], *body: str) -> None:
    """The body within blocks."""
    for head in heads:
        out.line(head)
        out.depth += 1
    out.line(*body)
    for _ in heads:
        out.depth -= 1
        out.line("}")


MAX_ARGUMENTS = 4
"""Parameters of a transition, at most: a trace record has room for so many."""
ARGUMENTS = f"const std::array<std::int64_t, {MAX_ARGUMENTS}>& arguments"

__all__ = ["ARGUMENTS", "MAX_ARGUMENTS", "machine_h", "nested"]
