"""Checks of everything in the generated class that is no transition: constructor, dispatch, log, visitor, readers.

These functions have few forms, so their syntax is compared; what transitions compute is proved instead.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...language.spec import Variable
from .declarations import Function, Unit
from .layout import Finding, Layout
from .parser import Node

ACCESS = "MachineAccess"
"""The one friend, generated too: it restores states, so that lock-step verification can start from any of them."""

STATE = ("block_tables", "ghost", "ids", "trace_buffer")
"""Hand-written headers that the state is made of."""
RECORD = (
    "(block (declare const auto at (cast std::size_t (name transition))) "
    "(do (unary ++ (index (name taken_) (name at)))) "
    "(if (binary != (name trace_) (name nullptr)) (do (call (member (unary * (name trace_)) push) "
    "[(name at) (pack size arguments) (pack (name arguments))])))%s)"
)
RECHECK = " (do (call (name recheck) []))"
"""The checked build recounts everything whenever a transition is recorded."""
LOG = {"record": RECORD, "record_to": "(block (do (binary = (name trace_) (name sink))))"}
"""Functions that are not constant and keep a log; they write nothing else."""


def check_frame(layout: Layout, code: Unit, checked: bool) -> list[Finding]:
    """What is not as it must be in the functions that are no transitions, of machine.h and machine.cpp."""
    frame = _Frame(layout, code, checked)
    frame.includes()
    frame.functions()
    frame.constructor()
    frame.growth()
    frame.log()
    frame.dispatch()
    frame.visitor()
    return frame.findings


class _Frame:
    def __init__(self, layout: Layout, code: Unit, checked: bool) -> None:
        self.layout, self.spec, self.code, self.checked = layout, layout.spec, code, checked
        self.machine = layout.machine
        self.findings: list[Finding] = []
        self.grown = [s for s in self.spec.sorts if f"Machine::add_{s.lower()}" in code.functions]

    def report(self, line: int, what: str, file: str = "") -> None:
        self.findings.append(Finding(file or self.code.file, line, what, "structure"))

    def includes(self) -> None:
        needed = {self.code.file: ['"scheduler/generated/machine.h"']}
        needed[self.layout.unit.file] = ["<array>", "<cstdint>", "<string_view>", "<vector>"]
        needed[self.layout.unit.file] += [f'"scheduler/core/state/{name}.h"' for name in STATE]
        for unit in (self.code, self.layout.unit):
            for name in needed[unit.file]:
                if name not in unit.source.includes:
                    self.report(1, f"#include {name} is missing", unit.file)

    def functions(self) -> None:
        """Every declared function is defined once, and none but the known ones may change the state."""
        known = {f"apply_{t}" for t in self.spec.transitions} | {"Machine", "apply", "recheck", *LOG}
        known |= {f"add_{s.lower()}" for s in self.spec.sorts}
        known |= {f"ghost_{t}" for t in self.spec.transitions} if self.checked else set()
        defined = {name.removeprefix("Machine::"): f for name, f in self.code.functions.items()}
        for name, function in defined.items():
            declared = self.machine.functions.get(name)
            if declared is None or declared.signature != function.signature:
                self.report(function.line, f"{name} is not declared so in the class")
            elif name not in known:
                self.report(function.line, f"{name} is no function that is known here")
        templates = {name.removeprefix("Machine::") for name in self.layout.unit.functions}
        for name, function in self.machine.functions.items():
            if function.body is None and name not in defined and name not in templates:
                if name != "recheck" or not self.checked:  # the checked build has it in a file of its own
                    self.report(function.line, f"{name} is declared and not defined", self.layout.unit.file)
            elif name not in known and not function.const:
                self.report(function.line, f"{name} may change the state and is no transition", self.layout.unit.file)
            elif (
                function.body is not None and function.returns.endswith(("&", "*")) and function.returns[:6] != "const "
            ):
                self.report(function.line, f"{name} lets others write what it returns", self.layout.unit.file)
        recheck = defined.get("recheck")
        if recheck is not None and str(recheck.body) != "(block )":
            self.report(recheck.line, "recheck of the release build does something")
        self.members()

    def members(self) -> None:
        """The state is private; the readers of whole members return those."""
        state = {p.member for p in self.layout.places.values()} | {"limits_", "ghost_", "taken_", "trace_"}
        for name, found in self.machine.fields.items():
            if name not in state:
                self.report(found.line, f"nothing is known about the member {name}", self.layout.unit.file)
            elif not found.private:
                self.report(found.line, f"{name} is not private", self.layout.unit.file)
        kept = {"taken_": "std::array<std::uint64_t, kTransitions>", "trace_": "TraceBuffer*"}
        kept["limits_"] = "Limits"
        for name, type_ in kept.items():
            if name not in self.machine.fields or self.machine.fields[name].type != type_:
                self.report(self.machine.line, f"there is no member {name} of type {type_}", self.layout.unit.file)
        if ACCESS not in [name for name, _ in self.machine.friends]:
            self.report(
                self.machine.line, f"{ACCESS} is no friend, so states cannot be restored", self.layout.unit.file
            )
        for friend, line in self.machine.friends:
            if friend != ACCESS:
                self.report(line, f"{friend} could write the state", self.layout.unit.file)
        for name, member in {"tables": "holds_", "taken": "taken_", "limits": "limits_"}.items():
            reader = self.machine.functions.get(name)
            if reader is not None and str(reader.body) != f"(block (return (name {member})))":
                self.report(reader.line, f"{name} does not return {member}", self.layout.unit.file)
            elif reader is None and member in self.machine.fields:
                self.report(self.machine.line, f"there is no reader of {member}", self.layout.unit.file)

    # Construction.

    def containers(self) -> Iterator[tuple[str, list[str]]]:
        """Members that are vectors of records, with the sorts that index them."""
        seen = set()
        for name, place in self.layout.places.items():
            variable = self.spec.variables[name]
            sorts = [s.name for s in (variable.sorts[:1] if variable.one else variable.sorts)]
            if sorts and place.at is None and place.member not in seen:
                seen.add(place.member)
                yield place.member, sorts

    def tables(self) -> Iterator[tuple[str, Variable]]:
        """Relations kept in tables."""
        for name, place in self.layout.places.items():
            if place.at is not None:
                yield place.member, self.spec.variables[name]

    def constructor(self) -> None:
        """Every container has as many records as its sort; variables that start at a constant get it."""
        made = self.code.functions.get("Machine::Machine")
        if made is None or made.body is None:
            self.report(1, "there is no constructor")
            return
        starts = dict(made.starts)
        for member, sorts in self.containers():
            if sorts[0] in self.grown:
                continue
            given = starts.pop(member, ())
            size = str(given[0]) if len(given) == 1 else ""
            counting = (self.spec.size(sorts[0]) or f"{sorts[0]}_records").lower()
            if size != f"(cast std::size_t (member (name limits) {counting}))":
                self.report(made.line, f"{member} is not given {counting}, the number of {sorts[0]} records")
        for member, _ in self.tables():
            if [str(x) for x in starts.pop(member, ())] != ["(member (name limits) page)"]:
                self.report(made.line, f"{member} is not given the page size")
        if [str(x) for x in starts.pop("limits_", ())] != ["(name limits)"]:
            self.report(made.line, "limits_ does not start as limits")
        for member in starts:
            self.report(made.line, f"{member} starts as something that is not known")
        self.starting_constants(made)

    def starting_constants(self, made: Function) -> None:
        wanted = {}
        for name, variable in self.spec.variables.items():
            if variable.init.op != "const":
                continue
            value = f"(member (name limits_) {variable.init.args[0].lower()})"
            if not variable.ghost:
                wanted[f"(do (binary = (member (name globals_) {name}) {value}))"] = name
            elif self.checked:
                wanted[f"(do (call (member (member (name ghost_) {name}) set) [(braces  []) {value}]))"] = name
        for statement in made.body.args if made.body is not None else ():
            if wanted.pop(str(statement), None) is None:
                self.report(statement.line, f"the constructor does something that is not known: {statement}")
        for name in wanted.values():
            self.report(made.line, f"{name} does not start at its constant")

    def growth(self) -> None:
        """Adding a record adds it wherever records of the sort are kept, and gives its number."""
        for sort in self.spec.sorts:
            name = f"add_{sort.lower()}"
            added = self.code.functions.get(f"Machine::{name}")
            if added is None or added.body is None:
                if name in self.machine.functions:
                    self.report(1, f"{name} is not defined")
                continue
            wanted = {f"(return (binary - (call (name {sort.lower()}_count) []) (number 1)))"}
            for member, sorts in self.containers():
                call = "(do (call (member (name {}) emplace_back) []))"
                if sorts[0] == sort:
                    wanted.add(call.format(member))
                elif sort in sorts[1:]:
                    wanted.add(f"(each auto& rows (name {member}) {call.format('rows')})")
            for member, variable in self.tables():
                if variable.sorts[0].name == sort:
                    wanted.add(f"(do (call (member (name {member}) {name}) []))")
            found = [str(s) for s in added.body.args]
            for missing in sorted(wanted - set(found)):
                self.report(added.line, f"{name} lacks {missing}")
            if len(found) > len(wanted) or set(found) - wanted:
                self.report(added.line, f"{name} does something that is not known")

    # Log and dispatch.

    def log(self) -> None:
        recheck = RECHECK if self.checked else ""
        for name, wanted in {**LOG, "record": RECORD % recheck}.items():
            found = self.machine.functions.get(name)
            function = self.code.functions.get(f"Machine::{name}", found)
            template = "class... Argument" if name == "record" else ""
            if function is None or str(function.body) != wanted or function.template != template:
                self.report(1 if function is None else function.line, f"{name} is not the function that is known")

    def dispatch(self) -> None:
        """`apply` calls each transition with its arguments in order, if their types can hold them."""
        apply = self.code.functions.get("Machine::apply")
        if apply is None or apply.body is None:
            self.report(1, "apply is not defined")
            return
        wanted: list[str] = []
        for t in self.spec.transitions.values():
            wanted.append(f"(case (name Transition::{t.name}))")
            arguments, wide = [], ""
            for i, p in enumerate(t.parameters):
                taken = f"(index (name arguments) (number {i}))"
                if p.type not in self.spec.sorts:
                    arguments.append(taken)
                    continue
                arguments.append(f"(cast {self.layout.id_type(p.type)} {taken})")
                differs = f"(binary != {taken} {arguments[-1]})"
                wide = f"(binary || {wide} {differs})" if wide else differs
            if wide:
                wanted.append(f"(if {wide} (return (name Guard::bad_index)))")
            wanted.append(f"(return (call (name apply_{t.name}) [{' '.join(arguments)}]))")
        body = apply.body.args
        if len(body) != 2 or body[0].kind != "switch" or str(body[0].args[0]) != "(name transition)":
            self.report(apply.line, "apply is not one switch over the transition")
            return
        if str(body[1]) != "(return (name Guard::bad_index))":
            self.report(body[1].line, "apply must refuse what is no transition")
        _compare(self, wanted, body[0].args[1].args, apply.line)

    def visitor(self) -> None:
        """`visit` shows every concrete variable of every individual, in order."""
        visit = self.layout.unit.functions.get("Machine::visit")
        if visit is None or visit.body is None:
            self.report(1, "visit is not defined", self.layout.unit.file)
            return
        declared = self.machine.functions.get("visit")
        if declared is None or declared.signature != visit.signature or visit.template != "class Visit":
            self.report(visit.line, "visit is not declared as it is defined", self.layout.unit.file)
        wanted = [self.shown(v) for v in self.spec.variables.values() if not v.ghost]
        _compare(self, wanted, visit.body.args, visit.line, self.layout.unit.file)

    def shown(self, variable: Variable) -> str:
        """The loops and the call that show a variable."""
        letters = [*variable.letters]
        place = self.layout.places.get(variable.name)
        value = "" if place is None else f"(name {place.member})"
        if place is not None and place.at is not None:
            value = f"(call (name {variable.name}) [{' '.join(f'(name {x})' for x in letters)}])"
        elif place is not None:
            for letter in letters[:1] if variable.one else letters:
                value = f"(index {value} (name {letter}))"
            value = f"(member {value} {place.field})"
            if variable.one:
                value = f"(binary == {value} (name {letters[1]}))"
        index = " ".join(f"(cast int (name {x}))" for x in letters)
        call = f'(do (call (name visit) [(string "{variable.name}") (braces std::vector<int> [{index}]) '
        text = f"{call}(cast std::int64_t {value})]))"
        loops = [*zip(variable.sorts, letters, strict=True)]
        if place is not None and self.layout.is_relation(variable):  # only those that hold
            last, letter = loops.pop()
            table = f"(call (member (name {place.member}) of) [(name {letters[0]})])"
            held = f"(member (index (name {place.member}) (name {letters[0]})) {place.field})"
            each = table if place.at is not None else f"(braces  [{held}])"
            shown = f"(block (if (binary != (name {letter}) (name kNone)) {text}))"
            text = f"(each const {self.layout.id_type(last.name)} {letter} {each} {shown})"
        for sort, letter in reversed(loops):
            count = f"(call (name {sort.name.lower()}_count) [])"
            head = f"{self.layout.id_type(sort.name)} {letter} (number 0)"
            text = f"(for {head} (binary < (name {letter}) {count}) (unary ++ (name {letter})) (block {text}))"
        return text


def _compare(frame: _Frame, wanted: list[str], found: tuple[Node, ...], line: int, file: str = "") -> None:
    for i, text in enumerate(wanted):
        if i >= len(found) or str(found[i]) != text:
            at = found[i].line if i < len(found) else line
            shown = str(found[i]) if i < len(found) else "nothing"
            frame.report(at, f"expected {text}, found {shown}", file)
            return
    if len(found) > len(wanted):
        frame.report(found[len(wanted)].line, f"not expected: {found[len(wanted)]}", file)
