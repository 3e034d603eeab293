"""The prover: every transition keeps every property, for any number of requests, blocks and steps (z3).

Induction over the transitions. For one transition and one property the question to z3 is: can there be a state in
which all invariants hold, the guards are true, and the property is false afterwards? `unsat` is a proof. The state
afterwards is the state before with the effects substituted, so there are no frame axioms. Invariants are universal
formulas over sorts without functions between them; instantiating them with the individuals at hand (parameters and
the property's own) is complete, so z3 always answers.

Counters are proved by the delta rule, and give assumptions in return: see counting.py.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import z3

from ..language import counting, ranking_claims
from ..language.expressions import BOOL, INT, TICK, Expr, variables_read
from ..language.progress import Progress
from ..language.spec import Choice, Parameter, Property, Spec, Transition, Variable

Reader = Callable[[Variable, Sequence[z3.ExprRef]], z3.ExprRef]
Individuals = dict[str, list[z3.ExprRef]]
Memo = dict[int, tuple[Expr, z3.ExprRef]]
"""By identity of an expression, which is kept so that it stays the same: its term."""


@dataclass(frozen=True)
class Obligation:
    """One question to the solver and its answer. `subject` is a transition or "initial state"."""

    subject: str
    claim: str
    kind: str
    verdict: str
    seconds: float
    model: z3.ModelRef | None = None

    @property
    def proved(self) -> bool:
        """Whether the answer was "no counterexample"."""
        return self.verdict == "proved"


class Prover:
    """Turns a specification into obligations and has z3 discharge them. One instance holds one z3 context."""

    solver_name = f"z3 {z3.get_version_string()}"

    def __init__(self, spec: Spec, timeout_ms: int = 20_000) -> None:
        self.spec = spec
        self.timeout_ms = timeout_ms
        self.context = z3.Context()
        self.types: dict[str, z3.SortRef] = {
            BOOL: z3.BoolSort(self.context),
            INT: z3.IntSort(self.context),
            TICK: z3.IntSort(self.context),
        }
        self.values: dict[tuple[str, str], z3.ExprRef] = {}
        for enum in spec.enums.values():
            sort, constants = z3.EnumSort(enum.name, list(enum.values), ctx=self.context)
            self.types[enum.name] = sort
            self.values.update({(enum.name, v): c for v, c in zip(enum.values, constants, strict=True)})
        for name in spec.sorts:
            self.types[name] = z3.DeclareSort(name, self.context)
        self.constants = {name: z3.Int(name, self.context) for name in spec.constants}
        self.functions = {
            v.name: z3.Function(v.name, *[self.types[s.name] for s in v.sorts], self.types[v.type])
            for v in spec.variables.values()
        }
        self.transition = ""
        self.known_assumptions: dict[tuple[int, ...], list[z3.BoolRef]] = {}
        self.known_terms: dict[tuple[tuple[str, int], ...], Memo] = {}
        self.known_solvers: dict[tuple[int, ...], z3.Solver] = {}
        self.known_facts: dict[tuple[str, ...], z3.BoolRef] = {}

    # Expressions.

    def before(self, variable: Variable, index: Sequence[z3.ExprRef]) -> z3.ExprRef:
        """The variable in the state before the transition."""
        return self.functions[variable.name](*index)

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
        """The z3 term of an expression, made anew."""
        if e.op == "lit":
            value = e.args[0]
            return z3.BoolVal(value, self.context) if e.type == BOOL else z3.IntVal(value, self.context)
        if e.op == "enum":
            return self.values[e.args[0].name, e.args[1]]
        if e.op == "param":
            return names[e.args[0]]
        if e.op == "const":
            return self.constants[e.args[0]]
        if e.op == "read":
            return read(e.args[0], [self.evaluate(i, names, read, read_next, memos) for i in e.args[1:]])
        if e.op == "next":
            assert read_next is not None
            return self.evaluate(e.args[0], names, read_next, None, memos[1:])
        if e.op == "taken":
            return z3.BoolVal(e.args[0] == self.transition, self.context)
        if e.op == "call":
            return self.evaluate(e.meaning, names, read, read_next, memos)
        a = [self.evaluate(x, names, read, read_next, memos) for x in e.args]
        match e.op:
            case "eq":
                return a[0] == a[1]
            case "le":
                return a[0] <= a[1]
            case "lt":
                return a[0] < a[1]
            case "add":
                return a[0] + a[1]
            case "sub":
                return a[0] - a[1]
            case "not":
                return z3.Not(a[0])
            case "and":
                return z3.And(*a)
            case "or":
                return z3.Or(*a)
            case "ite":
                return z3.If(*a)
        raise AssertionError(f"unknown node {e.op}")

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

        def read(variable: Variable, index: Sequence[z3.ExprRef]) -> z3.ExprRef:
            value = self.before(variable, index)
            for places, binders, expression in by_variable.get(variable.name, []):
                any_terms = [x for place, x in zip(places, index, strict=True) if place is None]
                local = {**names, **{b.name: x for b, x in zip(binders, any_terms, strict=True)}}
                new = self.evaluate(expression, local, self.before)
                here = [x == place for place, x in zip(places, index, strict=True) if place is not None]
                value = z3.If(z3.And(*here), new, value) if here else new
            return value

        return read

    # What may be assumed.

    def constant_axioms(self) -> list[z3.BoolRef]:
        """The bounds of the constants."""
        return [self.constants[name] >= low for name, (_, low, _) in self.spec.constants.items()]

    def tuples(self, parameters: Sequence[Parameter], individuals: Individuals) -> list[dict[str, z3.ExprRef]]:
        """All ways to choose individuals for the parameters."""
        choices = [individuals[p.type] for p in parameters]
        return [{p.name: x for p, x in zip(parameters, xs, strict=True)} for xs in itertools.product(*choices)]

    def assumptions(self, individuals: Individuals) -> list[z3.BoolRef]:
        """Invariants and counter axioms of the state before, for the given individuals."""
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
            for chosen in itertools.product(*numbers):
                key = (c.name, *[f"{letters[p.type]}{i}" for p, i in zip(c.parameters, chosen, strict=True)])
                if key not in self.known_facts:  # the same individuals, in another number of them
                    names = {p.name: individuals[p.type][i] for p, i in zip(c.parameters, chosen, strict=True)}
                    self.known_facts[key] = self.evaluate(c.formula, names, self.before)
                facts.append(self.known_facts[key])
        return facts

    def individuals(self, parameters: Sequence[Parameter], extra: int) -> tuple[dict[str, z3.ExprRef], Individuals]:
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
                names[p.name] = z3.Const(p.name, self.types[p.type])
        for sort in self.spec.sorts:
            terms[sort] += [self.individual(sort, len(terms[sort]) + i) for i in range(extra)]
        return names, terms

    def individual(self, sort: str, number: int) -> z3.ExprRef:
        """The n-th individual of a sort."""
        return z3.Const(f"{self.spec.sorts[sort].letter}{number}", self.types[sort])

    def solver(self) -> z3.Solver:
        """A fresh solver with the time limit."""
        solver = z3.Solver(ctx=self.context)
        solver.set("timeout", self.timeout_ms)
        return solver

    def decide(self, solver: z3.Solver, question: z3.BoolRef, subject: str, name: str, kind: str) -> Obligation:
        """Proved if the question has no model."""
        start = time.perf_counter()
        solver.push()
        solver.add(question)
        answer = solver.check()
        verdict = {"unsat": "proved", "sat": "FAILED"}.get(str(answer), "UNKNOWN")
        model = solver.model() if answer == z3.sat else None
        solver.pop()
        return Obligation(subject, name, kind, verdict, time.perf_counter() - start, model)

    # Obligations.

    def prove(self, transitions: Sequence[Transition] | None = None) -> list[Obligation]:
        """All obligations: initial state, then each transition against each property and counter."""
        results: list[Obligation] = []
        if transitions is None:
            results += self.prove_initial()
            transitions = list(self.spec.transitions.values())
        for transition in transitions:
            results += self.prove_transition(transition)
        return results

    def prove_initial(self) -> list[Obligation]:
        """Every invariant and counter holds at the start, where every variable has its initial value."""
        claims: list[tuple[Property | counting.Claim, str]] = [(p, p.kind) for p in self.spec.invariants()]
        claims += [(counting.right_at_the_start(count), "count") for count in self.spec.counts.values()]
        claims += [(claim, "conforming") for claim in self.spec.conforming.values()]
        results = []
        for claim, kind in claims:
            solver = self.solver()
            solver.add(*self.constant_axioms())
            names, _ = self.individuals(claim.parameters, 0)
            question = z3.Not(self.evaluate(claim.formula, names, self.initial))
            results.append(self.decide(solver, question, "initial state", claim.name, kind))
        return results

    def prove_transition(self, transition: Transition) -> list[Obligation]:
        """One transition against every property, counter and weight; what it does not touch holds trivially."""
        self.transition = transition.name
        names, individuals = self.individuals(transition.parameters, 2)
        solver = self.solver()
        solver.add(*self.assumptions(individuals))
        solver.add(*[self.evaluate(g.condition, names, self.before) for g in transition.guards])
        read = self.after_reader(transition, names)
        written = {e.variable.name for e in transition.effects}
        results = []
        for p in self.spec.properties.values():
            if p.kind != "action" and not variables_read(p.formula) & written:
                results.append(Obligation(transition.name, p.name, p.kind, "proved", 0.0))
                continue
            chosen = self.fresh(p.parameters, individuals, transition)
            if p.kind == "action":
                formula = self.evaluate(p.formula, chosen, self.before, read)
                if p.given is not None:
                    every, fact = p.given
                    facts = [
                        self.evaluate(fact, chosen | {every.name: x}, self.before) for x in individuals[every.type]
                    ]
                    formula = z3.Implies(z3.And(*facts), formula)
            else:
                formula = self.evaluate(p.formula, chosen, read)
            results.append(self.decide(solver, z3.Not(formula), transition.name, p.name, p.kind))
        for count in self.spec.counts.values():
            touched = {count.variable.name} | variables_read(count.condition)
            touched |= variables_read(count.weight) if count.weight is not None else set()
            if touched & written:
                claim = counting.delta_rule(count, transition)
                chosen = names | self.fresh(claim.parameters, individuals, transition)
                question = z3.Not(self.evaluate(claim.formula, chosen, self.before, read))
                results.append(self.decide(solver, question, transition.name, claim.name, "count"))
        results.append(
            self.decide(solver, self.stutters(transition, names, read), transition.name, "no idle transition", "action")
        )
        return results

    def fresh(
        self, parameters: Sequence[Parameter], individuals: Individuals, transition: Transition
    ) -> dict[str, z3.ExprRef]:
        """The property's own individuals: the fresh ones, which may equal the transition's parameters or not."""
        used: dict[str, int] = {}
        chosen = {}
        for p in parameters:
            skip = sum(q.type == p.type for q in transition.parameters)
            chosen[p.name] = individuals[p.type][skip + used.get(p.type, 0)]
            used[p.type] = used.get(p.type, 0) + 1
        return chosen

    def stutters(self, transition: Transition, names: dict[str, z3.ExprRef], read: Reader) -> z3.BoolRef:
        """The transition may be taken and changes nothing."""
        same = []
        for effect in transition.effects:
            if not effect.binders:
                index = [self.evaluate(i, names, self.before) for i in effect.index]
                same.append(read(effect.variable, index) == self.before(effect.variable, index))
        return z3.And(z3.BoolVal(True, self.context), *same)

    def vacuous(self, transition: Transition) -> Obligation:
        """Whether some state that satisfies all invariants allows the transition; if none, proofs are empty."""
        names, individuals = self.individuals(transition.parameters, 1)
        solver = self.solver()
        solver.add(*self.assumptions(individuals))
        start = time.perf_counter()
        solver.add(*[self.evaluate(g.condition, names, self.before) for g in transition.guards])
        verdict = {"sat": "possible", "unsat": "VACUOUS"}.get(str(solver.check()), "UNKNOWN")
        return Obligation(transition.name, "can be taken", "vacuity", verdict, time.perf_counter() - start)

    def prove_choice(self, choice: Choice) -> list[Obligation]:
        """Exactly one of the transitions is possible: no two at once, and never none."""
        names, individuals = self.individuals(choice.parameters, 1)
        solver = self.solver()
        solver.add(*self.assumptions(individuals))
        solver.add(self.evaluate(choice.when, names, self.before))
        names |= {name: self.evaluate(e, names, self.before) for name, e in choice.arguments.items()}
        enabled = []
        for name in choice.transitions:
            transition = self.spec.transitions[name]
            guards = [self.evaluate(g.condition, names, self.before) for g in transition.guards]
            enabled.append(z3.And(z3.BoolVal(True, self.context), *guards))
        results = [self.decide(solver, z3.Not(z3.Or(*enabled)), choice.name, "one is possible", "choice")]
        for (i, a), (j, b) in itertools.combinations(enumerate(enabled), 2):
            pair = f"{choice.transitions[i]} or {choice.transitions[j]}, not both"
            results.append(self.decide(solver, z3.And(a, b), choice.name, pair, "choice"))
        return results

    def prove_progress(self, claim: Progress) -> Obligation:
        """In the situation of the claim, some option may be taken."""
        names, individuals = self.individuals((*claim.parameters, *[w for w, _ in claim.witnesses]), 0)
        solver = self.solver()
        solver.add(*self.assumptions(individuals))
        solver.add(
            *[self.evaluate(e, names, self.before) for e in (*claim.conditions, *[f for _, f in claim.witnesses])]
        )
        for every, fact in claim.given:
            solver.add(*[self.evaluate(fact, names | {every.name: x}, self.before) for x in individuals[every.type]])
        options = [self.evaluate(e, names, self.before) for e in claim.outcomes()]
        return self.decide(solver, z3.Not(z3.Or(*options)), claim.name, "one is possible", "progress")

    # Liveness: see ranking.py.

    def prove_stages(self, transition: Transition | None = None) -> list[Obligation]:
        """Stages and conforming invariants: against one transition, or what concerns single states."""
        if transition is None:
            return [self.prove_stage_claim(claim, None) for claim in ranking_claims.still_claims(self.spec)]
        results = []
        for claim in ranking_claims.step_claims(self.spec, transition):
            if ranking_claims.untouched(self.spec, claim, transition):
                results.append(Obligation(transition.name, claim.name, claim.kind, "proved", 0.0))
            else:
                results.append(self.prove_stage_claim(claim, transition))
        return results

    def prove_stage_claim(self, claim: ranking_claims.StageClaim, transition: Transition | None) -> Obligation:
        """One obligation of a stage, for all its individuals and all other parameters of the transition."""
        own = [Parameter(f"of {p.name}", p.type) for p in claim.parameters]
        bound = dict(claim.bound)
        free = [p for p in transition.parameters if p.name not in bound] if transition else []
        constants, individuals = self.individuals((*own, *free), 0)
        names = {p.name: constants[q.name] for p, q in zip(claim.parameters, own, strict=True)}
        arguments = {p.name: constants[p.name] for p in free}
        arguments |= {name: self.evaluate(e, names, self.before) for name, e in bound.items()}
        read: Reader = self.before
        guards = []
        if transition is not None:
            self.transition = transition.name
            read = self.after_reader(transition, arguments)
            guards = [self.evaluate(g.condition, arguments, self.before) for g in transition.guards]
        after: Memo = {}
        facts = guards + [
            self.evaluate(h, names, self.before, read, (self.memo(names), after)) for h in claim.hypotheses
        ]
        for known in claim.given:
            for chosen in self.tuples(known.parameters, individuals):
                local = names | chosen
                facts.append(self.evaluate(known.formula, local, self.before, read, (self.memo(local), {})))
        goal = self.evaluate(claim.goal, names, self.before, read, (self.memo(names), after))
        question = z3.And(*facts, z3.Not(goal))
        solver = self.prepared(individuals)
        return self.decide(solver, question, claim.transition or "liveness", claim.name, claim.kind)

    def memo(self, names: dict[str, z3.ExprRef]) -> Memo:
        """Terms of the state before with these names."""
        return self.known_terms.setdefault(tuple((name, x.get_id()) for name, x in names.items()), {})

    def prepared(self, individuals: Individuals) -> z3.Solver:
        """A solver that knows what is assumed of these individuals; kept, since many questions share it."""
        key = tuple(len(xs) for xs in individuals.values())
        if key not in self.known_solvers:
            self.known_solvers[key] = self.solver()
            self.known_solvers[key].add(*self.assumptions(individuals))
        return self.known_solvers[key]

    def prove_parts(self) -> list[Obligation]:
        """Side conditions of counters that count a part of what another counts, and of tilings."""
        found = [self.subset_holds(part, whole) for part, whole in self.spec.subsets]
        for tiling in self.spec.tilings.values():
            for claim in counting.tiling_premises(self.spec, tiling):
                names, individuals = self.individuals(claim.parameters, 0)
                solver = self.solver()
                solver.add(*self.assumptions(individuals))
                question = z3.Not(self.evaluate(claim.formula, names, self.before))
                found.append(self.decide(solver, question, f"count {tiling.counter}", claim.name, "count"))
        return found

    def subset_holds(self, part: str, whole: str) -> Obligation:
        """Side condition of a `part_of` declaration: whatever the part counts, the whole counts."""
        claim = counting.is_part(self.spec, part, whole)
        names, _ = self.individuals(claim.parameters, 0)
        solver = self.solver()
        solver.add(*self.constant_axioms())
        question = z3.Not(self.evaluate(claim.formula, names, self.before))
        return self.decide(solver, question, f"count {part}", claim.name, "count")


def failed(obligations: Sequence[Obligation]) -> list[Obligation]:
    """Those that were not proved."""
    return [o for o in obligations if not o.proved]


__all__ = ["Obligation", "Property", "Prover", "failed"]
