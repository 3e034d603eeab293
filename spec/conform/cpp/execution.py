"""Runs one generated `apply_*` function symbolically: which guards refuse, in which order, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import z3

from ...language.spec import Transition
from .declarations import Function
from .parser import Node
from .semantics import ID, Obligation, State, Value, World, Write, same_place
from .tokens import CppError

ADD = "(member (name ghost_writes) add)"


@dataclass(frozen=True)
class Refusal:
    """`if (...) return Guard::name;`: `allowed` is true where it does not refuse."""

    name: str
    allowed: z3.BoolRef
    line: int


@dataclass
class Execution:
    """What the function does: refusals in order, then the state that it leaves."""

    state: State
    refusals: list[Refusal] = field(default_factory=list)
    tables: list[tuple[int, str, list[z3.ExprRef], z3.ExprRef]] = field(default_factory=list)
    pending: list[tuple[str, Write]] | None = None
    committed: bool = False
    recorded: bool = False


def execute(world: World, function: Function, transition: Transition, functions: Mapping[str, Function]) -> Execution:
    """Run the body. `functions`: all that are defined, by qualified name.

    Raises CppError at the first statement that generated code does not have.
    """
    file = function.file
    types = world.layout.value_type
    known = {
        p.name: Value(ID if p.type in world.spec.sorts else types(p.type), world.parameter(p.name, p.type))
        for p in transition.parameters
    }
    run = Execution(State(world, file, known))
    body = function.body.args if function.body is not None else ()
    if not body or str(body[-1]) != "(return (name Guard::none))":
        raise CppError(file, body[-1].line if body else function.line, "does not end with `return Guard::none;`")
    for statement in body[:-1]:
        _statement(run, statement, transition, functions)
    if not run.recorded:
        raise CppError(file, body[-1].line, f"{transition.name} is not recorded")
    return run


def _statement(run: Execution, node: Node, transition: Transition, functions: Mapping[str, Function]) -> None:
    state = run.state
    if run.recorded:
        raise state.error(node, "nothing may follow the record")
    if node.kind == "if":
        _refusal(run, node)
    elif node.kind == "declare":
        _declaration(run, node)
    elif node.kind == "for":
        _loop(run, node)
    elif node.kind == "do" and node.args[0].kind == "binary" and node.args[0].args[0] == "=":
        _, target, value = node.args[0].args
        variable, index = state.place(target)
        state.assign(variable.name, index, state.converted(value, state.type_of(variable)))
    elif node.kind == "do" and node.args[0].kind == "binary" and node.args[0].args[0] in ("+=", "-="):
        sign, target, amount = node.args[0].args
        variable, index = state.place(target)
        value = Node("binary", (sign[0], target, amount), node.line)
        state.assign(variable.name, index, state.converted(value, state.type_of(variable)))
    elif (
        node.kind == "do"
        and node.args[0].kind == "call"
        and str(node.args[0].args[0]) == f"(name ghost_{transition.name})"
    ):
        _ghosts(run, node, functions.get(f"Machine::ghost_{transition.name}"), transition)
    elif node.kind == "do" and node.args[0].kind == "call":
        _call(run, node.args[0], transition)
    else:
        raise state.error(node, f"generated code has no such statement: {node}")


def _ghosts(run: Execution, node: Node, function: Function | None, transition: Transition) -> None:
    """A call of the function with the transition's effects on ghosts, before all other effects."""
    state, arguments = run.state, node.args[0].args[1]
    if function is None or function.body is None:
        raise state.error(node, f"ghost_{transition.name} is not defined")
    if [str(a) for a in arguments] != [f"(name {name})" for _, name in function.parameters]:
        raise state.error(node, f"ghost_{transition.name} is not called with its own parameters")
    if state.writes or run.pending is not None:
        raise state.error(node, "effects on ghosts after other effects, or a second time")
    unknown = [name for _, name in function.parameters if name not in state.locals]
    if unknown:
        raise state.error(node, f"{transition.name} has no parameter {unknown[0]}")
    outer, file = dict(state.locals), state.file
    state.locals = {name: outer[name] for _, name in function.parameters}
    state.file = function.file
    for statement in function.body.args:
        if statement.kind not in ("declare", "do", "for") or run.committed:
            raise state.error(statement, "no effect on ghosts")
        _statement(run, statement, transition, {})
    if not run.committed:
        raise state.error(function.body, "ghost effects are collected and not committed")
    state.locals, state.file = outer, file


def _refusal(run: Execution, node: Node) -> None:
    state, (condition, then) = run.state, node.args
    if then.kind == "block" and len(then.args) == 1:
        then = then.args[0]
    if then.kind != "return" or then.args[0] is None or then.args[0].kind != "name":
        raise state.error(node, "an if that does not refuse")
    name = then.args[0].args[0]
    if not name.startswith("Guard::") or name == "Guard::none":
        raise state.error(node, f"{name} refuses nothing")
    if state.writes or run.pending is not None or run.recorded:
        raise state.error(node, "a guard after an effect: a refused transition would change the state")
    run.refusals.append(Refusal(name.removeprefix("Guard::"), z3.Not(state.boolean(condition)), node.line))


