"""Prints a specification as a TLA+ module and a configuration, so that others can check a small instance with TLC.

Individuals are model values, variables are functions of them, an effect for every individual of a sort is a function of
that sort. Integer parameters range over what `spec.explore` says. Numbers that grow for ever (ticks, arrival numbers)
are kept finite by a state constraint; nothing is shifted, so TLC visits fewer behaviours than the explorer, never other
ones. The contract and the stages of liveness are a module of their own (tla_liveness.py); claims of progress are not
printed.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..language.expressions import BOOL, Expr
from ..language.printing import NOT, TLA, Printer
from ..language.spec import Definition, Effect, Parameter, Property, Spec, Transition, Variable
from ..search.instances import Instance

MODULE = "TokenSpeed"
MOST_TICKS = 4
"""Steps and arrivals of a behaviour that TLC follows."""


class TlaPrinter:
    """Prints one specification; `instance` gives the sizes in the configuration."""

    def __init__(self, spec: Spec, instance: Instance) -> None:
        self.spec, self.instance = spec, instance
        self.bounds = [name for name in instance.constants if name not in spec.constants]

    def module(self) -> str:
        """The text of TokenSpeed.tla."""
        spec = self.spec
        variables = list(spec.variables.values())
        out = [f"---- MODULE {MODULE} ----", f"\\* Specification {spec.name}, SHA-256 {spec.digest()}. Generated."]
        out += ["EXTENDS Integers, FiniteSets, TLC", ""]
        out.append(f"CONSTANTS {', '.join([*self.sorts(), *spec.constants, *self.bounds])}")
        for enum in spec.enums.values():
            values = ", ".join(f'"{enum.name}.{value}"' for value in enum.values)
            out.append(f"{enum.name}Type == {{{values}}}")
        out += ["", f"VARIABLES {', '.join(v.name for v in variables)}", ""]
        out.append(f"vars == <<{', '.join(v.name for v in variables)}>>\n")
        out.append(conjunction("TypeOK", [f"{v.name} \\in {self._type(v)}" for v in variables]))
        out.append(conjunction("Init", [f"{v.name} = {self._function(v, self.text(v.init, {}))}" for v in variables]))
        out += [self._definition(d) for d in spec.definitions.values()]
        out += [self._action(t) for t in spec.transitions.values()]
        steps = [self._step(t) for t in spec.transitions.values()]
        out.append("Next ==\n" + "\n".join(f"  \\/ {step}" for step in steps) + "\n")
        out.append("Spec == Init /\\ [][Next]_vars\n")
        out += [self._invariant(p) for p in spec.invariants()]
        out += [self._action_property(p) for p in spec.properties.values() if p.kind == "action"]
        numbers = [v.name for v in (spec.tick_origin, *spec.order_only) if v is not None and not v.sorts]
        out.append(conjunction("Bounded", [f"{name} <= {MOST_TICKS}" for name in numbers]))
        symmetry = " \\cup ".join(f"Permutations({sort})" for sort in self.sorts())
        out += [f"Symmetry == {symmetry}", "", "====", ""]
        return "\n".join(out)

    def configuration(self) -> str:
        """The text of TokenSpeed.cfg."""
        spec, out = self.spec, self.constants()
        out += ["INVARIANTS", "  TypeOK", *[f"  {identifier(p.name)}" for p in spec.invariants()], "PROPERTIES"]
        out += [f"  {identifier(p.name)}" for p in spec.properties.values() if p.kind == "action"]
        return "\n".join([*out, "CONSTRAINT Bounded", "SYMMETRY Symmetry", ""])

    def constants(self) -> list[str]:
        """The lines of a configuration that say which instance is meant."""
        out = ["SPECIFICATION Spec", "CONSTANTS"]
        for sort, letter in self.sorts().items():
            names = ", ".join(f"{letter}{i}" for i in range(self.instance.population[self.spec.sorts[sort].name]))
            out.append(f"  {sort} = {{{names}}}")
        return out + [f"  {name} = {value}" for name, value in self.instance.constants.items()]

    def sorts(self) -> dict[str, str]:
        """Name of the set -> letter of its individuals."""
        return {name: sort.letter for name, sort in self.spec.sorts.items()}

    # Parts.

    def _type(self, v: Variable) -> str:
        inner = f"{v.type}Type" if v.type in self.spec.enums else "BOOLEAN" if v.type == BOOL else "Int"
        for sort in reversed(v.sorts):
            inner = f"[{sort.name} -> {inner}]"
        return inner

    def _function(self, v: Variable, value: str) -> str:
        for i, sort in reversed(list(enumerate(v.sorts))):
            value = f"[x{i} \\in {sort.name} |-> {value}]"
        return value

    def _set(self, p: Parameter, transition: str, names: Mapping[str, str]) -> str:
        if p.type in self.spec.sorts:
            return p.type
        low, high = self.spec.ranges[transition, p.name]
        return f"({self.text(low, names)})..({self.text(high, names)})"

    def _definition(self, d: Definition) -> str:
        names = {p.name: p.name for p in d.parameters}
        comment = "\\* " + d.doc.replace("\n", "\n\\* ")
        return f"{comment}\n{d.name}({', '.join(names)}) == {self.text(d.formula, names)}\n"

    def _action(self, t: Transition) -> str:
        names = {p.name: p.name for p in t.parameters}
        parts = [f"{self.text(g.condition, names)} \\* {g.name}" for g in t.guards]
        effects: dict[str, list[Effect]] = {}
        for e in t.effects:
            effects.setdefault(e.variable.name, []).append(e)
        for name, variable in self.spec.variables.items():
            if name in effects:
                parts.append(f"{name}' = {self._next(variable, effects[name], names)}")
        kept = [name for name in self.spec.variables if name not in effects]
        parts.append(f"UNCHANGED <<{', '.join(kept)}>>")
        head = f"{t.name}({', '.join(names)})" if names else t.name
        comment = "\\* " + t.doc.replace("\n", "\n\\* ")
        return f"{comment}\n{conjunction(head, parts)}"

    def _next(self, v: Variable, effects: list[Effect], names: Mapping[str, str]) -> str:
        """The variable after the effects, every value read in the state before."""
        if not v.sorts:
            return self.text(effects[0].value, names)
        value = v.name + "".join(f"[x{i}]" for i in range(len(v.sorts)))
        for e in effects:
            bound = {b.name for b in e.binders}
            local, here = dict(names), []
            for i, at in enumerate(e.index):
                if at.op == "param" and at.args[0] in bound:
                    local[at.args[0]] = f"x{i}"
                else:
                    here.append(f"x{i} = {self.text(at, names)}")
            new = self.text(e.value, local)
            condition = " /\\ ".join(here)
            value = f"(IF {condition} THEN {new} ELSE {value})" if here else new
        return self._function(v, value)

    def _step(self, t: Transition) -> str:
        names = {p.name: p.name for p in t.parameters}
        call = f"{t.name}({', '.join(names)})" if names else t.name
        for p in reversed(t.parameters):
            call = f"\\E {p.name} \\in {self._set(p, t.name, names)} : {call}"
        return call

    def _invariant(self, p: Property) -> str:
        names = {q.name: q.name for q in p.parameters}
        quantified = "".join(f"\\A {q.name} \\in {q.type} : " for q in p.parameters)
        return f"\\* {p.doc}\n{identifier(p.name)} == {quantified}{self.text(p.formula, names)}\n"

    def _action_property(self, p: Property) -> str:
        names = {q.name: q.name for q in p.parameters}
        formula = self.text(p.formula, names)
        if p.given is not None:
            every, fact = p.given
            given = f"\\A {every.name} \\in {every.type} : {self.text(fact, {**names, every.name: every.name})}"
            formula = f"({given}) => {formula}"
        quantified = "".join(f"\\A {q.name} \\in {q.type} : " for q in p.parameters)
        return f"\\* {p.doc}\n{identifier(p.name)} == [][{quantified}{formula}]_vars\n"

    # Expressions.

    def text(self, e: Expr, names: Mapping[str, str]) -> str:
        """An expression; parameters are called as `names` says."""
        printer = Printer(
            TLA,
            name=lambda e: names[e.args[0]] if e.op == "param" else str(e.args[0]),
            read=lambda v, index: v.name + "".join(f"[{i}]" for i in index),
            after=lambda e: f"({self.text(e, names)})'",
            taken=lambda name: self._taken(self.spec.transitions[name]),
        )
        return printer.text(e, NOT)

    def _taken(self, t: Transition) -> str:
        """That the step is this transition: its action, with some arguments, holds of the two states."""
        fresh = {p.name: f"any_{p.name}" for p in t.parameters}
        call = f"{t.name}({', '.join(fresh.values())})" if fresh else t.name
        for p in reversed(t.parameters):
            call = f"\\E {fresh[p.name]} \\in {self._set(p, t.name, fresh)} : {call}"
        return f"({call})"


def identifier(words: str) -> str:
    """A name of the specification as TLA+ writes names."""
    return "".join(word.capitalize() for word in words.replace("-", " ").replace(",", "").split())


def conjunction(head: str, parts: list[str]) -> str:
    """The definition of an operator by what has to hold."""
    return f"{head} ==\n" + "\n".join(f"  /\\ {part}" for part in parts) + "\n"


__all__ = ["MODULE", "TlaPrinter", "conjunction", "identifier"]
