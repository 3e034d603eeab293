"""What generated C++ computes, as z3 terms over machine integers: 64-bit and 32-bit two's complement, no overflow.

Signed overflow is undefined in C++, so every addition, subtraction and negation leaves an obligation that it cannot
happen; so does every index that it lies within its container. State is a function from 32-bit ids to values; an
assignment is remembered with its place, and a later read sees it if the places are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import z3

from ...language.expressions import BOOL, INT, TICK, Expr
from ...language.spec import Sort, Variable
from ...machines.bounds import PROPOSALS, bounds_of, constant_bounds
from .declarations import Function
from .layout import Layout
from .parser import Node
from .tokens import CppError

LONG, ID, INTEGER = "std::int64_t", "id", "int"
WIDTHS = {LONG: 64, ID: 32, INTEGER: 32}


@dataclass(frozen=True)
class Value:
    """A typed value: `type` is std::int64_t, int, id, bool or the name of an enum."""

    type: str
    term: z3.ExprRef


@dataclass(frozen=True)
class Obligation:
    """Something that must hold wherever the line is executed."""

    line: int
    what: str
    condition: z3.BoolRef


@dataclass(frozen=True)
class Write:
    """One assignment, or one for every individual: whether it is to the place of an index, and which value it gives."""

    applies: Callable[[Sequence[z3.ExprRef]], z3.BoolRef]
    value: Callable[[Sequence[z3.ExprRef]], z3.ExprRef]


class World:
    """The state before a transition: one z3 function for each variable, and the facts about it that are assumed."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.spec = layout, layout.spec
        self.context = z3.Context()
        self.true = z3.BoolVal(True, self.context)
        self.functions = {
            v.name: z3.Function(v.name, *[self.bits(32)] * len(stored_sorts(v)), self.stored(v))
            for v in self.spec.variables.values()
        }
        self.counts = {sort: z3.Const(f"{sort}_count", self.bits(32)) for sort in self.spec.sorts}
        self.constants = {name: z3.Const(name, self.bits(64)) for name in self.spec.constants}
        self.facts: dict[int, z3.BoolRef] = {}  # by the term that they are about
        for name, term in self.constants.items():
            self.within(term, *constant_bounds(self.spec, name))
        for term in self.counts.values():
            self.facts[term.get_id()] = term >= 0

    def bits(self, width: int) -> z3.BitVecSortRef:
        """The sort of machine integers."""
        return z3.BitVecSort(width, self.context)

    def sort(self, type_: str) -> z3.SortRef:
        """The z3 sort of a value of the specification."""
        if type_ == BOOL:
            return z3.BoolSort(self.context)
        return self.bits(64 if type_ in (INT, TICK) else 8 if type_ in self.spec.enums else 32)

    def stored(self, variable: Variable) -> z3.SortRef:
        """The z3 sort of what is kept for a variable."""
        return self.bits(32) if variable.one else self.sort(variable.type)

    def within(self, term: z3.ExprRef, low: int, high: int) -> None:
        """Assume the bounds of a term (signed)."""
        self.facts.setdefault(term.get_id(), z3.And(term >= low, term <= high))

    def parameter(self, name: str, type_: str) -> z3.ExprRef:
        """A parameter; integers are within what may be proposed."""
        term = z3.Const(f"parameter_{name}", self.sort(type_))
        if type_ in (INT, TICK):
            self.within(term, *PROPOSALS)
        return term

    def before(self, variable: Variable, index: Sequence[z3.ExprRef]) -> z3.ExprRef:
        """The variable in the state before; its declared bounds are assumed."""
        if variable.one:
            return self.functions[variable.name](index[0]) == index[1]
        term = self.functions[variable.name](*index)
        if variable.type in (INT, TICK):
            self.within(term, *bounds_of(self.spec, variable))
        elif variable.type in self.spec.enums:
            values = len(self.spec.enums[variable.type].values)
            self.facts.setdefault(term.get_id(), z3.ULT(term, values))
        return term

    def evaluate(self, e: Expr, names: dict[str, z3.ExprRef], obligations: list[Obligation]) -> z3.ExprRef:
        """An expression of the specification in the state before, over 64-bit integers that must not wrap."""
        match e.op:
            case "lit":
                return z3.BoolVal(e.args[0], self.context) if e.type == BOOL else self.number(e.args[0])
            case "enum":
                return z3.BitVecVal(e.args[0].values.index(e.args[1]), 8, self.context)
            case "param":
                return names[e.args[0]]
            case "const":
                return self.constants[e.args[0]]
            case "read":
                return self.before(e.args[0], [self.evaluate(i, names, obligations) for i in e.args[1:]])
        if e.op == "call":
            return self.evaluate(e.meaning, names, obligations)
        a = [self.evaluate(x, names, obligations) for x in e.args]
        match e.op:
            case "eq":
                return a[0] == a[1]
            case "le":
                return a[0] <= a[1]
            case "lt":
                return a[0] < a[1]
            case "not":
                return z3.Not(a[0])
            case "and":
                return z3.And(*a)
            case "or":
                return z3.Or(*a)
            case "ite":
                return z3.If(*a)
            case "add" | "sub":
                obligations.append(Obligation(0, f"{e} does not wrap in the specification", exact(e.op, *a)))
                return a[0] + a[1] if e.op == "add" else a[0] - a[1]
        raise AssertionError(f"unknown node {e.op}")

    def number(self, value: int) -> z3.ExprRef:
        """A 64-bit literal."""
        return z3.BitVecVal(value, 64, self.context)


