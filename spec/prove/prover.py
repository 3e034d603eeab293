"""The prover: every transition keeps every property, for any number of requests, blocks and steps (z3).

Induction over the transitions. For one transition and one property the question to z3 is: can there be a state in
which all invariants hold, the guards are true, and the property is false afterwards? `unsat` is a proof.
Invariants are universal formulas over sorts without functions between them; instantiating them with the individuals at
hand (parameters and the property's own) is complete, so z3 always answers.

Counters are proved by the delta rule, and give assumptions in return: see counting.py.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import z3

from ..language import counting, ranking_claims
from ..language.expressions import Expr, antecedents, parameters_read, variables_read
from ..language.labels import named
from ..language.progress import Progress, condition_of
from ..language.ranking import concerns
from ..language.spec import Choice, Parameter, Property, Spec, Transition
from .terms import Individuals, Memo, Reader, Terms


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


class Prover(Terms):
    """Turns a specification into obligations and has z3 discharge them. One instance holds one z3 context."""

    solver_name = f"z3 {z3.get_version_string()}"

    def __init__(self, spec: Spec, timeout_ms: int = 20_000) -> None:
        super().__init__(spec, timeout_ms)
        self.known_terms: dict[tuple[tuple[str, int], ...], Memo] = {}
        self.known_solvers: dict[tuple[int, ...], z3.Solver] = {}

    def decide(self, solver: z3.Solver, question: z3.BoolRef, subject: str, name: str, kind: str) -> Obligation:
        """Proved if the question has no model."""
        start = time.perf_counter()
        solver.push()
        self.assume(solver, [question])
        answer = solver.check()
        verdict = {"unsat": "proved", "sat": "FAILED"}.get(str(answer), "UNKNOWN")
        model = solver.model() if answer == z3.sat else None
        solver.pop()
        return Obligation(subject, name, kind, verdict, time.perf_counter() - start, model)

    def refute(self, goal: z3.BoolRef, parameters: Sequence[Parameter]) -> z3.BoolRef:
        """Some individuals, which exist, of whom the goal is false."""
        return z3.And(*self.exist(parameters), z3.Not(goal))

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
            self.assume(solver, self.constant_axioms())
            names, _ = self.individuals(claim.parameters, 0)
            question = z3.Not(self.evaluate(claim.formula, names, self.initial))
            results.append(self.decide(solver, question, "initial state", claim.name, kind))
        return results

    def prove_transition(self, transition: Transition) -> list[Obligation]:
        """One transition against every property, counter and weight; what it does not touch holds trivially."""
        self.transition = transition.name
        written = {e.variable.name for e in transition.effects}
        counts = [count for count in self.spec.counts.values() if count.reads & written]
        deltas = [counting.delta_rule(count, transition) for count in counts]
        extra = self.most([*self.spec.properties.values(), *deltas])
        names, individuals = self.individuals(transition.parameters, extra)
        solver = self.possible(transition, names, individuals)
        read = self.after_reader(transition, names)
        results = []
        for p in self.spec.properties.values():
            if p.kind != "action" and not variables_read(p.formula) & written:
                results.append(Obligation(transition.name, p.name, p.kind, "proved", 0.0))
                continue
            chosen = self.fresh(p.parameters, individuals, transition)
            if p.kind == "action":
                formula = self.evaluate(p.formula, chosen, self.before, read)
                if p.given is not None:
                    formula = z3.Implies(z3.And(*self.of_everybody(p.given, chosen, individuals)), formula)
            else:
                formula = self.evaluate(p.formula, chosen, read)
            results.append(self.decide(solver, self.refute(formula, p.parameters), transition.name, p.name, p.kind))
        for claim in deltas:
            chosen = names | self.fresh(claim.parameters, individuals, transition)
            question = self.refute(self.evaluate(claim.formula, chosen, self.before, read), claim.parameters)
            results.append(self.decide(solver, question, transition.name, claim.name, "count"))
        results.append(
            self.decide(solver, self.stutters(transition, names, read), transition.name, "no idle transition", "action")
        )
        return results

    def most(self, claims: Sequence[Property | counting.Claim]) -> dict[str, int]:
        """How many individuals of each sort any of the claims speaks of."""
        numbers = [Counter(p.type for p in claim.parameters) for claim in claims]
        return {sort: max((n[sort] for n in numbers), default=0) for sort in self.spec.sorts}

    def possible(self, transition: Transition, names: dict[str, z3.ExprRef], individuals: Individuals) -> z3.Solver:
        """A solver that knows that the transition may be taken, and what is assumed of these individuals."""
        solver = self.solver()
        self.assume(solver, [*self.exist(transition.parameters), *self.assumptions(individuals)])
        self.assume(solver, [self.evaluate(g.condition, names, self.before) for g in transition.guards])
        return solver

    def of_everybody(
        self, given: tuple[Parameter, Expr], names: dict[str, z3.ExprRef], individuals: Individuals
    ) -> list[z3.BoolRef]:
        """A fact about every individual of a sort, in the state before."""
        every, fact = given
        return [
            z3.Implies(self.inhabited[every.type], self.evaluate(fact, names | {every.name: x}, self.before))
            for x in individuals[every.type]
        ]

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
        """Whether some state that satisfies all invariants allows the transition; if none, proofs are empty.

        Of the sorts that it does not speak of there is nobody: a server without host pages is a server.
        """
        present = {p.type for p in transition.parameters if p.type in self.inhabited}
        names, individuals = self.individuals(transition.parameters, dict.fromkeys(present, 1))
        solver = self.possible(transition, names, individuals)
        start = time.perf_counter()
        for sort in [s for s in self.inhabited if s not in present and not self.spec.sorts[s].inhabited]:
            size = self.spec.size(sort)
            self.assume(solver, [z3.Not(self.inhabited[sort])])
            self.assume(solver, [self.constants[size] == 0] if size else [])
        verdict = {"sat": "possible", "unsat": "VACUOUS"}.get(str(solver.check()), "UNKNOWN")
        return Obligation(transition.name, "can be taken", "vacuity", verdict, time.perf_counter() - start)

    def vacuous_antecedents(self, p: Property) -> list[Obligation]:
        """Whether each antecedent of a property can hold in a state, or step, that satisfies all invariants."""
        found = []
        for condition in antecedents(p.formula):
            start = time.perf_counter()
            taken = self.steps_for(condition) if p.kind == "action" else [None]
            verdict = "possible" if any(self.can_hold(p, condition, t) for t in taken) else "VACUOUS"
            claim = f"can matter: {condition}"
            found.append(Obligation(p.name, claim, "antecedent", verdict, time.perf_counter() - start))
        return found

    def steps_for(self, condition: Expr) -> list[Transition]:
        """The transitions that may make a formula about a step true: those that it names, then all others."""
        every = list(self.spec.transitions.values())
        return sorted(every, key=lambda t: (t.name not in named(condition), not concerns(condition, t)))

    def can_hold(self, p: Property, condition: Expr, transition: Transition | None) -> bool:
        """Some state, and some step by the transition, has the property's antecedent."""
        parameters = transition.parameters if transition is not None else ()
        own = [Parameter(f"of {x.name}", x.type) for x in p.parameters]
        constants, individuals = self.individuals((*own, *parameters), 0)
        names = {x.name: constants[y.name] for x, y in zip(p.parameters, own, strict=True)}
        solver = self.solver()
        self.assume(solver, [*self.exist([*own, *parameters]), *self.assumptions(individuals)])
        read: Reader = self.before
        if transition is not None:
            self.transition = transition.name
            read = self.after_reader(transition, constants)
            self.assume(solver, [self.evaluate(g.condition, constants, self.before) for g in transition.guards])
        if p.given is not None:
            self.assume(solver, self.of_everybody(p.given, names, individuals))
        self.assume(solver, [self.evaluate(condition, names, self.before, read)])
        return bool(solver.check() == z3.sat)

    def prove_choice(self, choice: Choice) -> list[Obligation]:
        """Exactly one of the transitions is possible: no two at once, and never none."""
        names, individuals = self.individuals(choice.parameters, 0)
        solver = self.solver()
        self.assume(solver, [*self.exist(choice.parameters), *self.assumptions(individuals)])
        self.assume(solver, [self.evaluate(choice.when, names, self.before)])
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
        self.assume(solver, [*self.exist(claim.parameters), *self.assumptions(individuals)])
        self.assume(solver, [self.evaluate(e, names, self.before) for e in claim.conditions])
        self.assume(solver, self.witnessed(claim.witnesses, names))
        for given in claim.given:
            self.assume(solver, self.of_everybody(given, names, individuals))
        options = self.one_of(claim.outcomes(), claim.witnesses, names)
        return self.decide(solver, z3.Not(options), claim.name, "one is possible", "progress")

    def witnessed(self, witnesses: Sequence[tuple[Parameter, Expr]], names: dict[str, z3.ExprRef]) -> list[z3.BoolRef]:
        """What is known of the witnesses: the facts, and that whoever is found exists."""
        facts = []
        for witness, fact in witnesses:
            facts.append(self.evaluate(fact, names, self.before))
            if (found := condition_of(fact)) is not None:
                facts.append(z3.Implies(self.evaluate(found, names, self.before), self.inhabited[witness.type]))
        return facts

    def one_of(
        self,
        outcomes: Sequence[Expr],
        witnesses: Sequence[tuple[Parameter, Expr]],
        names: dict[str, z3.ExprRef],
        memos: Sequence[Memo] = (),
    ) -> z3.BoolRef:
        """One of the outcomes holds, of witnesses who exist."""
        sorts = {w.name: w for w, _ in witnesses}
        return z3.Or(
            z3.BoolVal(False, self.context),
            *[
                z3.And(
                    *self.exist([sorts[name] for name in sorted(parameters_read(e) & sorts.keys())]),
                    self.evaluate(e, names, self.before, None, memos),
                )
                for e in outcomes
            ],
        )

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
        own = [Parameter(f"of {p.name}", p.type) for p in claim.everybody]
        bound = dict(claim.bound)
        free = [p for p in transition.parameters if p.name not in bound] if transition else []
        constants, individuals = self.individuals((*own, *free), 0)
        names = {p.name: constants[q.name] for p, q in zip(claim.everybody, own, strict=True)}
        arguments = {p.name: constants[p.name] for p in free}
        arguments |= {name: self.evaluate(e, names, self.before) for name, e in bound.items()}
        read: Reader = self.before
        facts = [*self.exist([*claim.parameters, *free])]
        if transition is not None:
            self.transition = transition.name
            read = self.after_reader(transition, arguments)
            facts += [self.evaluate(g.condition, arguments, self.before) for g in transition.guards]
        memos: tuple[Memo, Memo] = (self.memo(names), {})
        facts += [self.evaluate(h, names, self.before, read, memos) for h in claim.hypotheses]
        facts += self.witnessed(claim.witnesses, names)
        for known in claim.given:
            exist = z3.And(z3.BoolVal(True, self.context), *self.exist(known.parameters))
            for chosen in self.tuples(known.parameters, individuals):
                local = names | chosen
                fact = self.evaluate(known.formula, local, self.before, read, (self.memo(local), {}))
                facts.append(z3.Implies(exist, fact))
        if claim.kind == "cover":
            goal = self.one_of(claim.outcomes, claim.witnesses, names, memos)
        else:
            goal = self.evaluate(claim.goal, names, self.before, read, memos)
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
            self.assume(self.known_solvers[key], self.assumptions(individuals))
        return self.known_solvers[key]

    def prove_parts(self) -> list[Obligation]:
        """Side conditions of counters that count a part of what another counts, and of tilings."""
        found = [self.subset_holds(part, whole) for part, whole in self.spec.subsets]
        for tiling in self.spec.tilings.values():
            for claim in counting.tiling_premises(self.spec, tiling):
                names, individuals = self.individuals(claim.parameters, 0)
                solver = self.solver()
                self.assume(solver, self.assumptions(individuals))
                question = self.refute(self.evaluate(claim.formula, names, self.before), claim.parameters)
                found.append(self.decide(solver, question, f"count {tiling.counter}", claim.name, "count"))
        return found

    def subset_holds(self, part: str, whole: str) -> Obligation:
        """Side condition of a `part_of` declaration: whatever the part counts, the whole counts."""
        claim = counting.is_part(self.spec, part, whole)
        names, _ = self.individuals(claim.parameters, 0)
        solver = self.solver()
        self.assume(solver, self.constant_axioms())
        question = z3.Not(self.evaluate(claim.formula, names, self.before))
        return self.decide(solver, question, f"count {part}", claim.name, "count")


def failed(obligations: Sequence[Obligation]) -> list[Obligation]:
    """Those that were not proved."""
    return [o for o in obligations if not o.proved]


__all__ = ["Obligation", "Property", "Prover", "failed"]
