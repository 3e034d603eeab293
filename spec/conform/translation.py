"""Translation validation: the text of the generated C++ does what the specification says, proved by z3.

machine.h and machine.cpp are parsed back (cpp/parser.py), each `apply_*` function is run symbolically over machine
integers (cpp/semantics.py, cpp/execution.py), and for every state, parameters and individuals within the declared
bounds z3 must show that

- ids out of range are refused, and nothing else is refused for that reason;
- the guards are those of the specification, in order, and each is true exactly when the specification's is;
- after the assignments every variable of every individual has the value that the effects give it;
- no sum or difference wraps, neither in C++ nor in the specification over 64 bits, and every index is in range.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import z3

from ..language import counting
from ..language.expressions import Expr, variables_read
from ..language.spec import Definition, Effect, Parameter, Spec, Transition, Variable
from .cpp.declarations import Unit, read_unit
from .cpp.execution import Execution, execute
from .cpp.frame import check_frame
from .cpp.layout import (
    Finding,
    Layout,
    guard_enumerator,
    missing_ghosts,
    parameters_of,
    read_layout,
    readable_definitions,
)
from .cpp.parser import Node
from .cpp.semantics import ID, Obligation, State, Value, World
from .cpp.tokens import CppError

TIMEOUT_MS = 20_000
CLAIMS_AT_ONCE = 32


@dataclass(frozen=True)
class Claim:
    """One thing to prove about a line; `failure` says what is wrong if it is false."""

    line: int
    kind: str
    failure: str
    holds: z3.BoolRef


@dataclass(frozen=True)
class Sources:
    """The texts of machine.h, machine.cpp, machine_ghosts.cpp (of the checked build) and ids.h."""

    header: str
    code: str
    ghosts: str
    ids: str


@dataclass
class Validation:
    """What was compared and proved, and what was found instead. `proofs`: by kind of claim."""

    findings: list[Finding] = field(default_factory=list)
    proofs: dict[str, int] = field(default_factory=dict)
    transitions: int = 0
    seconds: float = 0.0

    @property
    def valid(self) -> bool:
        """Whether the code does what the specification says."""
        return not self.findings

    def count(self, kind: str, number: int = 1) -> None:
        """Note proofs of a kind."""
        self.proofs[kind] = self.proofs.get(kind, 0) + number


def validate(spec: Spec, sources: Sources, builds: Sequence[bool] = (False, True)) -> Validation:
    """Compare and prove everything; `builds`: release (False) and checked (True)."""
    result = Validation()
    start = time.perf_counter()
    for checked in builds:
        try:
            layout, code = read(spec, sources, checked)
        except CppError as error:
            result.findings.append(Finding(error.file, error.line, error.what, "parser"))
            continue
        result.findings += layout.findings or check_frame(layout, code, checked)
        for definition in readable_definitions(layout) if not result.findings else ():
            validate_definition(layout, definition, checked, result)
        for transition in spec.transitions.values() if not result.findings else ():
            validate_transition(layout, code, transition, checked, result)
    result.seconds = time.perf_counter() - start
    return result


def read(spec: Spec, sources: Sources, checked: bool) -> tuple[Layout, Unit]:
    """Parse the files as one build sees them. Raises CppError."""
    header = read_unit(sources.header, "machine.h", checked)
    layout = read_layout(spec, header, sources.ids)
    for name in missing_ghosts(layout) if checked else ():
        layout.report(layout.machine.line, f"the checked build does not carry the ghost {name}")
    return layout, read_code(sources, checked)


def read_code(sources: Sources, checked: bool) -> Unit:
    """All functions that one build defines. Raises CppError."""
    code = read_unit(sources.code, "machine.cpp", checked)
    if checked:
        ghosts = read_unit(sources.ghosts, "machine_ghosts.cpp", checked)
        for name, function in ghosts.functions.items():
            if name in code.functions or not name.startswith("Machine::ghost_"):
                raise CppError(ghosts.file, function.line, f"{name} is no function of this file")
        code.functions |= ghosts.functions
    return code


def validate_transition(
    layout: Layout, code: Unit, transition: Transition, checked: bool, into: Validation | None = None
) -> list[Finding]:
    """Compare one function with its transition. Findings and counts go to `into`; the new findings are returned."""
    result = into if into is not None else Validation()
    known = len(result.findings)
    function = code.functions.get(f"Machine::apply_{transition.name}")
    result.transitions += 1
    if function is None or function.parameters != parameters_of(layout, transition):
        line = 1 if function is None else function.line
        what = f"apply_{transition.name} is not defined with the parameters of {transition.name}"
        result.findings.append(Finding(code.file, line, what, "structure"))
        return result.findings[known:]
    try:
        world = World(layout)
        run = execute(world, function, transition, code.functions)
        _Comparison(world, run, transition, checked, result, function.line).all()
    except CppError as error:
        result.findings.append(Finding(error.file, error.line, error.what, "structure"))
    return result.findings[known:]


def validate_definition(layout: Layout, definition: Definition, checked: bool, result: Validation) -> None:
    """Prove that the function of this name in the header gives what the definition says."""
    world, function = World(layout), layout.machine.functions[definition.name]
    named = Transition(definition.name, "", definition.parameters, "")
    run = Execution(State(world, layout.unit.file, {}))
    comparison = _Comparison(world, run, named, checked, result, function.line)
    for p in definition.parameters:
        run.state.locals[p.name] = Value(ID, comparison.names[p.name])
    name, *own = (Node("name", (x,), function.line) for x in (definition.name, *run.state.locals))
    call = Node("call", (name, tuple(own)), function.line)
    try:
        found = run.state.evaluate(call).term
    except CppError as error:
        result.findings.append(Finding(error.file, error.line, error.what, "structure"))
        return
    wanted = world.evaluate(definition.formula, comparison.names, comparison.obligations)
    comparison.claims.append(Claim(function.line, "definitions", "means something else", found == wanted))
    comparison.note_obligations()
    comparison.decide()


class _Comparison:
    """One function against one transition."""

    def __init__(
        self, world: World, run: Execution, transition: Transition, checked: bool, result: Validation, line: int
    ) -> None:
        self.world, self.run, self.transition, self.checked = world, run, transition, checked
        self.result, self.line, self.spec = result, line, world.spec
        self.names = {p.name: world.parameter(p.name, p.type) for p in transition.parameters}
        self.obligations: list[Obligation] = []
        self.claims: list[Claim] = []

    def report(self, line: int, what: str, by: str) -> None:
        self.result.findings.append(Finding(self.run.state.file, line, f"{self.transition.name}: {what}", by))

    def all(self) -> None:
        if not self.same_refusals():
            return
        for refusal, guard in zip(self.refusals, self.guards, strict=True):
            wanted = self.world.evaluate(guard.condition, self.names, self.obligations)
            what = f"guard {guard.name!r} means something else"
            self.claims.append(Claim(refusal.line, "guards", what, refusal.allowed == wanted))
        self.effects()
        self.note_obligations()
        self.decide()

    def note_obligations(self) -> None:
        """What has to hold wherever a line is executed."""
        obligations = [*self.obligations, *self.run.state.obligations]
        kinds = {"is indexed within its": "indices in range"}
        for o in obligations:
            kind = next((k for words, k in kinds.items() if words in o.what), "operations that do not wrap")
            self.claims.append(Claim(o.line or self.line, kind, f"not proved: {o.what}", o.condition))

    # What is compared.

    def same_refusals(self) -> bool:
        """The same guards in the same order; the first refuses ids out of range."""
        ghost = {v.name for v in self.spec.variables.values() if v.ghost}
        self.guards = [g for g in self.transition.guards if self.checked or not variables_read(g.condition) & ghost]
        bounded = [p for p in self.transition.parameters if p.type in self.spec.sorts]
        expected = ["bad_index"] * bool(bounded) + [guard_enumerator(self.transition.name, g.name) for g in self.guards]
        found = [r.name for r in self.run.refusals]
        for i in range(max(len(expected), len(found))):
            wanted, name = (names[i] if i < len(names) else "nothing" for names in (expected, found))
            if wanted != name:
                line = self.run.refusals[i].line if i < len(found) else self.line
                self.report(line, f"guard {i + 1} must be {wanted}, found {name}", "structure")
                return False
        self.refusals = self.run.refusals[bool(bounded) :]
        if bounded:
            first = self.run.refusals[0]
            what = "refuses other ids than those out of range"
            self.claims.append(Claim(first.line, "id ranges", what, first.allowed == self.inside()))
        return True

    def inside(self) -> z3.BoolRef:
        """All ids among the parameters are those of records."""
        ids = [p for p in self.transition.parameters if p.type in self.spec.sorts]
        return z3.And([self.world.true, *[self.in_range(self.names[p.name], p.type) for p in ids]])

    def implies(self, conditions: list[z3.BoolRef], conclusion: z3.BoolRef) -> z3.BoolRef:
        return z3.Implies(z3.And(conditions), conclusion) if conditions else conclusion

    def in_range(self, term: z3.ExprRef, sort: str) -> z3.BoolRef:
        return z3.And(term >= 0, term < self.world.counts[sort])

    def effects(self) -> None:
        """Every variable of every individual afterwards."""
        state = self.run.state
        by_variable: dict[str, list[Effect]] = {}
        for effect in self.transition.effects:
            by_variable.setdefault(effect.variable.name, []).append(effect)
        for variable in self.spec.variables.values():
            keys = [] if variable.ghost else [variable.name]
            if self.checked and (variable.ghost or self.world.layout.is_relation(variable)):
                keys.append(f"ghost_.{variable.name}")
            touched = [k for k in keys if k in state.writes]
            if variable.name not in by_variable and not touched:
                continue
            index = [z3.Const(f"at_{s.letter}{i}", self.world.bits(32)) for i, s in enumerate(variable.sorts)]
            ranges = [self.in_range(x, s.name) for x, s in zip(index, variable.sorts, strict=True)]
            wanted = self.after(variable, index, by_variable.get(variable.name, []))
            for key in keys:
                found = state.read(variable, index, key if key != variable.name else "")
                what = f"{key} is not what the effects of {self.transition.name} give"
                if key not in state.writes:
                    what = f"{key} is not written"
                ids = self.one_individual(variable, index) if variable.one and key == variable.name else []
                self.claims.append(Claim(self.line, "effects", what, self.implies([*ranges, *ids], found == wanted)))
        for line, name, index, at in self.run.tables:
            self.table_position(line, name, index, at)

    def after(self, variable: Variable, index: list[z3.ExprRef], effects: list[Effect]) -> z3.ExprRef:
        """The value that the specification's effects give, all read in the state before."""
        value = self.world.before(variable, index)
        for effect in effects:
            binders = {b.name for b in effect.binders}
            local, here = dict(self.names), []
            for i, at in zip(effect.index, index, strict=True):
                if i.op == "param" and i.args[0] in binders:
                    local[i.args[0]] = at
                else:
                    here.append(at == self.world.evaluate(i, self.names, self.obligations))
            met: list[Obligation] = []
            new = self.world.evaluate(effect.value, local, met)
            ranges = [self.in_range(x, s.name) for x, s in zip(index, variable.sorts, strict=True)]
            relevant = [*ranges, *here]
            self.obligations += [Obligation(o.line, o.what, self.implies(relevant, o.condition)) for o in met]
            value = z3.If(z3.And(here), new, value) if here else new
        return value

    def table_position(self, line: int, name: str, index: list[z3.ExprRef], at: z3.ExprRef) -> None:
        """A table is written at the position where its readers look in the state after."""
        layout, state = self.world.layout, self.run.state
        node = layout.places[name].at
        names = [n for _, n in layout.accessors[name].parameters]
        locals_, state.locals = state.locals, {n: Value(ID, x) for n, x in zip(names, index, strict=True)}
        reader = state.evaluate(node) if node is not None else None
        state.locals = locals_
        if reader is not None:
            what = f"{name} is written where its readers do not look"
            self.claims.append(Claim(line, "effects", what, reader.term == at))

    def one_individual(self, variable: Variable, index: list[z3.ExprRef]) -> list[z3.BoolRef]:
        """Invariants (proved) that say when a relation is empty: a relation kept as an id needs them."""
        individuals: dict[str, list[z3.ExprRef]] = {sort: [] for sort in self.spec.sorts}
        for p in self.transition.parameters:
            if p.type in individuals:
                individuals[p.type].append(self.names[p.name])
        for sort, term in zip(variable.sorts, index, strict=True):
            individuals[sort.name].append(term)
        facts = [self.world.evaluate(g.condition, self.names, []) for g in self.transition.guards]
        claims: list[tuple[tuple[Parameter, ...], Expr]] = [(p.parameters, p.formula) for p in self.spec.invariants()]
        claims += [(c.parameters, c.formula) for c in counting.assumptions(self.spec)]
        for parameters, formula in claims:
            if variable.name in variables_read(formula):
                facts += [self.world.evaluate(formula, names, []) for names in _choices(parameters, individuals)]
        return facts

    # Deciding.

    def decide(self) -> None:
        """A question for a few claims at once; where it has a model, one for each of them."""
        if not self.claims:
            return
        inside = self.inside()
        claims = [(c, c.holds if c.kind == "id ranges" else z3.Implies(inside, c.holds)) for c in self.claims]
        for at in range(0, len(claims), CLAIMS_AT_ONCE):
            some = claims[at : at + CLAIMS_AT_ONCE]
            if self.refuted([holds for _, holds in some]) == z3.unsat:
                for claim, _ in some:
                    self.result.count(claim.kind)
                continue
            for claim, holds in some:
                answer = self.refuted([holds])
                if answer == z3.unsat:
                    self.result.count(claim.kind)
                else:
                    self.report(claim.line, claim.failure + ("" if answer == z3.sat else " (z3 does not know)"), "z3")

    def refuted(self, claims: list[z3.BoolRef]) -> z3.CheckSatResult:
        """Whether some state within the bounds makes one of the claims false."""
        solver = z3.SolverFor("QF_UFBV", ctx=self.world.context)
        solver.set("timeout", TIMEOUT_MS)
        solver.add(*self.world.facts.values())
        return solver.check(z3.Not(z3.And(claims)))


def _choices(parameters: Sequence[Parameter], individuals: dict[str, list[z3.ExprRef]]) -> list[dict[str, z3.ExprRef]]:
    found: list[dict[str, z3.ExprRef]] = [{}]
    for p in parameters:
        found = [{**names, p.name: term} for names in found for term in individuals.get(p.type, [])]
    return found