def _declaration(run: Execution, node: Node) -> None:
    state, (type_, name, value) = run.state, node.args
    if (type_, name, value) == ("GhostWrites", "ghost_writes", None) and run.pending is None:
        run.pending = []
        return
    plain = type_.removeprefix("const ")
    if value is None or plain == type_ or name in state.locals:
        raise state.error(node, f"{type_} {name} is no constant with a value, or a second {name}")
    state.locals[name] = Value(plain, state.converted(value, plain))


def _call(run: Execution, node: Node, transition: Transition) -> None:
    state, (function, arguments) = run.state, node.args
    if str(function) == "(name record)":
        names = " ".join(f"(name {p.name})" for p in transition.parameters)
        wanted = f"[{f'(name Transition::{transition.name}) {names}'.strip()}]"
        if f"[{' '.join(map(str, arguments))}]" != wanted:
            raise state.error(node, f"records something else than {transition.name} with its parameters")
        run.recorded = True
    elif str(function) == ADD:
        key, index, value = _ghost_write(run, node)
        assert run.pending is not None
        run.pending.append((key, Write(same_place(index), lambda _: value)))
    elif str(function) == "(member (name ghost_writes) commit)" and run.pending is not None and not run.committed:
        for key, write in run.pending:
            state.writes.setdefault(key, []).append(write)
        run.committed = True
    elif function.kind == "member" and function.args[0].kind == "name" and function.args[1] == "set":
        _table(run, node, function.args[0].args[0], arguments)
    else:
        raise state.error(node, f"generated code has no such call: {function}")


def _ghost_write(run: Execution, node: Node) -> tuple[str, list[z3.ExprRef], z3.ExprRef]:
    """The key, index and value of `ghost_writes.add(ghost_.name, {index}, value)`."""
    state, arguments = run.state, node.args[1]
    if run.pending is None or run.committed or len(arguments) != 3 or arguments[1].kind != "braces":
        raise state.error(node, "a ghost effect before ghost_writes, after its commit, or without index and value")
    variable = state.ghost(arguments[0])
    index = state.ids(node, variable, arguments[1].args[1], variable.sorts)
    return f"ghost_.{variable.name}", index, state.converted(arguments[2], state.value_type(variable))


def _table(run: Execution, node: Node, table: str, arguments: Sequence[Node]) -> None:
    """`table.set(r, b, at, value)`: the relation changes; `at` must be where readers will look for it afterwards."""
    state, found = run.state, run.state.world.layout.relation_in(table)
    if found is None or len(arguments) != len(found[0].sorts) + 2:
        raise state.error(node, f"no relation is kept in {table}, or it is not set with index, position and value")
    variable, *_ = found
    index = state.ids(node, variable, arguments[:-2], variable.sorts)
    at = state.converted(arguments[-2], "std::int64_t")
    state.assign(variable.name, index, state.converted(arguments[-1], "bool"))
    run.tables.append((node.line, variable.name, index, at))


def _loop(run: Execution, node: Node) -> None:
    """Loops over all individuals of some sorts around one ghost effect: it happens for each of them."""
    state, world = run.state, run.state.world
    each: list[tuple[z3.ExprRef, str]] = []
    names: list[str] = []
    while node.kind == "for":
        type_, name, start, condition, step, body = node.args
        sort = next((s for s in world.spec.sorts if world.layout.id_type(s) == type_), None)
        if sort is None or name in state.locals:
            raise state.error(node, f"a loop over {type_}, or a second {name}")
        count = f"(call (name {sort.lower()}_count) [])"
        heads = ["(number 0)", f"(binary < (name {name}) {count})", f"(unary ++ (name {name}))"]
        if [str(start), str(condition), str(step)] != heads or body.kind != "block" or len(body.args) != 1:
            raise state.error(node, f"the loop does not visit every {sort} once")
        each.append((z3.Const(f"each_{name}_{node.line}", world.bits(32)), sort))
        state.locals[name] = Value(ID, each[-1][0])
        names.append(name)
        node = body.args[0]
    if node.kind != "do" or node.args[0].kind != "call" or str(node.args[0].args[0]) != ADD:
        raise state.error(node, "a loop that does anything but collect ghost effects")
    met = len(state.obligations)
    key, index, value = _ghost_write(run, node.args[0])
    inside = z3.And([z3.And(x >= 0, x < world.counts[sort]) for x, sort in each])
    state.obligations[met:] = [
        Obligation(o.line, o.what, z3.Implies(inside, o.condition)) for o in state.obligations[met:]
    ]
    for name in names:
        del state.locals[name]
    positions = [[i for i, term in enumerate(index) if term.eq(x)] for x, _ in each]
    if any(len(at) != 1 for at in positions):
        raise state.error(node, f"{', '.join(names)}: each must be one index of the ghost")
    bound = [at[0] for at in positions]

    def applies(at: Sequence[z3.ExprRef]) -> z3.BoolRef:
        same = [x == y for i, (x, y) in enumerate(zip(index, at, strict=True)) if i not in bound]
        ranges = [z3.And(at[i] >= 0, at[i] < world.counts[sort]) for i, (_, sort) in zip(bound, each, strict=True)]
        return z3.And(*ranges, *same)

    def value_at(at: Sequence[z3.ExprRef]) -> z3.ExprRef:
        return z3.substitute(value, *[(x, at[i]) for i, (x, _) in zip(bound, each, strict=True)])

    assert run.pending is not None
    run.pending.append((key, Write(applies, value_at)))
