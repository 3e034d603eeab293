"""Prints expressions in the languages that they are translated to: one fold, and a small table for each language.

Only as many parentheses are printed as every language of a table needs (and as gcc asks for between && and ||). What
solvers read is printed elsewhere, on purpose: z3 terms and SMT-LIB text are two opinions about what a formula means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .declarations import Enum, Variable
from .expressions import Expr

CHOICE, OR, AND, NOT, COMPARISON, SUM, ATOM = range(7)
"""How tightly a text binds; a part that binds looser than its place allows is put in parentheses."""

Read = Callable[[Variable, list[str]], str]
"""How a variable is read at an index."""


@dataclass(frozen=True)
class Language:
    """What one language calls things. `calls`: definitions are functions there; else their formulas are printed."""

    equal: str
    different: str
    conjunction: str
    disjunction: str
    negation: str
    choice: str
    literal: Callable[[int | bool], str]
    state: Callable[[Enum, str], str]
    calls: bool = False


def camel(value: str) -> str:
    """INFLIGHT becomes Inflight."""
    return "".join(word.capitalize() for word in value.split("_"))


def _lower(value: int | bool) -> str:
    return str(value).lower()


def _number(enum: Enum, value: str) -> str:
    return str(enum.values.index(value))


CPP = Language("==", "!=", "&&", "||", "!{}", "{} ? {} : {}", _lower, lambda e, v: f"{e.name}::{camel(v)}", calls=True)
CPP_INLINED = Language("==", "!=", "&&", "||", "!{}", "{} ? {} : {}", _lower, CPP.state)
CPP_NUMBERS = Language("==", "!=", "&&", "||", "!{}", "{} ? {} : {}", lambda x: str(int(x)), _number)
PYTHON = Language("==", "!=", "and", "or", "not {}", "{1} if {0} else {2}", repr, lambda e, v: repr(v))
PYTHON_NUMBERS = Language("==", "!=", "and", "or", "not {}", "{1} if {0} else {2}", lambda x: str(int(x)), _number)
TLA = Language(
    "=", "#", "/\\", "\\/", "~{}", "IF {} THEN {} ELSE {}",
    lambda x: str(x).upper(), lambda e, v: f'"{e.name}.{v}"', calls=True,
)  # fmt: skip

COMPARISONS = {"le": "<=", "lt": "<"}
TURNED = {"le": ">=", "lt": ">"}


class Printer:
    """Prints expressions in one language.

    `name`: a parameter or constant; `read`: a variable at an index; `after`: an expression about the state after, and
    `taken`: that a transition was taken, where they occur.
    """

    def __init__(
        self,
        language: Language,
        name: Callable[[Expr], str],
        read: Read,
        after: Callable[[Expr], str] | None = None,
        taken: Callable[[str], str] | None = None,
    ) -> None:
        self.language, self.name, self.read, self.after, self.taken = language, name, read, after, taken

    def text(self, e: Expr, binds: int = CHOICE) -> str:
        """The expression, in parentheses unless it binds at least so tightly."""
        text, tightness = self._form(e)
        return text if tightness >= binds else f"({text})"

    def refuted(self, e: Expr, binds: int = CHOICE) -> str:
        """That the expression is false, with negations as far inside as they go."""
        text, tightness = self._refuted(e)
        return text if tightness >= binds else f"({text})"

    def _refuted(self, e: Expr) -> tuple[str, int]:
        match e.op:
            case "not":
                return self._form(e.args[0])
            case "and" | "or":
                sign = self.language.disjunction if e.op == "and" else self.language.conjunction
                parts = f" {sign} ".join(self.refuted(x, NOT) for x in _parts(e, e.op))
                return parts, OR if e.op == "and" else AND
            case "le" | "lt" if e.args[0].op == "lit":
                return self._infix("<" if e.op == "le" else "<=", e.args[1], e.args[0]), COMPARISON
            case "le" | "lt":
                return self._infix(">" if e.op == "le" else ">=", *e.args), COMPARISON
        return self._form(Expr("not", e, type=e.type))

    def _form(self, e: Expr) -> tuple[str, int]:
        language = self.language
        match e.op:
            case "lit":
                return language.literal(e.args[0]), ATOM if e.args[0] >= 0 else SUM
            case "enum":
                return language.state(*e.args), ATOM
            case "param" | "const":
                return self.name(e), ATOM
            case "read":
                return self.read(e.args[0], [self.text(i) for i in e.args[1:]]), ATOM
            case "call" if language.calls:
                return f"{e.args[0].name}({', '.join(self.text(a) for a in e.args[1:])})", ATOM
            case "call":
                return self._form(e.meaning)
            case "next" if self.after is not None:
                return self.after(e.args[0]), ATOM
            case "taken" if self.taken is not None:
                return self.taken(e.args[0]), ATOM
            case "not" if e.args[0].op == "eq":
                return self._infix(language.different, *e.args[0].args), COMPARISON
            case "not":
                return language.negation.format(self.text(e.args[0], ATOM)), NOT
            case "ite":
                return language.choice.format(*[self.text(x, OR) for x in e.args]), CHOICE
            case "eq":
                return self._infix(language.equal, *e.args), COMPARISON
            case "le" | "lt" if e.args[0].op == "lit" and e.args[1].op != "lit":
                return self._infix(TURNED[e.op], e.args[1], e.args[0]), COMPARISON
            case "le" | "lt":
                return self._infix(COMPARISONS[e.op], *e.args), COMPARISON
            case "and" | "or":
                sign = language.conjunction if e.op == "and" else language.disjunction
                return f" {sign} ".join(self.text(x, NOT) for x in _parts(e, e.op)), AND if e.op == "and" else OR
            case "add" | "sub":
                sign = "+" if e.op == "add" else "-"
                return f"{self.text(e.args[0], SUM)} {sign} {self.text(e.args[1], ATOM)}", SUM
        raise AssertionError(f"{e.op} has no meaning here: {e}")

    def _infix(self, sign: str, left: Expr, right: Expr) -> str:
        return f"{self.text(left, SUM)} {sign} {self.text(right, SUM)}"


def _parts(e: Expr, op: str) -> list[Expr]:
    return [x for side in e.args for x in _parts(side, op)] if e.op == op else [e]


__all__ = [
    "ATOM",
    "CPP",
    "CPP_INLINED",
    "CPP_NUMBERS",
    "PYTHON",
    "PYTHON_NUMBERS",
    "TLA",
    "Language",
    "Printer",
    "camel",
]
