"""The specification language: sorts, variables, transitions and properties over a small expression tree.

A `Spec` is a set of state variables and of transitions that change them. A transition has parameters, named guards
(when it may be taken) and effects (simultaneous point updates, every right-hand side read in the state before).
Everything else in this folder (prover, explorer, C++ generator, monitor, diagrams) is derived from these objects
and nothing else.

Sorts such as Request are unbounded sets of anonymous individuals; a variable is a function from sorts to a value:

    Request = spec.sort("Request", "r")
    blocks = spec.variable("blocks", Request, of=INT, init=0, doc="KV blocks that the request holds")
    blocks(r)          # reads it: an expression
    blocks[r]          # the place that an effect writes
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .declarations import (
    ANY,
    Choice,
    Count,
    Definition,
    Effect,
    Enum,
    Guard,
    Integers,
    Move,
    Number,
    Parameter,
    Place,
    Property,
    Sort,
    Tiling,
    Transition,
    Variable,
)
from .derivation import counter_effects
from .expressions import BOOL, INT, TICK, Expr, SpecError, lift, still, to_text
from .labels import check_parameters, new_name

if TYPE_CHECKING:
    from .counting import Claim
    from .progress import Progress
    from .ranking import Clause, Stage


class Spec:
    """A whole specification; the machines add to it in the order in which they are read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sorts: dict[str, Sort] = {}
        self.enums: dict[str, Enum] = {}
        self.constants: dict[str, tuple[Expr, int, str]] = {}
        self.variables: dict[str, Variable] = {}
        self.definitions: dict[str, Definition] = {}
        self.transitions: dict[str, Transition] = {}
        self.counts: dict[str, Count] = {}
        self.subsets: list[tuple[str, str]] = []
        self.totals: dict[str, tuple[str, str]] = {}
        self.properties: dict[str, Property] = {}
        self.choices: list[Choice] = []
        self.tilings: dict[str, Tiling] = {}
        self.progress: dict[str, Progress] = {}
        self.stages: dict[str, Stage] = {}
        self.clauses: dict[str, Clause] = {}
        self.conforming: dict[str, Claim] = {}
        self.tick_origin: Variable | None = None
        self.ranges: dict[tuple[str, str], tuple[Expr, Expr]] = {}

    def sort(self, name: str, letter: str, grows: bool = False, inhabited: bool = False) -> Sort:
        """Declare an unbounded set of individuals; an `inhabited` one has at least one."""
        new_name("sort", name, (BOOL, INT, TICK), self.sorts, self.enums)
        new_name("letter", letter, [s.letter for s in self.sorts.values()])
        self.sorts[name] = Sort(name, letter, grows, inhabited)
        return self.sorts[name]

    def enum(self, name: str, **values: str) -> Enum:
        """Declare a finite type: value name = what it means."""
        new_name("enum", name, (BOOL, INT, TICK), self.sorts, self.enums)
        self.enums[name] = Enum(name, values)
        return self.enums[name]

    def constant(self, name: str, minimum: int, doc: str) -> Expr:
        """Declare an integer that never changes and is at least `minimum`."""
        new_name("constant", name, self.constants, self.variables)
        self.constants[name] = (Expr("const", name, type=INT), minimum, doc)
        return self.constants[name][0]

    def variable(
        self,
        name: str,
        *sorts: Sort,
        of: Any,
        doc: str,
        init: Any = None,
        ghost: bool = False,
        one: bool = False,
        table: Variable | None = None,
    ) -> Variable:
        """Declare state: a function from `sorts` to `of` (a type, enum or kind of integers).

        At the start it is `init`; without that, false or 0.
        """
        new_name("variable", name, self.constants, self.variables)
        kind = of if isinstance(of, Integers) else None
        init = (False if of == BOOL else 0) if init is None else init
        type_ = of.name if isinstance(of, Enum) else INT if kind else of
        self.variables[name] = Variable(name, sorts, type_, lift(init), ghost, doc, one, table, kind)
        return self.variables[name]

    def count(
        self,
        name: str,
        *sorts: Sort,
        of: Callable[..., Expr],
        doc: str,
        over: Sort | None = None,
        weight: Callable[..., Expr] | Expr | None = None,
        init: Any = 0,
        ghost: bool = False,
        part_of: Variable | None = None,
    ) -> Variable:
        """Declare a counter by its meaning: how many of `over` satisfy `of`, or the total of their `weight`.

        `of` may be a relation, of which all partners of an individual are counted, and `weight` a variable or the same
        for all. Transitions change a counter as its meaning changes (derivation.py); the prover checks that they do.
        `part_of` names a counter over a superset.
        """
        if isinstance(of, Variable):
            (over,) = (s for s in of.sorts if s not in sorts)
        assert over is not None
        variable = self.variable(name, *sorts, of=INT, init=init, doc=doc, ghost=ghost)
        counted = Parameter(f"each_{over.letter}", over.name)
        index = tuple(Parameter(letter, s.name) for letter, s in zip(variable.letters, sorts, strict=True))
        args = [counted.expr, *[i.expr for i in index]]
        condition, weights = (
            f if f is None or isinstance(f, Expr) else still(f"count {name}", _about(f, args)) for f in (of, weight)
        )
        assert condition is not None
        count = Count(variable, counted, index, condition, weights)
        if variable.init.op == "const":
            total = (over.name, to_text(lift(1) if count.weight is None else count.weight))
            constant = str(variable.init.args[0])
            if self.totals.setdefault(constant, total) != total:
                raise SpecError(f"{name}: {constant} is the total of {self.totals[constant]}, not of {total}")
        self.counts[name] = count
        if part_of is not None:
            self.subsets.append((name, part_of.name))
        return variable

    def definition(self, **sorts: Sort) -> Callable[[Callable[..., Expr]], Definition]:
        """Decorator: a function that returns a formula about one state becomes a name for it."""
        parameters = tuple(Parameter(name, sort.name) for name, sort in sorts.items())

        def declare(body: Callable[..., Expr]) -> Definition:
            new_name("definition", body.__name__, self.constants, self.variables, self.definitions)
            formula = still(body.__name__, body(*[p.expr for p in parameters]))
            definition = Definition(body.__name__, parameters, formula, inspect.getdoc(body) or "")
            self.definitions[definition.name] = definition
            return definition

        return declare

    def transition(self, actor: str = "scheduler", **parameters: Any) -> Callable[[Callable[..., None]], Transition]:
        """Decorator: a function that adds guards and effects becomes a transition; its docstring explains it.

        A parameter is given as a sort or a `Number`.
        """
        made: list[Parameter] = []
        check_parameters(parameters)
        for name, kind in parameters.items():
            if isinstance(kind, Sort):
                made.append(Parameter(name, kind.name))
            else:
                low, high = (None if x is None else lift(x) for x in (kind.low, kind.high))
                made.append(Parameter(name, INT, low, high, kind.kind))

        def declare(body: Callable[..., None]) -> Transition:
            new_name("transition", body.__name__, self.transitions)
            transition = Transition(body.__name__, actor, tuple(made), inspect.getdoc(body) or "")
            body(transition, *[p.expr for p in made])
            transition.finish()
            transition.effects += counter_effects(transition, self.counts.values())
            self.transitions[transition.name] = transition
            for name, kind in parameters.items():
                if isinstance(kind, Number) and kind.tried is not None:
                    first, last = kind.tried(*_arguments(kind.tried, made)) if callable(kind.tried) else kind.tried
                    self.ranges[transition.name, name] = lift(first), lift(last)
            return transition

        return declare

    def _declare(
        self,
        kind: str,
        group: str,
        sorts: dict[str, Sort],
        given: tuple[Sort, Callable[..., Expr]] | None = None,
    ) -> Callable[[Callable[..., Expr]], Property]:
        check_parameters(sorts)
        parameters = tuple(Parameter(p, s.name) for p, s in sorts.items())

        def declare(formula: Callable[..., Expr]) -> Property:
            name = formula.__name__.replace("_", " ")
            if name in self.properties:
                raise SpecError(f"two properties named {name!r}")
            individuals = [p.expr for p in parameters]
            fact = None
            if given is not None:
                every = Parameter(f"every_{given[0].letter}", given[0].name)
                fact = (every, still(name, given[1](every.expr, *individuals)))
            says = formula(*individuals) if kind == "action" else still(name, formula(*individuals))
            doc = inspect.getdoc(formula) or ""
            self.properties[name] = Property(name, kind, group, parameters, says, doc, fact)
            return self.properties[name]

        return declare

    def safety(self, group: str, **sorts: Sort) -> Callable[[Callable[..., Expr]], Property]:
        """Decorator: a property of every reachable state; the docstring is one sentence that a user understands."""
        return self._declare("property", group, sorts)

    def lemma(self, **sorts: Sort) -> Callable[[Callable[..., Expr]], Property]:
        """Decorator: a fact of every reachable state that the proof of the others needs."""
        return self._declare("lemma", "lemma", sorts)

    def action(
        self, group: str, given: tuple[Sort, Callable[..., Expr]] | None = None, **sorts: Sort
    ) -> Callable[[Callable[..., Expr]], Property]:
        """Decorator: a property of every transition, relating the state before and `after`.

        `given`: a sort and a fact of each of its individuals and the property's own, assumed before the transition.
        """
        return self._declare("action", group, sorts, given)

    def tiling(
        self, counter: Variable, position: Callable[..., Expr], start: Callable[..., Expr], when: Callable[..., Expr]
    ) -> None:
        """Declare that what a counter counts leaves no hole; `position` is of what it counts, the others of its index.

        The prover checks that the intervals are disjoint and within the range; that they then cover it is a fact
        about numbers (counting.py).
        """
        count = self.counts[counter.name]
        index = [p.expr for p in count.index]
        parts = (position(count.over.expr), start(*index), when(*index))
        self.tilings[counter.name] = Tiling(counter.name, *[still(f"tiling {counter.name}", e) for e in parts])

    def choice(
        self, group: str, *transitions: str, arguments: Callable[..., dict[str, Expr]] | None = None, **sorts: Sort
    ) -> Callable[[Callable[..., Expr]], Choice]:
        """Decorator: when the function's formula holds, exactly one of the transitions may be taken.

        `arguments` gives what stands for integer parameters of the transitions.
        """
        check_parameters(sorts)
        parameters = tuple(Parameter(p, s.name) for p, s in sorts.items())

        def declare(when: Callable[..., Expr]) -> Choice:
            individuals = [p.expr for p in parameters]
            name = when.__name__.replace("_", " ")
            new_name("choice", name, [c.name for c in self.choices])
            formula = still(name, when(*individuals))
            given = arguments(*individuals) if arguments is not None else {}
            doc = inspect.getdoc(when) or ""
            self.choices.append(Choice(name, group, transitions, parameters, formula, doc, given))
            return self.choices[-1]

        return declare

    def size(self, sort: str) -> str | None:
        """The constant that is the number of individuals of a sort: the one at which an unweighted counter starts."""
        for count in self.counts.values():
            if count.over.type == sort and count.weight is None and count.variable.init.op == "const":
                return str(count.variable.init.args[0])
        return None

    @property
    def order_only(self) -> tuple[Variable, ...]:
        """Variables of which only the order matters."""
        return tuple(v for v in self.variables.values() if v.kind is not None and v.kind.ordered)

    def invariants(self) -> list[Property]:
        """Properties and lemmas of single states, in order of declaration."""
        return [p for p in self.properties.values() if p.kind != "action"]

    def canonical(self) -> str:
        """The specification as text in which every name and formula appears; equal text means equal spec.

        What only searches use (ranges of integers, which numbers are shifted or ranked) is part of it.
        """
        lines = [f"spec {self.name}"]
        lines += [f"sort {s.name} {s.letter}{' inhabited' if s.inhabited else ''}" for s in self.sorts.values()]
        lines += [f"enum {e.name} = {' '.join(e.values)}" for e in self.enums.values()]
        lines += [f"constant {name} >= {low}" for name, (_, low, _) in self.constants.items()]
        for v in self.variables.values():
            kind = "ghost" if v.ghost else "variable"
            kept = " one" if v.one else f" in a table by {v.table.name}" if v.table else ""
            type_ = v.kind.name if v.kind else v.type
            lines.append(f"{kind} {v.name}({', '.join(s.name for s in v.sorts)}): {type_} = {v.init}{kept}")
        for c in self.counts.values():
            weight = "" if c.weight is None else f" of {c.weight}"
            lines.append(f"count {c.variable.name} = sum {c.over.name}: {c.condition}{weight}")
        for d in self.definitions.values():
            lines.append(f"definition {d.name}({', '.join(f'{p.name}: {p.type}' for p in d.parameters)}): {d.formula}")
        lines += [f"part {part} of {whole}" for part, whole in self.subsets]
        for t in self.transitions.values():
            lines.append(f"{t.actor} {t.name}({', '.join(f'{p.name}: {p.type}' for p in t.parameters)})")
            lines += [f"  guard {g.name}: {g.condition}" for g in t.guards]
            for e in t.effects:
                lines.append(f"  {e.variable.name}[{', '.join(map(to_text, e.index))}] := {e.value}")
        for p in self.properties.values():
            given = f" given {p.given[1]}" if p.given else ""
            lines.append(f"{p.kind} {p.group} {p.name}: {p.formula}{given}")
        for tiling in self.tilings.values():
            lines.append(f"tiling {tiling.counter}: {tiling.position} from {tiling.start} when {tiling.when}")
        for claim in self.progress.values():
            facts = [*claim.conditions, *[f for _, f in claim.witnesses], *[f"all {f}" for _, f in claim.given]]
            options = [f"{o.transition}({', '.join(map(to_text, o.arguments))})" for o in claim.options]
            options += map(str, claim.alternatives)
            lines.append(f"progress {claim.name}: {'; '.join(map(str, facts))}: {' or '.join(options)}")
        lines += [clause.canonical() for clause in self.clauses.values()]
        lines += [f"conforming {c.name}: {c.formula}" for c in self.conforming.values()]
        lines += [line for stage in self.stages.values() for line in stage.canonical()]
        for choice in self.choices:
            given = "".join(f" with {name} = {e}" for name, e in choice.arguments.items())
            lines.append(f"choice {choice.name}: {' '.join(choice.transitions)} when {choice.when}{given}")
        for (transition, parameter), (low, high) in self.ranges.items():
            lines.append(f"explore {transition}.{parameter}: {low} to {high}")
        if self.tick_origin is not None:
            lines.append(f"ticks from {self.tick_origin.name}")
        if self.order_only:
            lines.append(f"order only: {' '.join(v.name for v in self.order_only)}")
        return "\n".join(lines) + "\n"

    def digest(self) -> str:
        """SHA-256 (hex) of `canonical`; the compiled scheduler carries it."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def _about(f: Callable[..., Expr], individuals: list[Expr]) -> Expr:
    """A variable about those of the individuals whose sorts it has, or a function of all of them."""
    if not isinstance(f, Variable):
        return f(*individuals)
    by_sort = {i.type: i for i in individuals}
    return f(*[by_sort[s.name] for s in f.sorts])


def _arguments(function: Callable[..., Any], parameters: list[Parameter]) -> list[Expr]:
    """The parameters that a function names, as expressions."""
    known = {p.name: p.expr for p in parameters}
    return [known[name] for name in inspect.signature(function).parameters]


__all__ = [
    "ANY",
    "Choice",
    "Count",
    "Definition",
    "Effect",
    "Enum",
    "Guard",
    "Integers",
    "Move",
    "Number",
    "Parameter",
    "Place",
    "Property",
    "Sort",
    "Spec",
    "Tiling",
    "Transition",
    "Variable",
]
