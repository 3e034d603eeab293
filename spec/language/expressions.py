"""The expression tree that guards, effects and properties are written in: its kinds of nodes, and their text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BOOL, INT, TICK = "Bool", "Int", "Tick"
"""Value types. A Tick is a step number: only order and successor matter, and the explorer may shift it."""


class SpecError(ValueError):
    """The specification itself is wrong; the message names the transition, property or variable."""


class Expr:
    """A node of the expression tree. Operators build bigger nodes; nothing is computed.

    Kinds (`op`): lit, enum, param, read, const, call, eq, le, lt, add, sub, not, and, or, ite, next, taken. A call
    mentions a definition by name; `meaning` is what it stands for.
    """

    __slots__ = ("_meaning", "args", "op", "still", "type")

    def __init__(self, op: str, *args: Any, type: str) -> None:
        self.op, self.args, self.type = op, args, type
        # Whether it speaks of one state only, and of no transition.
        self.still: bool = op not in ("next", "taken") and all(a.still for a in args if isinstance(a, Expr))
        self._meaning: Expr | None = None

    @property
    def meaning(self) -> Expr:
        """Of a call: the formula of the definition, with the arguments in place of its parameters."""
        if self._meaning is None:
            definition, *arguments = self.args
            terms = {p.name: a for p, a in zip(definition.parameters, arguments, strict=True)}
            self._meaning = substituted(definition.formula, terms)
        return self._meaning

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]
        return Expr("eq", self, lift(other), type=BOOL)

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return ~(self == other)

    def __le__(self, other: Expr | int) -> Expr:
        return Expr("le", self, lift(other), type=BOOL)

    def __lt__(self, other: Expr | int) -> Expr:
        return Expr("lt", self, lift(other), type=BOOL)

    def __ge__(self, other: Expr | int) -> Expr:
        return Expr("le", lift(other), self, type=BOOL)

    def __gt__(self, other: Expr | int) -> Expr:
        return Expr("lt", lift(other), self, type=BOOL)

    def __add__(self, other: Expr | int) -> Expr:
        return Expr("add", self, lift(other), type=self.type)

    def __sub__(self, other: Expr | int) -> Expr:
        return Expr("sub", self, lift(other), type=self.type)

    def __invert__(self) -> Expr:
        return Expr("not", self, type=BOOL)

    def __and__(self, other: Expr) -> Expr:
        return Expr("and", self, other, type=BOOL)

    def __or__(self, other: Expr) -> Expr:
        return Expr("or", self, other, type=BOOL)

    def __rshift__(self, other: Expr) -> Expr:
        """Implication: `a >> b` reads "if a then b"."""
        return Expr("or", ~self, other, type=BOOL)

    def isin(self, *values: Expr) -> Expr:
        """True if this equals one of the values."""
        result = self == values[0]
        for value in values[1:]:
            result = result | (self == value)
        return result

    def __bool__(self) -> bool:
        raise SpecError("a spec expression has no truth value; write & | ~ >> instead of and, or, not, if")

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return to_text(self)


def lift(value: object) -> Expr:
    """Python bool or int to a literal; expressions pass."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, bool):
        return Expr("lit", value, type=BOOL)
    if isinstance(value, int):
        return Expr("lit", value, type=INT)
    raise SpecError(f"{value!r} is neither an expression nor a bool nor an int")


def if_else(condition: Expr, then: Expr | int, otherwise: Expr | int) -> Expr:
    """The value of `then` if the condition holds, else of `otherwise`."""
    then_ = lift(then)
    return Expr("ite", condition, then_, lift(otherwise), type=then_.type)


