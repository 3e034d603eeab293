"""Expressions of the specification as terms of z3: the state before a transition, the state after, and individuals.

The state after is the state before with the effects substituted, so there are no frame axioms. Names of terms are
unique by construction: what kind of thing it is stands before the name, so that no parameter, individual or constant is
ever taken for a variable that is called alike.

A sort may have no individuals at all (a server without host pages). For z3 every sort has some, so whatever is assumed
of the individuals of a sort is assumed under the proposition that it is *inhabited*; who speaks of an individual
asserts that its sort is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import z3

from ..language import counting
from ..language.expressions import BOOL, INT, TICK, Expr
from ..language.spec import Parameter, Property, Spec, Transition, Variable

Reader = Callable[[Variable, Sequence[z3.ExprRef]], z3.ExprRef]
Individuals = dict[str, list[z3.ExprRef]]
Memo = dict[int, tuple[Expr, z3.ExprRef]]
"""By identity of an expression, which is kept so that it stays the same: its term."""


class Terms:
    """The terms of one specification, in a z3 context of their own."""

    def __init__(self, spec: Spec, timeout_ms: int = 20_000) -> None:
        self.spec = spec
        self.timeout_ms = timeout_ms
        self.context = z3.Context()
        self.types: dict[str, z3.SortRef] = {
            BOOL: z3.BoolSort(self.context),
            INT: z3.IntSort(self.context),
            TICK: z3.IntSort(self.context),
        }
        self.classes: dict[str, type[z3.ExprRef]] = {BOOL: z3.BoolRef, INT: z3.ArithRef, TICK: z3.ArithRef}
        self.values: dict[tuple[str, str], z3.ExprRef] = {}
        for enum in spec.enums.values():
            sort, constants = z3.EnumSort(enum.name, list(enum.values), ctx=self.context)
            self.types[enum.name] = sort
            self.classes[enum.name] = z3.DatatypeRef
            self.values.update({(enum.name, v): c for v, c in zip(enum.values, constants, strict=True)})
        for name in spec.sorts:
            self.types[name] = z3.DeclareSort(name, self.context)
            self.classes[name] = z3.ExprRef
        self.constants = {name: z3.Int(f"constant {name}", self.context) for name in spec.constants}
        self.inhabited = {name: z3.Bool(f"inhabited {name}", self.context) for name in spec.sorts}
        self.functions = {
            v.name: z3.Function(f"state {v.name}", *[self.types[s.name] for s in v.sorts], self.types[v.type])
            for v in spec.variables.values()
        }
        self.transition = ""
        self.known_assumptions: dict[tuple[int, ...], list[z3.BoolRef]] = {}
        self.known_facts: dict[tuple[str, ...], z3.BoolRef] = {}

    # Expressions.

    def before(self, variable: Variable, index: Sequence[z3.ExprRef]) -> z3.ExprRef:
        """The variable in the state before the transition."""
        arguments = (z3.Ast * len(index))(*[i.ast for i in index])
        term = z3.Z3_mk_app(self.context.ref(), self.functions[variable.name].ast, len(index), arguments)
        return self.classes[variable.type](term, self.context)

    def initial(self, variable: Variable, _: Sequence[z3.ExprRef]) -> z3.ExprRef:
        """The variable at the start."""
        return self.evaluate(variable.init, {}, self.before)

    def evaluate(
        self,
        e: Expr,
        names: dict[str, z3.ExprRef],
        read: Reader,
        read_next: Reader | None = None,
        memos: Sequence[Memo] = (),
    ) -> z3.ExprRef:
        """The z3 term of an expression, with parameters from `names` and variables through `read`.

        `memos`: terms made before with the same names, for each state that is read.
        """
        if not memos or not e.still or e.op in ("lit", "enum", "param", "const"):
            return self.term(e, names, read, read_next, memos)
        found = memos[0].get(id(e))
        if found is None:
            found = memos[0][id(e)] = (e, self.term(e, names, read, read_next, memos))
        return found[1]

    def term(
        self,
        e: Expr,
        names: dict[str, z3.ExprRef],
        read: Reader,
        read_next: Reader | None,
        memos: Sequence[Memo],
    ) -> z3.ExprRef:
        """The z3 term of an expression, made anew, by z3's C functions: its Python operators are many times as slow."""
        op, context = e.op, self.context.ref()
        if op == "lit":
            value = e.args[0]
            return z3.BoolVal(value, self.context) if e.type == BOOL else z3.IntVal(value, self.context)
        if op == "enum":
            return self.values[e.args[0].name, e.args[1]]
        if op == "param":
            return names[e.args[0]]
        if op == "const":
            return self.constants[e.args[0]]
        if op == "read":
            return read(e.args[0], [self.evaluate(i, names, read, read_next, memos) for i in e.args[1:]])
        if op == "next":
            assert read_next is not None
            return self.evaluate(e.args[0], names, read_next, None, memos[1:])
        if op == "taken":
            return z3.BoolVal(e.args[0] == self.transition, self.context)
        if op == "call":
            return self.evaluate(e.meaning, names, read, read_next, memos)
        parts = [self.evaluate(x, names, read, read_next, memos) for x in e.args]  # they own what z3 is given
        a = [part.ast for part in parts]
        match op:
            case "eq":
                made = z3.Z3_mk_eq(context, a[0], a[1])
            case "le":
                made = z3.Z3_mk_le(context, a[0], a[1])
            case "lt":
                made = z3.Z3_mk_lt(context, a[0], a[1])
            case "add":
                made = z3.Z3_mk_add(context, 2, (z3.Ast * 2)(*a))
            case "sub":
                made = z3.Z3_mk_sub(context, 2, (z3.Ast * 2)(*a))
            case "not":
                made = z3.Z3_mk_not(context, a[0])
            case "and":
                made = z3.Z3_mk_and(context, 2, (z3.Ast * 2)(*a))
            case "or":
                made = z3.Z3_mk_or(context, 2, (z3.Ast * 2)(*a))
            case "ite":
                made = z3.Z3_mk_ite(context, a[0], a[1], a[2])
            case _:
                raise AssertionError(f"unknown node {op}")
        return self.classes[e.type](made, self.context)

    def after_reader(self, transition: Transition, names: dict[str, z3.ExprRef]) -> Reader:
        """Reads variables in the state after the transition: effects are substituted."""
        by_variable: dict[str, list[tuple[list[z3.ExprRef | None], tuple[Parameter, ...], Expr]]] = {}
        for effect in transition.effects:
            bound = {b.name for b in effect.binders}
            index = [
                None if i.op == "param" and i.args[0] in bound else self.evaluate(i, names, self.before)
                for i in effect.index
            ]
            by_variable.setdefault(effect.variable.name, []).append((index, effect.binders, effect.value))
        known: dict[tuple[str, tuple[int, ...]], z3.ExprRef] = {}

        def made(variable: Variable, index: Sequence[z3.ExprRef]) -> z3.ExprRef:
            value = self.before(variable, index)
            for places, binders, expression in by_variable[variable.name]:
                any_terms = [x for place, x in zip(places, index, strict=True) if place is None]
                local = {**names, **{b.name: x for b, x in zip(binders, any_terms, strict=True)}}
                new = self.evaluate(expression, local, self.before)
                here = [x == place for place, x in zip(places, index, strict=True) if place is not None]
                value = z3.If(z3.And(*here), new, value) if here else new
            return value

        def read(variable: Variable, index: Sequence[z3.ExprRef]) -> z3.ExprRef:
            if variable.name not in by_variable:
                return self.before(variable, index)
            key = (variable.name, tuple(x.get_id() for x in index))
            if key not in known:
                known[key] = made(variable, index)
            return known[key]

        return read

    # What may be assumed.

    def constant_axioms(self) -> list[z3.BoolRef]:
        """The bounds of the constants, and which sorts are never empty."""
        never_empty = [self.inhabited[sort.name] for sort in self.spec.sorts.values() if sort.inhabited]
        return [*never_empty, *[self.constants[name] >= low for name, (_, low, _) in self.spec.constants.items()]]

    def tuples(self, parameters: Sequence[Parameter], individuals: Individuals) -> list[dict[str, z3.ExprRef]]:
        """All ways to choose individuals for the parameters."""
        choices = [individuals[p.type] for p in parameters]
        return [{p.name: x for p, x in zip(parameters, xs, strict=True)} for xs in itertools.product(*choices)]

    def exist(self, parameters: Iterable[Parameter]) -> list[z3.BoolRef]:
        """The sorts of these parameters have individuals."""
        return [self.inhabited[sort] for sort in dict.fromkeys(p.type for p in parameters) if sort in self.inhabited]

    def assumptions(self, individuals: Individuals) -> list[z3.BoolRef]:
        """Invariants and counter axioms of the state before, for the given individuals, if there are any."""
        key = tuple(len(xs) for xs in individuals.values())
        if key not in self.known_assumptions:
            self.known_assumptions[key] = self.instantiate(individuals)
        return self.known_assumptions[key]

    def instantiate(self, individuals: Individuals) -> list[z3.BoolRef]:
        """The assumptions, written out for these individuals."""
        facts = self.constant_axioms()
        claims: list[Property | counting.Claim] = [*self.spec.invariants(), *counting.assumptions(self.spec)]
        for c in claims:
            letters = {p.type: self.spec.sorts[p.type].letter for p in c.parameters}
            numbers = [range(len(individuals[p.type])) for p in c.parameters]
            exist = self.exist(c.parameters)
            for chosen in itertools.product(*numbers):
                key = (c.name, *[f"{letters[p.type]}{i}" for p, i in zip(c.parameters, chosen, strict=True)])
                if key not in self.known_facts:  # the same individuals, in another number of them
                    names = {p.name: individuals[p.type][i] for p, i in zip(c.parameters, chosen, strict=True)}
                    fact = self.evaluate(c.formula, names, self.before)
                    self.known_facts[key] = z3.Implies(z3.And(*exist), fact) if exist else fact
                facts.append(self.known_facts[key])
        return facts

    def individuals(
        self, parameters: Sequence[Parameter], extra: int | dict[str, int]
    ) -> tuple[dict[str, z3.ExprRef], Individuals]:
        """Constants for the parameters, and for each sort these plus `extra` fresh ones.

        The n-th individual of a sort is always the same constant, so that transitions can share assumptions.
        """
        names: dict[str, z3.ExprRef] = {}
        terms: Individuals = {sort: [] for sort in self.spec.sorts}
        for p in parameters:
            if p.type in terms:
                names[p.name] = self.individual(p.type, len(terms[p.type]))
                terms[p.type].append(names[p.name])
            else:
                names[p.name] = z3.Const(f"argument {p.name}", self.types[p.type])
        for sort in self.spec.sorts:
            more = extra if isinstance(extra, int) else extra.get(sort, 0)
            terms[sort] += [self.individual(sort, len(terms[sort]) + i) for i in range(more)]
        return names, terms

    def individual(self, sort: str, number: int) -> z3.ExprRef:
        """The n-th individual of a sort."""
        return z3.Const(f"individual {self.spec.sorts[sort].letter}{number}", self.types[sort])

    def solver(self) -> z3.Solver:
        """A fresh solver with the time limit."""
        solver = z3.Solver(ctx=self.context)
        solver.set("timeout", self.timeout_ms)
        return solver

    def assume(self, solver: z3.Solver, facts: Iterable[z3.BoolRef]) -> None:
        """Assert the facts, past the conversions of `Solver.add`."""
        for fact in facts:
            z3.Z3_solver_assert(self.context.ref(), solver.solver, fact.ast)


__all__ = ["Individuals", "Memo", "Reader", "Terms"]