def exact(operation: str, a: z3.ExprRef, b: z3.ExprRef) -> z3.BoolRef:
    """The sum or difference is what it is for unbounded integers."""
    if operation == "add":
        return z3.And(z3.BVAddNoOverflow(a, b, True), z3.BVAddNoUnderflow(a, b))
    return z3.And(z3.BVSubNoOverflow(a, b), z3.BVSubNoUnderflow(a, b, True))


def stored_sorts(variable: Variable) -> tuple[Sort, ...]:
    """The individuals that index what is kept: of a relation with one second individual, the first."""
    return variable.sorts[:1] if variable.one else variable.sorts


def same_place(place: Sequence[z3.ExprRef]) -> Callable[[Sequence[z3.ExprRef]], z3.BoolRef]:
    """Whether an index is this one."""
    return lambda index: z3.And([x == y for x, y in zip(place, index, strict=True)]) if place else True


@dataclass
class State:
    """The state while a function runs: assignments so far, in order, and obligations that were met."""

    world: World
    file: str
    locals: dict[str, Value]
    writes: dict[str, list[Write]] = field(default_factory=dict)
    obligations: list[Obligation] = field(default_factory=list)

    def error(self, node: Node, what: str) -> CppError:
        """The syntax has no meaning in generated code."""
        return CppError(self.file, node.line, what)

    def read(self, variable: Variable, index: Sequence[z3.ExprRef], key: str = "") -> z3.ExprRef:
        """The variable now: the last assignment to that place, or its value before. `key`: see `assign`."""
        if variable.one and not key:
            return self.kept(variable, index[:1]) == index[1]
        return self.after(key or variable.name, index, self.world.before(variable, index))

    def kept(self, variable: Variable, index: Sequence[z3.ExprRef]) -> z3.ExprRef:
        """What is kept at a place now: the value, or for a relation with one second individual its id."""
        if not variable.one:
            return self.read(variable, index)
        return self.after(variable.name, index, self.world.functions[variable.name](*index))

    def after(self, key: str, index: Sequence[z3.ExprRef], value: z3.ExprRef) -> z3.ExprRef:
        """The value before with all assignments so far."""
        for write in self.writes.get(key, []):
            value = z3.If(write.applies(index), write.value(index), value)
        return value

    def assign(self, key: str, index: Sequence[z3.ExprRef], value: z3.ExprRef) -> None:
        """Remember an assignment. `key`: the variable's name, or `ghost_.name` for the ghost copy of a relation."""
        self.writes.setdefault(key, []).append(Write(same_place(index), lambda _: value))

    # Expressions.

    def evaluate(self, node: Node) -> Value:
        """The value of an expression; reading is all that it may do."""
        context = self.world.context
        match node.kind:
            case "number":
                return Value(INTEGER, z3.BitVecVal(int(node.args[0]), 32, context))
            case "name":
                return self.name(node)
            case "member" if str(node.args[0]) == "(name limits_)" and node.args[1].upper() in self.world.constants:
                return Value(LONG, self.world.constants[node.args[1].upper()])
            case "member" | "index":
                variable, index = self.place(node)
                return Value(self.type_of(variable), self.kept(variable, index))
            case "call":
                return self.call(node)
            case "unary":
                return self.unary(node)
            case "binary":
                return self.binary(node)
            case "ternary":
                condition, (then, other) = self.boolean(node.args[0]), self.balanced(node, *node.args[1:])
                return Value(then.type, z3.If(condition, then.term, other.term))
        raise self.error(node, f"a {node.kind} is no value that generated code computes")

    def type_of(self, variable: Variable) -> str:
        """The C++ type of what is kept for a variable."""
        return ID if variable.one else self.value_type(variable)

    def value_type(self, variable: Variable) -> str:
        """The C++ type of a variable's value."""
        return LONG if variable.type in (INT, TICK) else "bool" if variable.type == BOOL else variable.type

    def name(self, node: Node) -> Value:
        """A parameter, local value, constant member, enumerator or truth value."""
        name = node.args[0]
        if name in ("true", "false"):
            return Value("bool", z3.BoolVal(name == "true", self.world.context))
        if name in self.locals:
            return self.locals[name]
        if name == "kNone" and self.world.layout.none == -1:
            return Value(ID, z3.BitVecVal(-1, 32, self.world.context))
        enum, _, value = name.partition("::")
        number = self.world.layout.enumerator(enum, value) if enum in self.world.spec.enums else None
        if number is None:
            raise self.error(node, f"unknown name {name}")
        return Value(enum, z3.BitVecVal(number, 8, self.world.context))

    def place(self, node: Node) -> tuple[Variable, list[z3.ExprRef]]:
        """The variable and index of `container[i][j].field`."""
        if node.kind != "member":
            raise self.error(node, "an index without a field")
        record, indices = node.args[0], list[Node]()
        while record.kind == "index":
            indices.insert(0, record.args[1])
            record = record.args[0]
        variable = self.world.layout.variable_at(record.args[0], node.args[1]) if record.kind == "name" else None
        if variable is None:
            raise self.error(node, f"no variable is kept in {node}")
        return variable, self.ids(node, variable, indices, stored_sorts(variable))

    def ids(self, node: Node, variable: Variable, indices: Sequence[Node], sorts: Sequence[Sort]) -> list[z3.ExprRef]:
        """Ids that index a variable; each must lie within its sort."""
        found = []
        if len(indices) != len(sorts):
            raise self.error(node, f"{variable.name} has {len(sorts)} indices, not {len(indices)}")
        for sort, index in zip(sorts, indices, strict=True):
            value = self.evaluate(index)
            if value.type != ID:
                raise self.error(index, f"{index} is no id")
            inside = z3.And(value.term >= 0, value.term < self.world.counts[sort.name])
            self.obligations.append(
                Obligation(node.line, f"{variable.name} is indexed within its {sort.name}s", inside)
            )
            found.append(value.term)
        return found

    def call(self, node: Node) -> Value:
        """Counts of individuals, relations, and ghosts."""
        function, arguments = node.args
        if function.kind == "name":
            for sort, count in self.world.counts.items():
                if function.args[0] == f"{sort.lower()}_count" and not arguments:
                    return Value(ID, count)
                if function.args[0] == f"has_{sort.lower()}" and len(arguments) == 1:
                    term = self.evaluate(arguments[0])
                    if term.type != ID:
                        raise self.error(node, f"{arguments[0]} is no id")
                    return Value("bool", z3.And(term.term >= 0, term.term < count))
            if function.args[0] in self.world.spec.definitions:
                return self.defined(node, self.world.layout.machine.functions.get(function.args[0]), arguments)
            variable = self.world.spec.variables.get(function.args[0])
            if variable is not None and variable.name in self.world.layout.places and not variable.one:
                index = self.ids(node, variable, arguments, variable.sorts)
                return Value(self.type_of(variable), self.read(variable, index))
        if function.kind == "member" and function.args[1] == "get" and len(arguments) == 1:
            variable = self.ghost(function.args[0])
            index = self.ids(
                node, variable, arguments[0].args[1] if arguments[0].kind == "braces" else (), variable.sorts
            )
            return Value(self.value_type(variable), self.read(variable, index, f"ghost_.{variable.name}"))
        raise self.error(node, f"unknown call {function}")

    def defined(self, node: Node, function: Function | None, arguments: Sequence[Node]) -> Value:
        """What a function of one `return` gives for these arguments."""
        body = function.body.args if function is not None and function.body is not None else ()
        if function is None or len(body) != 1 or body[0].kind != "return" or len(arguments) != len(function.parameters):
            raise self.error(node, "a function that does not return one value for its arguments")
        given = {name: self.evaluate(a) for (_, name), a in zip(function.parameters, arguments, strict=True)}
        outer, self.locals = self.locals, given
        result = self.evaluate(body[0].args[0])
        self.locals = outer
        return result

    def ghost(self, node: Node) -> Variable:
        """The variable of `ghost_.name`."""
        name = node.args[1] if node.kind == "member" and str(node.args[0]) == "(name ghost_)" else ""
        ghosts = self.world.layout.machine.nested.get("Ghosts")
        if ghosts is None or name not in ghosts.fields or name not in self.world.spec.variables:
            raise self.error(node, f"{node} is no ghost")
        return self.world.spec.variables[name]

    def boolean(self, node: Node) -> z3.BoolRef:
        """A condition."""
        value = self.evaluate(node)
        if value.type != "bool":
            raise self.error(node, f"{node} is a {value.type} where a condition is needed")
        return value.term

    def unary(self, node: Node) -> Value:
        """Negations."""
        sign, of = node.args
        if sign == "!":
            return Value("bool", z3.Not(self.boolean(of)))
        value = self.evaluate(of)
        if sign != "-" or value.type not in (LONG, INTEGER):
            raise self.error(node, f"operator {sign} on {value.type}")
        lowest = z3.BitVecVal(-(2 ** (WIDTHS[value.type] - 1)), WIDTHS[value.type], self.world.context)
        self.obligations.append(Obligation(node.line, f"-{of} does not wrap", value.term != lowest))
        return Value(value.type, -value.term)

    def binary(self, node: Node) -> Value:
        """Comparisons, logic and arithmetic."""
        sign, left, right = node.args
        if sign in ("&&", "||"):
            both = self.boolean(left), self.boolean(right)
            return Value("bool", z3.And(*both) if sign == "&&" else z3.Or(*both))
        a, b = self.balanced(node, left, right)
        if sign in ("==", "!="):
            return Value("bool", a.term == b.term if sign == "==" else a.term != b.term)
        if a.type not in WIDTHS:
            raise self.error(node, f"operator {sign} on {a.type}")
        match sign:
            case "<":
                return Value("bool", a.term < b.term)
            case "<=":
                return Value("bool", a.term <= b.term)
            case ">":
                return Value("bool", a.term > b.term)
            case ">=":
                return Value("bool", a.term >= b.term)
            case "+" | "-" if a.type in (LONG, INTEGER):
                operation = "add" if sign == "+" else "sub"
                condition = exact(operation, a.term, b.term)
                self.obligations.append(Obligation(node.line, f"'{sign}' does not wrap", condition))
                return Value(a.type, a.term + b.term if sign == "+" else a.term - b.term)
        raise self.error(node, f"operator {sign} is not used in generated code")

    def balanced(self, node: Node, left: Node, right: Node) -> tuple[Value, Value]:
        """Both values after the usual arithmetic conversions."""
        a, b = self.evaluate(left), self.evaluate(right)
        if a.type == b.type:
            return a, b
        if a.type in WIDTHS and b.type in WIDTHS:
            wide = LONG if LONG in (a.type, b.type) else ID
            return self.widen(a, wide), self.widen(b, wide)
        raise self.error(node, f"{a.type} and {b.type} are not compared or mixed in generated code")

    def widen(self, value: Value, to: str) -> Value:
        """The same number in at least as many bits."""
        if WIDTHS[value.type] == WIDTHS[to]:
            return Value(to, value.term)
        return Value(to, z3.SignExt(WIDTHS[to] - WIDTHS[value.type], value.term))

    def converted(self, node: Node, type_: str) -> z3.ExprRef:
        """The value of an expression that is stored as this type; nothing may be lost."""
        value = self.evaluate(node)
        if value.type == INTEGER and type_ == LONG:
            value = self.widen(value, LONG)
        if value.type != type_:
            raise self.error(node, f"{node} is a {value.type} and is stored as a {type_}")
        return value.term