def one_if(condition: Expr) -> Expr:
    """1 if the condition holds, else 0."""
    return if_else(condition, 1, 0)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two integers."""
    return if_else(a <= b, b, a)


def still(where: str, expression: Expr | bool | int) -> Expr:
    """The expression, if it speaks of one state only. Raises SpecError that says where it stands if it does not."""
    lifted = lift(expression)
    if not lifted.still:
        raise SpecError(
            f"{where}: after() and taken() relate two states, and this speaks of one: {lifted}. They have a meaning in "
            "an action, in the goal of a stage and in a clause of the contract"
        )
    return lifted


def after(expression: Expr) -> Expr:
    """The value of the expression in the state after the transition (two-state properties only)."""
    still("after()", expression)
    return Expr("next", expression, type=expression.type)


def taken(transition: str) -> Expr:
    """True if the transition just taken has this name (two-state properties only)."""
    return Expr("taken", transition, type=BOOL)


def inlined(expression: Expr) -> Expr:
    """The expression without calls: formulas in place of the names of definitions."""
    if expression.op == "call":
        return inlined(expression.meaning)
    parts = [inlined(a) if isinstance(a, Expr) else a for a in expression.args]
    if all(a is b for a, b in zip(parts, expression.args, strict=True)):
        return expression
    return Expr(expression.op, *parts, type=expression.type)


def children(expression: Expr) -> list[Expr]:
    """The direct sub-expressions."""
    return [a for a in expression.args if isinstance(a, Expr)]


def conjuncts(expression: Expr) -> list[Expr]:
    """The parts of a formula that must all hold; those of `if a then b & c` are `if a then b` and `if a then c`."""
    if expression.op == "and":
        return [part for side in expression.args for part in conjuncts(side)]
    if expression.op == "or" and expression.args[0].op == "not":
        condition, conclusion = expression.args
        return [Expr("or", condition, part, type=BOOL) for part in conjuncts(conclusion)]
    return [expression]


def antecedents(expression: Expr) -> list[Expr]:
    """What has to hold before a formula says something: of `if a then b and if c then d`, `a` and `a & c`."""
    if expression.op == "and":
        return [found for side in expression.args for found in antecedents(side)]
    if expression.op == "or" and expression.args[0].op == "not":
        condition, conclusion = expression.args[0].args[0], expression.args[1]
        return [condition, *[condition & inner for inner in antecedents(conclusion)]]
    return []


def substituted(e: Expr, terms: Mapping[str, Expr]) -> Expr:
    """The expression with terms in place of parameters."""
    if e.op == "param":
        return terms.get(e.args[0], e)
    return Expr(e.op, *[substituted(a, terms) if isinstance(a, Expr) else a for a in e.args], type=e.type)


def variables_read(expression: Expr) -> set[str]:
    """Names of the variables that the expression reads."""
    found = set[str]()
    if expression.op == "read":
        found = {expression.args[0].name}
    elif expression.op == "call":
        found = variables_read(expression.args[0].formula)
    return found.union(*map(variables_read, children(expression)))


def parameters_read(expression: Expr) -> set[str]:
    """Names of the parameters that the expression mentions."""
    found = {str(expression.args[0])} if expression.op == "param" else set()
    return found.union(*map(parameters_read, children(expression)))


_INFIX = {"eq": "=", "le": "<=", "lt": "<", "add": "+", "sub": "-", "and": "&", "or": "|"}


def to_text(e: Expr) -> str:
    """The expression as a formula in plain text."""
    if e.op == "lit":
        return str(e.args[0]).lower()
    if e.op == "enum":
        return str(e.args[1])
    if e.op in ("param", "const"):
        return str(e.args[0])
    if e.op in ("read", "call"):
        return str(e.args[0].name) + (f"({', '.join(map(to_text, e.args[1:]))})" if e.args[1:] else "")
    if e.op == "not":
        inner = e.args[0]
        if inner.op == "eq":
            return f"{_inner(inner.args[0])} != {_inner(inner.args[1])}"
        return f"not {_inner(inner)}"
    if e.op == "ite":
        return f"(if {to_text(e.args[0])} then {to_text(e.args[1])} else {to_text(e.args[2])})"
    if e.op == "next":
        return f"after({to_text(e.args[0])})"
    if e.op == "taken":
        return f"taken({e.args[0]})"
    if e.op == "or" and e.args[0].op == "not":
        return f"{_inner(e.args[0].args[0])} implies {_inner(e.args[1])}"
    if e.op == "or" and all(_same_read(part, e) for part in _alternatives(e)):
        parts = _alternatives(e)
        return f"{to_text(parts[0].args[0])} in {{{', '.join(to_text(p.args[1]) for p in parts)}}}"
    return f"{_inner(e.args[0])} {_INFIX[e.op]} {_inner(e.args[1])}"


def _inner(e: Expr) -> str:
    simple = e.op in ("lit", "enum", "param", "const", "read", "call", "ite", "next", "taken", "not")
    return to_text(e) if simple else f"({to_text(e)})"


def _alternatives(e: Expr) -> list[Expr]:
    return [*_alternatives(e.args[0]), *_alternatives(e.args[1])] if e.op == "or" else [e]


def _same_read(part: Expr, whole: Expr) -> bool:
    first = _alternatives(whole)[0]
    return (
        part.op == "eq"
        and part.args[1].op == "enum"
        and first.op == "eq"
        and to_text(part.args[0]) == to_text(first.args[0])
    )
