"""Breadth-first search of small instances without a compiler: for a specification that was edited and not rebuilt.

The specification is printed as Python over a flat tuple of values, so it is right for any specification and some three
hundred times slower than the compiled explorer. Traces look like the explorer's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ..language.expressions import BOOL, TICK, Expr, SpecError
from ..language.printing import NOT, PYTHON_NUMBERS, Printer
from ..language.ranking_claims import StageClaim
from ..language.spec import Choice, Parameter, Spec, Transition, Variable
from .explore import Explored
from .instances import SEARCH_CONSTANTS, Instance, Scope

NO_IDLE_TRANSITION = "no idle transition"
"""How `tokenspeed verify` calls the property that every transition changes the state."""


class PythonSearch:
    """One instance of a specification, printed as Python functions over a tuple that holds the whole state."""

    def __init__(
        self,
        spec: Spec,
        instance: Instance | Scope,
        bounds: Mapping[str, int] | None = None,
        target: StageClaim | None = None,
    ) -> None:
        """`bounds`: values of the constants that only searches know (MAX_PROMPT, ...); an `Instance` has them.

        `target`: an obligation of liveness; the search ends where it is false too.
        """
        self.spec, self.instance = spec, instance
        self.population = instance.population
        if bounds is None:
            bounds = {c: getattr(instance, c.lower()) for c in SEARCH_CONSTANTS}
        self.constants = {**instance.constants, **bounds}
        self.first: dict[str, int] = {}
        self.initial: list[int] = []
        for v in spec.variables.values():
            self.first[v.name] = len(self.initial)
            size = 1
            for sort in v.sorts:
                size *= self.population[sort.name]
            self.initial += [self._initial(v)] * size
        self.target = target
        self.lines: list[str] = []
        for print_function in (
            self._successors,
            self._invariants,
            self._actions,
            self._choices,
            self._normalise,
            self._target,
        ):
            print_function()
        namespace: dict[str, Any] = {}
        exec("\n".join(self.lines), namespace)
        self.successors: Callable[..., list[tuple[list[int], str, tuple[int, ...]]]] = namespace["successors"]
        self.false_invariant: Callable[..., str] = namespace["false_invariant"]
        self.false_action: Callable[..., str] = namespace["false_action"]
        self.false_choice: Callable[..., str] = namespace["false_choice"]
        self.normalise: Callable[[list[int]], list[int]] = namespace["normalise"]
        self.false_target: Callable[..., bool] = namespace["false_target"]

    def _initial(self, v: Variable) -> int:
        if v.init.op == "enum":
            return int(v.init.args[0].values.index(v.init.args[1]))
        return int(self.constants[v.init.args[0]] if v.init.op == "const" else v.init.args[0])

    # Expressions.

    def _place(self, v: Variable, index: Sequence[str]) -> str:
        terms, stride = [str(self.first[v.name])], 1
        for sort, i in reversed(list(zip(v.sorts, index, strict=True))):
            terms.append(f"{i}*{stride}" if stride > 1 else i)
            stride *= self.population[sort.name]
        return " + ".join(terms)

    def _print(self, e: Expr, state: str = "s") -> str:
        printer = Printer(
            PYTHON_NUMBERS,
            name=lambda e: _argument(e.args[0]) if e.op == "param" else str(self.constants[e.args[0]]),
            read=lambda v, index: f"{state}[{self._place(v, index)}]",
            after=lambda e: f"({self._print(e, 'h')})",
            taken=lambda name: f"(t == {name!r})",
        )
        return printer.text(e, NOT)

    # Functions.

    def _line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def _loop(self, depth: int, p: Parameter, transition: str = "") -> None:
        span = f"range({self.population[p.type]})" if p.type in self.population else ""
        if not span:
            if (transition, p.name) not in self.spec.ranges:
                raise SpecError(
                    f"{transition}: which values of {p.name} are to be tried? "
                    f"Say so with {p.name}=Number(tried=(first, last))"
                )
            low, high = (self._print(x) for x in self.spec.ranges[transition, p.name])
            span = f"range({low}, {high} + 1)"
        self._line(depth, f"for {_argument(p.name)} in {span}:")

    def _successors(self) -> None:
        for t in self.spec.transitions.values():
            self._transition(t)
        self._line(0, "def successors(s):")
        self._line(1, "found = []")
        for name in self.spec.transitions:
            self._line(1, f"take_{name}(s, found)")
        self._line(1, "return found")

    def _transition(self, t: Transition) -> None:
        """Each guard is tested as soon as its parameters are chosen."""
        self._line(0, f"def take_{t.name}(s, found):")
        waiting, bound, depth = list(t.guards), set[str](), 1
        for p in (None, *t.parameters):
            if p is not None:
                self._loop(depth, p, t.name)
                bound.add(p.name)
                depth += 1
            for g in [g for g in waiting if _parameters(g.condition) <= bound]:
                waiting.remove(g)
                self._line(depth, f"if not {self._print(g.condition)}: {'return' if p is None else 'continue'}")
        self._line(depth, "n = list(s)")
        for e in t.effects:
            for i, p in enumerate(e.binders):
                self._loop(depth + i, p)
            index = [self._print(i) for i in e.index]
            value = f"int({self._print(e.value)})" if e.value.type == BOOL else self._print(e.value)
            self._line(depth + len(e.binders), f"n[{self._place(e.variable, index)}] = {value}")
        distances = [
            f"p_{p.name}"
            + ("" if p.type in self.population else f" - ({self._print(self.spec.ranges[t.name, p.name][0])})")
            for p in t.parameters
        ]
        self._line(depth, f"found.append((n, {t.name!r}, ({''.join(d + ', ' for d in distances)})))")

    def _tests(self, name: str, arguments: str, tests: Sequence[tuple[tuple[Parameter, ...], str, str]]) -> None:
        """A function that returns the name of the first false formula, or nothing."""
        self._line(0, f"def {name}({arguments}):")
        for parameters, formula, claim in tests:
            for depth, p in enumerate(parameters, 1):
                self._loop(depth, p)
            self._line(1 + len(parameters), f"if not {formula}: return {claim!r}")
        self._line(1, "return ''")

    def _invariants(self) -> None:
        properties = [p for p in self.spec.invariants() if p.kind == "property"]
        self._tests("false_property", "s", [(p.parameters, self._print(p.formula), p.name) for p in properties])
        lemmas = [p for p in self.spec.invariants() if p.kind != "property"]
        self._tests("false_lemma", "s", [(p.parameters, self._print(p.formula), p.name) for p in lemmas])
        self._line(0, "def false_invariant(s, all):")
        self._line(1, "if (name := false_property(s)) or not all: return name")
        self._line(1, "if name := false_lemma(s): return name")
        for name, count in self.spec.counts.items():
            for depth, p in enumerate(count.index, 1):
                self._loop(depth, p)
            depth = 1 + len(count.index)
            self._line(depth, "total = 0")
            self._loop(depth, count.over)
            weight = "1" if count.weight is None else self._print(count.weight)
            self._line(depth + 1, f"if {self._print(count.condition)}: total += {weight}")
            kept = self._print(count.variable(*[i.expr for i in count.index]))
            self._line(depth, f"if total != {kept}: return {f'count {name}'!r}")
        self._line(1, "return ''")

    def _actions(self) -> None:
        """`given` facts of all individuals are a formula of their own: if one is false, nothing is claimed."""
        tests = []
        for p in self.spec.properties.values():
            if p.kind == "action":
                formula = self._print(p.formula)
                if p.given is not None:
                    every, fact = p.given
                    span = f"range({self.population[every.type]})"
                    formula = f"({formula} or not all({self._print(fact)} for p_{every.name} in {span}))"
                tests.append((p.parameters, formula, p.name))
        self._tests("false_action", "s, h, t", tests)

    def _choices(self) -> None:
        self._line(0, "def false_choice(s):")
        for choice in self.spec.choices:
            for depth, p in enumerate(choice.parameters, 1):
                self._loop(depth, p)
            possible = [f"bool({self._enabled(choice, self.spec.transitions[name])})" for name in choice.transitions]
            for name, value in choice.arguments.items():
                self._line(1 + len(choice.parameters), f"p_{name} = {self._print(value)}")
            test = f"if {self._print(choice.when)} and {' + '.join(possible)} != 1: return {choice.name!r}"
            self._line(1 + len(choice.parameters), test)
        self._line(1, "return ''")

    def _enabled(self, choice: Choice, t: Transition) -> str:
        """A choice names its parameters as the transition does; the transition's other parameters are for anyone."""
        guards = " and ".join(self._print(g.condition) for g in t.guards) or "True"
        given = {q.name for q in choice.parameters} | set(choice.arguments)
        others = [p for p in t.parameters if p.name not in given]
        loops = "".join(f" for p_{p.name} in range({self.population[p.type]})" for p in others)
        return f"any({guards}{loops})" if loops else guards

    def _normalise(self) -> None:
        """As the explorer does: ticks count from the origin, and of some numbers only the order is kept."""
        self._line(0, "def normalise(n):")
        if (origin := self.spec.tick_origin) is not None:
            self._line(1, f"o = n[{self.first[origin.name]}]")
            ticks = [i for v in self.spec.variables.values() if v.type == TICK for i in self._slots(v)]
            self._line(1, f"for i in {ticks}: n[i] = max(0, n[i] - o)")
        if self.spec.order_only:
            slots = [i for v in self.spec.order_only for i in self._slots(v)]
            self._line(1, f"ranks = {{x: i for i, x in enumerate(sorted({{0, *[n[i] for i in {slots}]}}))}}")
            self._line(1, f"for i in {slots}: n[i] = ranks[n[i]]")
        self._line(1, "return n")

    def _target(self) -> None:
        """Whether the obligation is false for somebody; each assumption is tested once its individuals are chosen."""
        self._line(0, "def false_target(s, h, t, a):")
        claim = self.target
        if claim is None:
            self._line(1, "return False")
            return
        if claim.transition is not None:
            self._line(1, f"if t != {claim.transition!r}: return False")
            places = {p.name: i for i, p in enumerate(self.spec.transitions[claim.transition].parameters)}
        hypotheses = [*claim.hypotheses, *[fact for _, fact in claim.witnesses]]
        tests = [(_parameters(h), self._print(h)) for h in hypotheses]
        tests += [(_parameters(e), f"a[{places[name]}] == {self._print(e)}") for name, e in claim.bound]
        for known in claim.given:
            everybody = "".join(
                f" for {_argument(p.name)} in range({self.population[p.type]})" for p in known.parameters
            )
            formula = self._print(known.formula)
            free = _parameters(known.formula) - {p.name for p in known.parameters}
            tests.append((free, f"all({formula}{everybody})" if everybody else formula))
        bound, depth = set[str](), 1
        for p in (None, *claim.everybody):
            if p is not None:
                self._loop(depth, p)
                bound.add(p.name)
                depth += 1
            for test in [test for test in tests if test[0] <= bound]:
                tests.remove(test)
                self._line(depth, f"if not {test[1]}: {'return False' if p is None else 'continue'}")
        self._line(depth, f"if not {self._print(claim.goal)}: return True")
        self._line(1, "return False")

    def _slots(self, v: Variable) -> range:
        size = 1
        for sort in v.sorts:
            size *= self.population[sort.name]
        return range(self.first[v.name], self.first[v.name] + size)

    # The search.

    def search(
        self, max_states: int, check_lemmas: bool = False, check_choices: bool = False, check_idle: bool = False
    ) -> Explored:
        """Every reachable state once, nearest first, until something stated is false.

        `check_choices`: also that exactly one transition of each choice is possible; `check_idle`: also that every
        transition changes the state.
        """
        begin = time.perf_counter()
        start = tuple(self.initial)
        states: list[tuple[int, ...]] = [start]
        ways: list[tuple[int, str, tuple[int, ...]]] = [(-1, "", ())]
        seen, depths, taken = {start}, [0], dict.fromkeys(self.spec.transitions, 0)
        violated, trace = "", []
        at = transitions = 0
        while at < len(states) <= max_states and not violated:
            state = states[at]
            for following, transition, arguments in self.successors(state):
                transitions += 1
                taken[transition] += 1
                violated = self.false_action(state, following, transition)
                if self.target is not None:
                    before = state if self.target.transition else following
                    if self.false_target(before, following, transition, arguments):
                        violated = self.target.name
                if check_idle and tuple(following) == state:
                    violated = NO_IDLE_TRANSITION
                form = tuple(self.normalise(following))
                if not violated and form in seen:
                    continue
                violated = violated or self.false_invariant(form, check_lemmas)
                violated = violated or (check_choices and self.false_choice(form)) or ""
                if not violated:
                    seen.add(form)
                    states.append(form)
                    ways.append((at, transition, arguments))
                    depths.append(depths[at] + 1)
                    continue
                trace, back = [(transition, arguments)], at
                while back > 0:
                    back, name, given = ways[back]
                    trace.insert(0, (name, given))
                break
            at += 1
        complete = at == len(states) or bool(violated)
        return Explored(
            cast(Instance, self.instance), len(states), transitions, depths[at - 1], complete,
            time.perf_counter() - begin, taken, violated, tuple(trace),
        )  # fmt: skip


def _argument(name: str) -> str:
    """The variable of the printed functions that stands for a parameter."""
    return "p_" + name.replace(" ", "_").replace(",", "_")


def _parameters(e: Expr) -> set[str]:
    if e.op == "param":
        return {e.args[0]}
    return set().union(*[_parameters(a) for a in e.args if isinstance(a, Expr)])


__all__ = ["PythonSearch"]
