"""Counterexamples to induction, small and with nothing in them that is not needed.

A proof that fails says that *some* state that satisfies every invariant leads to one that does not. Here such a state
is looked for among few individuals with counters that are exactly the sums that they stand for, and then as many
places as possible are given their initial values, so that what is left is what matters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import z3

from ..language.expressions import INT, TICK, Expr
from ..language.progress import Progress
from ..language.ranking_claims import StageClaim
from ..language.spec import Parameter, Property, Spec, Transition, Variable
from ..prove.prover import Prover
from ..prove.terms import Individuals, Reader
from ..search.interpreter import State

Names = dict[str, z3.ExprRef]

ATTEMPT_MS = 3_000
"""Time for one question; a counterexample that is hard to find is not worth more."""


@dataclass(frozen=True)
class SmallState:
    """A state with few individuals, a transition that it allows and whom a claim is false for afterwards.

    `population` and `constants` make it a scope that can be replayed.
    """

    population: Mapping[str, int]
    constants: Mapping[str, int]
    state: State
    bindings: Mapping[str, int]

    def __str__(self) -> str:
        sizes = [f"{n} {sort}{'s' if n > 1 else ''}" for sort, n in self.population.items()]
        return ", ".join([*sizes, *[f"{name}={value}" for name, value in self.constants.items()]])

    def taking_part(self, spec: Spec) -> dict[str, int]:
        """How many individuals of each sort differ from the initial state or are arguments; sorts whose size is a
        constant keep it.
        """
        found: dict[str, set[int]] = {sort: set() for sort in spec.sorts}
        for variable in spec.variables.values():
            for index in self.state.values[variable.name]:
                for sort, i in zip(variable.sorts, index, strict=True):
                    found[sort.name].add(i)
        return {
            sort: self.population[sort] if spec.size(sort) else max(1, len(individuals))
            for sort, individuals in found.items()
        }

    def largest_number(self) -> int:
        """The largest number in the state or among the arguments."""
        values = [x for of in self.state.values.values() for x in of.values() if type(x) is int]
        return max([1, *values, *self.bindings.values()])


class SmallCounterexamples:
    """Asks z3 for small states before one transition of a specification."""

    def __init__(self, spec: Spec, per_sort: int) -> None:
        self.spec, self.per_sort = spec, per_sort
        self.prover = Prover(spec, timeout_ms=ATTEMPT_MS)
        self.individuals: Individuals = {
            sort: [self.prover.individual(sort, i) for i in range(per_sort)] for sort in spec.sorts
        }
        self.solver = self.prover.solver()
        self.solver.add(*[z3.Distinct(*xs) for xs in self.individuals.values() if len(xs) > 1])
        self.solver.add(*self.prover.constant_axioms(), *self._exact_counters())
        for p in spec.invariants():
            for names in self.prover.tuples(p.parameters, self.individuals):
                self.solver.add(self.prover.evaluate(p.formula, names, self.prover.before))

    def _exact_counters(self) -> Iterator[z3.BoolRef]:
        """Every counter is the sum over the individuals, and a constant that counts a sort is its size."""
        for count in self.spec.counts.values():
            if count.variable.init.op == "const":
                weight = 1
                if count.weight is not None:
                    weight = self.prover.evaluate(count.weight, {}, self.prover.before)
                yield self.prover.constants[count.variable.init.args[0]] == self.per_sort * weight
            for names in self.prover.tuples(count.index, self.individuals):
                summands = []
                for x in self.individuals[count.over.type]:
                    local = {**names, count.over.name: x}
                    condition = self.prover.evaluate(count.condition, local, self.prover.before)
                    weight = z3.IntVal(1, self.prover.context)
                    if count.weight is not None:
                        weight = self.prover.evaluate(count.weight, local, self.prover.before)
                    summands.append(z3.If(condition, weight, 0))
                index = [names[i.name] for i in count.index]
                yield self.prover.before(count.variable, index) == z3.Sum(summands)

    def before(self, transition: Transition, claim: Property) -> SmallState | None:
        """A state in which the transition may be taken and after which the claim is false."""
        names, chosen = self._choose(transition.parameters, ""), self._choose(claim.parameters, "claim.")
        self.prover.transition = transition.name
        read = self.prover.after_reader(transition, names)
        first = self.prover.before if claim.kind == "action" else read
        question = z3.Not(self.prover.evaluate(claim.formula, chosen, first, read))
        facts = self._facts([claim.given] if claim.given else [], chosen)
        return self._smallest([*self._possible(transition, names), *facts, question], names, chosen)

    def _facts(self, given: Sequence[tuple[Parameter, Expr]], names: Names) -> list[z3.BoolRef]:
        """Facts about every individual of a sort, in the state before."""
        return [
            self.prover.evaluate(fact, names | {every.name: x}, self.prover.before)
            for every, fact in given
            for x in self.individuals[every.type]
        ]

    def stuck(self, claim: Progress) -> SmallState | None:
        """A state in the situation of the claim in which no option may be taken."""
        names = self._choose((*claim.parameters, *[w for w, _ in claim.witnesses]), "")
        facts = [*claim.conditions, *[fact for _, fact in claim.witnesses]]
        question = [self.prover.evaluate(e, names, self.prover.before) for e in facts]
        question += self._facts(claim.given, names)
        for option in claim.options:
            question.append(z3.Not(self.prover.evaluate(claim.enabled(option), names, self.prover.before)))
        return self._smallest(question, names, {})

    def wrong_count(self, transition: Transition, counter: str) -> SmallState | None:
        """A state in which the transition may be taken and after which the counter is not its sum."""
        names = self._choose(transition.parameters, "")
        read = self.prover.after_reader(transition, names)
        count = self.spec.counts[counter]
        wrong = []
        for index in self.prover.tuples(count.index, self.individuals):
            total = z3.IntVal(0, self.prover.context)
            for x in self.individuals[count.over.type]:
                local = {**index, count.over.name: x}
                weight = z3.IntVal(1, self.prover.context)
                if count.weight is not None:
                    weight = self.prover.evaluate(count.weight, local, read)
                total = total + z3.If(self.prover.evaluate(count.condition, local, read), weight, 0)
            wrong.append(read(count.variable, [index[i.name] for i in count.index]) != total)
        return self._smallest([*self._possible(transition, names), z3.Or(*wrong)], names, {})

    def idle(self, transition: Transition) -> SmallState | None:
        """A state in which the transition may be taken and changes nothing."""
        names = self._choose(transition.parameters, "")
        read = self.prover.after_reader(transition, names)
        question = [*self._possible(transition, names), self.prover.stutters(transition, names, read)]
        return self._smallest(question, names, {})

    def unproved(self, claim: StageClaim) -> SmallState | None:
        """A state in which what an obligation of liveness assumes holds, and its goal is false (after its transition).

        The claim's own individuals are among the bindings as `of r`, the transition's arguments as `r`.
        """
        own = self._choose(claim.everybody, "of ")
        transition = self.spec.transitions[claim.transition] if claim.transition else None
        read: Reader = self.prover.before
        names, question = dict[str, z3.ExprRef](), list[z3.BoolRef]()
        if transition is not None:
            bound = {name: self.prover.evaluate(e, own, self.prover.before) for name, e in claim.bound}
            names = self._choose(tuple(p for p in transition.parameters if p.name not in bound), "") | bound
            self.prover.transition = transition.name
            read = self.prover.after_reader(transition, names)
            question = self._possible(transition, names)
        hypotheses = [*claim.hypotheses, *[fact for _, fact in claim.witnesses]]
        question += [self.prover.evaluate(h, own, self.prover.before, read) for h in hypotheses]
        for known in claim.given:
            for chosen in self.prover.tuples(known.parameters, self.individuals):
                question.append(self.prover.evaluate(known.formula, own | chosen, self.prover.before, read))
        question.append(z3.Not(self.prover.evaluate(claim.goal, own, self.prover.before, read)))
        return self._smallest(question, names | {f"of {name}": x for name, x in own.items()}, {})

    def satisfying(self, parameters: tuple[Parameter, ...], formula: Expr) -> SmallState | None:
        """A state that satisfies every invariant and, for some individuals, the formula."""
        names = self._choose(parameters, "")
        return self._smallest([self.prover.evaluate(formula, names, self.prover.before)], names, {})

    def _choose(self, parameters: tuple[Parameter, ...], prefix: str) -> Names:
        """A constant for each parameter."""
        return {p.name: z3.Const(f"argument {prefix}{p.name}", self.prover.types[p.type]) for p in parameters}

    def _possible(self, transition: Transition, names: Names) -> list[z3.BoolRef]:
        return [self.prover.evaluate(g.condition, names, self.prover.before) for g in transition.guards]

    def _smallest(self, question: list[z3.BoolRef], names: Names, chosen: Names) -> SmallState | None:
        """Answer the question with the individuals at hand, then simplify the answer place by place."""
        self.solver.push()
        try:
            self.solver.add(*question)
            for term in (*names.values(), *chosen.values()):
                sort = term.sort().name()
                if sort in self.individuals:
                    self.solver.add(z3.Or(*[term == x for x in self.individuals[sort]]))
            if self.solver.check() != z3.sat:
                return None
            self._simplify(list(names.values()))
            return self._read(self.solver.model(), names)
        finally:
            self.solver.pop()

    def _simplify(self, parameters: list[z3.ExprRef]) -> None:
        """Give as many places as possible their initial values, and make the other numbers small."""
        prover = self.prover
        numbers = [prover.before(v, i) for v, i, _ in self._places() if v.type in (INT, TICK)]
        numbers += [x for x in (*prover.constants.values(), *parameters) if z3.is_int(x)]
        self._try([x >= 0 for x in numbers])
        wishes = [prover.before(v, i) == prover.evaluate(v.init, {}, prover.before) for v, i, _ in self._places()]
        self._try(wishes)
        for bound in (4, 3, 2, 1):
            self._try([z3.And(-bound <= x, x <= bound) for x in numbers])
        self.solver.check()

    def _try(self, wishes: list[z3.BoolRef]) -> None:
        """Add the wishes that can be granted; many at a time, since most can."""
        if not wishes:
            return
        self.solver.push()
        self.solver.add(*wishes)
        possible = self.solver.check() == z3.sat
        self.solver.pop()
        if possible:
            self.solver.add(*wishes)
        elif len(wishes) > 1:
            half = len(wishes) // 2
            self._try(wishes[:half])
            self._try(wishes[half:])

    def _places(self) -> Iterator[tuple[Variable, list[z3.ExprRef], tuple[int, ...]]]:
        for v in self.spec.variables.values():
            for index in itertools.product(range(self.per_sort), repeat=len(v.sorts)):
                yield v, [self.individuals[s.name][i] for s, i in zip(v.sorts, index, strict=True)], index

    def _read(self, model: z3.ModelRef, names: Names) -> SmallState:
        constants = {name: int(str(model.eval(c, True))) for name, c in self.prover.constants.items()}
        initial = {
            name: constants[v.init.args[0]] if v.init.op == "const" else v.init.args[1 if v.init.op == "enum" else 0]
            for name, v in self.spec.variables.items()
        }
        state = State(initial)
        for v, terms, index in self._places():
            state.set(v.name, index, _python(model.eval(self.prover.before(v, terms), True)))
        population = {sort: self.per_sort for sort in self.spec.sorts}
        bindings = {}
        for name, term in names.items():
            of = self.individuals.get(term.sort().name())
            value = model.eval(term, True)
            same = [i for i, x in enumerate(of or ()) if z3.is_true(model.eval(x == value, True))]
            bindings[name] = same[0] if same else int(str(value))
        return SmallState(population, constants, state, bindings)


def _python(value: z3.ExprRef) -> bool | int | str:
    if z3.is_bool(value):
        return bool(z3.is_true(value))
    return int(str(value)) if z3.is_int_value(value) else str(value)


__all__ = ["SmallCounterexamples", "SmallState"]
