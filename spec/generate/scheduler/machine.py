"""How the C++ class `Machine` keeps the state, and what C++ calls things: what its generators have in common.

Variables over the same sorts are fields of one record (`block_[b].fill`), a relation with one second individual is an
id (`block_[b].parent`), a relation with a table is kept in a class of its own. Ghosts exist in the checked build only.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...language.expressions import BOOL, Expr, variables_read
from ...language.printing import CPP, Printer
from ...language.spec import Effect, Parameter, Spec, Transition, Variable


class Storage:
    """The C++ names of one specification's state."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.sorts = [s.name for s in spec.sorts.values()]
        self.ids = {name: f"{name}Id" for name in self.sorts}
        self.tables = {v.name: v.table.name for v in spec.variables.values() if v.table is not None}
        self.growing = next(s.name for s in spec.sorts.values() if s.grows)
        self.printer = Printer(CPP, self._name, self.read)

    # Types and places.

    def cpp_type(self, type_: str) -> str:
        """The C++ type of a value or parameter."""
        if type_ in self.spec.enums or type_ in self.ids:
            return self.ids.get(type_, type_)
        return "bool" if type_ == BOOL else "std::int64_t"

    def is_relation(self, variable: Variable) -> bool:
        """Kept in another form than one value for each tuple of individuals."""
        return variable.one or variable.table is not None

    def records(self) -> dict[str, list[Variable]]:
        """Concrete variables over the same sorts live in the same struct: Request, StepRequest, Globals."""
        found: dict[str, list[Variable]] = {}
        for v in self.spec.variables.values():
            if not v.ghost and v.table is None:
                sorts = v.sorts[:1] if v.one else v.sorts
                found.setdefault("".join(s.name for s in sorts) or "Globals", []).append(v)
        return found

    def ghosts(self) -> Iterator[Variable]:
        """What the checked build carries: ghost variables, and relations once more."""
        return (v for v in self.spec.variables.values() if v.ghost or self.is_relation(v))

    def recorded(self) -> list[str]:
        """Sorts with a fixed number of records that no constant counts."""
        return [sort for sort in self.sorts if self.spec.size(sort) is None and sort != self.growing]

    def place(self, variable: Variable, index: list[str]) -> str:
        """The lvalue of a concrete field."""
        sorts = [s.name for s in variable.sorts[: len(index)]]
        if not sorts:
            return f"globals_.{variable.name}"
        field = "".join(s.lower() + "_" for s in sorts)
        return f"{field}{''.join(f'[{at}]' for at in index)}.{variable.name}"

    def read(self, variable: Variable, index: list[str]) -> str:
        """The variable's value."""
        if variable.table is not None:
            return f"{variable.name}({', '.join(index)})"
        if variable.one and len(index) == 2:
            return f"({self.place(variable, index[:1])} == {index[1]})"
        if variable.ghost:
            return f"ghost_.{variable.name}.get({{{', '.join(index)}}})"
        return self.place(variable, index)

    # Expressions.

    def _name(self, e: Expr) -> str:
        return str(e.args[0]) if e.op == "param" else f"limits_.{e.args[0].lower()}"

    def kept(self, e: Expr) -> Expr:
        """The expression over what is kept: an id is compared where a relation is read, and no name is for ghosts."""
        if e.op == "call" and self.is_ghost(e.args[0].formula):
            return self.kept(e.meaning)
        parts = [self.kept(a) if isinstance(a, Expr) else a for a in e.args]
        if e.op == "read" and e.args[0].one:
            variable, first, second = parts
            return Expr("eq", Expr("read", variable, first, type=second.type), second, type=BOOL)
        return Expr(e.op, *parts, type=e.type)

    def text(self, e: Expr) -> str:
        """The expression as C++."""
        return self.printer.text(self.kept(e))

    def refuted(self, e: Expr) -> str:
        """That the expression is false, as C++."""
        return self.printer.refuted(self.kept(e))

    # Functions.

    def signature(self, parameters: tuple[Parameter, ...]) -> str:
        """The parameters of a C++ function."""
        return ", ".join(f"{self.cpp_type(p.type)} {p.name}" for p in parameters)

    def loops(self, parameters: list[Parameter]) -> list[str]:
        """The heads of nested loops over all individuals."""
        return [
            f"for ({self.ids[p.type]} {p.name} = 0; {p.name} < {p.type.lower()}_count(); ++{p.name}) {{"
            for p in parameters
        ]

    def letters(self, v: Variable) -> list[Parameter]:
        """The indices of a variable, each with its letter."""
        return [Parameter(x, s.name) for x, s in zip(v.letters, v.sorts, strict=True)]

    def is_ghost(self, e: Expr) -> bool:
        """Whether only the checked build can evaluate it."""
        return any(self.spec.variables[v].ghost for v in variables_read(e))

    def ghost_effects(self, t: Transition) -> list[Effect]:
        """The effects that only the checked build has: on ghosts, and on what it carries once more."""
        ghost = [e for e in t.effects if e.variable.ghost]
        return ghost + [e for e in t.effects if not e.variable.ghost and self.is_relation(e.variable)]

    def ghost_parameters(self, t: Transition) -> tuple[Parameter, ...]:
        """The parameters that the ghost effects mention."""
        used = [x for e in self.ghost_effects(t) for x in (*e.index, e.value)]
        return tuple(p for p in t.parameters if any(_mentions(e, p.name) for e in used))


def _mentions(e: Expr, name: str) -> bool:
    return (e.op == "param" and e.args[0] == name) or any(_mentions(a, name) for a in e.args if isinstance(a, Expr))


__all__ = ["Storage"]
